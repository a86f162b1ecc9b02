//! Heads of HTTP/1.1 messages, as far as they say whose they are and where they end.

use httparse::{EMPTY_HEADER, Header, Status};

use super::body::Framing;
use super::claim::{Claim, Policy};
use super::stats::Stop;

/// Longest head that is waited for.
pub(crate) const MAX_HEAD_BYTES: usize = 64 << 10;

/// The head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestHead {
    /// Whose it is.
    pub(super) claim: Claim,
    /// What follows it.
    pub(super) framing: Framing,
    /// What it asks for.
    pub(super) method: Method,
}

/// What the answer's end depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// Its answer has no body.
    Head,
    /// What follows a positive answer is no HTTP.
    Connect,
    /// Any other.
    Other,
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseHead {
    /// Another follows.
    Interim,
    /// What follows is no HTTP/1.1 any more.
    Switches,
    /// A body, or none.
    Final(Framing),
}

/// Looks for a head's end, at each byte once however small the pieces are in which it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HeadEnd {
    /// So many bytes were looked at.
    seen: usize,
    /// Those of empty lines in front, which are ignored (RFC 9112 section 2.2).
    blank: usize,
}

impl HeadEnd {
    /// Where the head ends that `bytes` begin with. They begin with those of the last time.
    pub(crate) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.is_blank() {
            let fresh = bytes[self.seen..].iter();
            self.blank += fresh.take_while(|byte| b"\r\n".contains(byte)).count();
        }
        // What ends it may have begun before.
        let from = self.seen.saturating_sub(2).max(self.blank);
        self.seen = bytes.len();
        memchr::memchr_iter(b'\n', &bytes[from..]).find_map(|at| match &bytes[from + at + 1..] {
            [b'\n', ..] => Some(from + at + 2),
            [b'\r', b'\n', ..] => Some(from + at + 3),
            _ => None,
        })
    }

    /// Nothing but empty lines has come.
    pub(crate) fn is_blank(self) -> bool {
        self.blank == self.seen
    }
}

/// Room for the fields of a head: it has no more of them than lines.
pub(crate) fn room(head: &[u8]) -> Vec<Header<'_>> {
    vec![EMPTY_HEADER; memchr::memchr_iter(b'\n', head).count() + 1]
}

/// Whether this may be the beginning of a request; asked of a first piece.
pub(crate) fn may_be_request(bytes: &[u8]) -> bool {
    let mut fields = room(bytes);
    httparse::Request::new(&mut fields).parse(bytes).is_ok()
}

