//! HTTP/1.1 as somebody else reads it: heads and chunks by httparse, where a message ends by RFC 9112 section 6.3.

use httparse::{EMPTY_HEADER, Header, Request, Response, Status};

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `GET /path`, or a status.
    pub line: String,
    /// Names as they are written, and values.
    pub fields: Vec<(String, Vec<u8>)>,
    /// Its content.
    pub content: Vec<u8>,
    /// Such fields behind its content.
    pub trailers: Vec<(String, Vec<u8>)>,
}

const MOST_FIELDS: usize = 4096;

/// The requests of a stream, none of which leads out of HTTP.
///
/// # Errors
/// What isn't one, or isn't whole.
pub fn requests(text: &[u8]) -> Result<Vec<Message>, String> {
    let (messages, rest) = requests_begun(text)?;
    match rest {
        Some(what) => Err(Fault::Cut(what).into()),
        None => Ok(messages),
    }
}

/// The same, the last of which may have content that isn't whole, and isn't given then; what of it isn't there.
///
/// # Errors
/// What isn't one.
pub fn requests_begun(mut text: &[u8]) -> Result<(Vec<Message>, Option<&'static str>), String> {
    let mut messages = Vec::new();
    while !text.is_empty() {
        let mut fields = [EMPTY_HEADER; MOST_FIELDS];
        let mut request = Request::new(&mut fields);
        let head = whole(request.parse(text))?;
        let (method, path) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
        if request.version != Some(1) {
            return Err(format!("{method} {path}: another version"));
        }
        let line = format!("{method} {path}");
        let mut message = Message {
            line,
            fields: owned(request.headers),
            content: Vec::new(),
            trailers: Vec::new(),
        };
        text = &text[head..];
        let read = content(&mut message, &mut text);
        messages.push(message);
        match read {
            Err(Fault::Cut(what)) => return Ok((messages, Some(what))),
            read => read?,
        }
    }
    Ok((messages, None))
}

/// The final responses of a stream to requests none of which is HEAD or CONNECT.
///
/// # Errors
/// As above.
pub fn responses(mut text: &[u8]) -> Result<Vec<Message>, String> {
    let mut messages = Vec::new();
    while !text.is_empty() {
        let mut fields = [EMPTY_HEADER; MOST_FIELDS];
        let mut response = Response::new(&mut fields);
        let head = whole(response.parse(text))?;
        let status = response.code.unwrap_or(0);
        let mut message = Message {
            line: status.to_string(),
            fields: owned(response.headers),
            content: Vec::new(),
            trailers: Vec::new(),
        };
        text = &text[head..];
        match status {
            100..200 => continue,
            204 | 304 => {}
            _ => content(&mut message, &mut text)?,
        }
        messages.push(message);
    }
    Ok(messages)
}

fn whole(read: httparse::Result<usize>) -> Result<usize, String> {
    match read {
        Ok(Status::Complete(bytes)) => Ok(bytes),
        Ok(Status::Partial) => Err("a head is cut".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn owned(fields: &[Header<'_>]) -> Vec<(String, Vec<u8>)> {
    let fields = fields.iter();
    fields
        .map(|field| (field.name.to_owned(), field.value.to_vec()))
        .collect()
}

/// Why content can't be read.
enum Fault {
    /// There is more to come.
    Cut(&'static str),
    Bad(&'static str),
}

impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Cut(what) => format!("{what} is cut"),
            Fault::Bad(what) => what.into(),
        }
    }
}

/// Takes the content behind a head off the stream, and what is behind it.
fn content(message: &mut Message, text: &mut &[u8]) -> Result<(), Fault> {
    let of = |name: &str| {
        let fields = message.fields.iter();
        let values = fields.filter(|(other, _)| other.eq_ignore_ascii_case(name));
        values.map(|(_, value)| &value[..]).collect::<Vec<_>>()
    };
    match (&of("content-length")[..], &of("transfer-encoding")[..]) {
        ([], []) => {}
        ([length], []) => {
            let length = std::str::from_utf8(length).ok();
            let length = length.and_then(|length| length.parse().ok());
            let length = length.ok_or(Fault::Bad("a length that is none"))?;
            message.content = take(length, text)?;
        }
        ([], [b"chunked"]) => chunked(message, text)?,
        _ => return Err(Fault::Bad("more than one length")),
    }
    Ok(())
}

/// RFC 9112 section 7.1, with its trailers.
fn chunked(message: &mut Message, text: &mut &[u8]) -> Result<(), Fault> {
    let mut content = Vec::new();
    loop {
        let (head, length) = match httparse::parse_chunk_size(text) {
            Ok(Status::Complete(read)) => read,
            Ok(Status::Partial) => return Err(Fault::Cut("a chunk's head")),
            Err(_) => return Err(Fault::Bad("no chunk's head")),
        };
        *text = &text[head..];
        if length == 0 {
            let mut fields = [EMPTY_HEADER; MOST_FIELDS];
            let (length, trailers) = match httparse::parse_headers(text, &mut fields) {
                Ok(Status::Complete(read)) => read,
                Ok(Status::Partial) => return Err(Fault::Cut("what is behind the chunks")),
                Err(_) => return Err(Fault::Bad("no end behind the chunks")),
            };
            *text = &text[length..];
            (message.content, message.trailers) = (content, owned(trailers));
            return Ok(());
        }
        let length = usize::try_from(length).map_err(|_| Fault::Bad("a chunk's length"))?;
        content.extend(take(length, text)?);
        if take(2, text)? != b"\r\n" {
            return Err(Fault::Bad("a chunk that doesn't end"));
        }
    }
}

fn take(bytes: usize, text: &mut &[u8]) -> Result<Vec<u8>, Fault> {
    let (taken, rest) = text.split_at_checked(bytes).ok_or(Fault::Cut("content"))?;
    *text = rest;
    Ok(taken.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nGET\r\n0\r\nx: y\r\n\r\nGET /b HTTP/1.1\r\n\r\n";

    #[test]
    fn messages_end_where_they_end() {
        let read = requests(TWO).unwrap();
        let read = read.iter().map(|one| (one.line.as_str(), &one.content[..]));
        assert_eq!(
            read.collect::<Vec<_>>(),
            [("POST /a", &b"GET"[..]), ("GET /b", b"")]
        );
        let trailers = &requests(TWO).unwrap()[0].trailers;
        assert_eq!(*trailers, [("x".to_owned(), b"y".to_vec())]);
        let read = responses(
            b"HTTP/1.1 103 \r\nLink: x\r\n\r\nHTTP/1.1 304 \r\nContent-Length: 9\r\n\r\n\
            HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        );
        let read: Vec<_> = read.unwrap().into_iter().map(|one| one.line).collect();
        assert_eq!(read, ["304", "200"]);
    }

    #[test]
    fn what_is_none_is_none() {
        for text in [
            &TWO[..TWO.len() - 2],
            b"GET / HTTP/1.1 HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
            b"GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\nx",
        ] {
            assert!(requests(text).is_err(), "{}", text.escape_ascii());
        }
    }
}