/// Reads the head of a request, from its first byte to its last.
pub(super) fn request(bytes: &[u8], policy: &Policy) -> Result<RequestHead, Stop> {
    let claims =
        |fields: &[Header<'_>]| policy.claim(fields.iter().map(|field| (field.name, field.value)));
    let (framing, method, claim) = request_with(bytes, claims)?;
    Ok(RequestHead {
        claim,
        framing,
        method,
    })
}

/// The same, and what `read` finds in its fields.
pub(crate) fn request_with<T>(
    bytes: &[u8],
    read: impl FnOnce(&[Header<'_>]) -> T,
) -> Result<(Framing, Method, T), Stop> {
    let mut fields = room(bytes);
    let mut request = httparse::Request::new(&mut fields);
    if bytes.trim_ascii_start().starts_with(b"PRI * HTTP/2.0") {
        return Err(Stop::Http2); // RFC 9113 section 3.4
    }
    match request.parse(bytes) {
        Ok(Status::Complete(length)) if length == bytes.len() => {}
        _ => return Err(Stop::NotHttp),
    }
    let framing = match framing(request.headers)? {
        // Without either there is no body (RFC 9112 section 6.3, 7).
        None => Framing::Length(0),
        // HTTP/1.0 has none (section 6.1).
        Some(Framing::Chunked) if request.version == Some(0) => return Err(Stop::Framing),
        Some(framing) => framing,
    };
    let method = match request.method {
        Some("HEAD") => Method::Head,
        Some("CONNECT") => Method::Connect,
        _ => Method::Other,
    };
    Ok((framing, method, read(request.headers)))
}

/// Reads the head of an answer to a request of this method.
pub(crate) fn response(bytes: &[u8], method: Method) -> Result<ResponseHead, Stop> {
    let mut fields = room(bytes);
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(Status::Complete(length)) if length == bytes.len() => {}
        _ => return Err(Stop::Answer),
    }
    // RFC 9112 section 6.3, 1 and 2
    match (response.code, method) {
        (Some(101), _) | (Some(200..=299), Method::Connect) => return Ok(ResponseHead::Switches),
        (Some(100..=199), _) => return Ok(ResponseHead::Interim),
        (Some(204 | 304), _) | (_, Method::Head) => {
            return Ok(ResponseHead::Final(Framing::Length(0)));
        }
        _ => {}
    }
    let framing = framing(response.headers).map_err(|_| Stop::Answer)?;
    match framing {
        Some(Framing::Chunked) if response.version == Some(0) => Err(Stop::Answer),
        framing => Ok(ResponseHead::Final(framing.unwrap_or(Framing::UntilClose))),
    }
}

/// RFC 9112 section 6.3. What two receivers may read in two ways is an error.
fn framing(fields: &[Header<'_>]) -> Result<Option<Framing>, Stop> {
    let mut framing = None;
    for field in fields {
        let value = field.value.trim_ascii();
        let found = if field.name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Stop::Framing);
            }
            Framing::Chunked
        } else if field.name.eq_ignore_ascii_case("content-length") {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(value).ok().filter(|_| digits);
            let length = text.and_then(|text| text.parse().ok());
            Framing::Length(length.ok_or(Stop::Framing)?)
        } else {
            continue;
        };
        if framing.replace(found).is_some() {
            return Err(Stop::Framing);
        }
    }
    Ok(framing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::real::Way;

    fn read(head: &str) -> Result<RequestHead, Stop> {
        let policy = Policy {
            way: Way::Xff,
            trusted: Vec::new(),
        };
        let end = HeadEnd::default().find(head.as_bytes());
        assert_eq!(end, Some(head.len()), "{head}");
        request(head.as_bytes(), &policy)
    }

    #[test]
    fn where_a_head_ends() {
        let end = |bytes: &[u8]| HeadEnd::default().find(bytes);
        assert_eq!(end(b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest"), Some(24));
        assert_eq!(end(b"\r\nGET / HTTP/1.1\r\n\r\n"), Some(20));
        assert_eq!(end(b"GET / HTTP/1.1\n\nrest"), Some(16));
        assert_eq!(end(b"GET / HTTP/1.1\r\nA: b\r\n\r"), None);
        assert_eq!(end(b"\r\n\r\n"), None);
        let head = b"\r\n\nGET / HTTP/1.1\r\nA: b\r\n\r\n";
        for first in 0..head.len() {
            for second in first..head.len() {
                let mut search = HeadEnd::default();
                assert_eq!(search.find(&head[..first]), None);
                assert_eq!(search.find(&head[..second]), None);
                assert_eq!(search.find(head), Some(head.len()), "{first} {second}");
            }
        }
    }

    #[test]
    fn what_follows_a_request() {
        let framing = |fields: &str| read(&format!("POST / HTTP/1.1\r\n{fields}\r\n"));
        let told = |fields| framing(fields).map(|head| head.framing);
        assert_eq!(told(""), Ok(Framing::Length(0)));
        assert_eq!(told("content-length: 12\r\n"), Ok(Framing::Length(12)));
        assert_eq!(told("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        for ambiguous in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: \r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
        ] {
            assert_eq!(told(ambiguous), Err(Stop::Framing), "{ambiguous}");
        }
        let old = read("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert_eq!(old, Err(Stop::Framing));
        assert_eq!(read("PRI * HTTP/2.0\r\n\r\n"), Err(Stop::Http2));
        assert_eq!(read("no head\r\n\r\n"), Err(Stop::NotHttp));
        assert_eq!(
            read("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n"),
            Err(Stop::NotHttp)
        );
        // Who sends many must not hide by it whose they are.
        let many = "A: b\r\n".repeat(5000);
        let many = read(&format!(
            "GET / HTTP/1.1\r\n{many}X-Forwarded-For: 192.0.2.7\r\n\r\n"
        ));
        assert!(matches!(many.unwrap().claim, Claim::Told(..)));
    }

    #[test]
    fn what_follows_an_answer() {
        let read = |head: &str, method| response(format!("HTTP/1.1 {head}\r\n").as_bytes(), method);
        let length = |length| Ok(ResponseHead::Final(Framing::Length(length)));
        let other = Method::Other;
        assert_eq!(read("200 OK\r\nContent-Length: 7\r\n", other), length(7));
        assert_eq!(
            read("200 OK\r\nContent-Length: 7\r\n", Method::Head),
            length(0)
        );
        assert_eq!(
            read("304 Not Modified\r\nContent-Length: 7\r\n", other),
            length(0)
        );
        assert_eq!(read("204 No Content\r\n", other), length(0));
        assert_eq!(read("100 Continue\r\n", other), Ok(ResponseHead::Interim));
        assert_eq!(read("101 Switching\r\n", other), Ok(ResponseHead::Switches));
        assert_eq!(
            read("200 OK\r\n", Method::Connect),
            Ok(ResponseHead::Switches)
        );
        assert_eq!(
            read("407 No\r\nContent-Length: 7\r\n", Method::Connect),
            length(7)
        );
        let until_close = Ok(ResponseHead::Final(Framing::UntilClose));
        assert_eq!(read("200 OK\r\n", other), until_close);
        let chunked = Ok(ResponseHead::Final(Framing::Chunked));
        assert_eq!(
            read("200 OK\r\nTransfer-Encoding: chunked\r\n", other),
            chunked
        );
        let both = "200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 7\r\n";
        assert_eq!(read(both, other), Err(Stop::Answer));
        assert_eq!(response(b"ICY 200 OK\r\n\r\n", other), Err(Stop::Answer));
    }
}
