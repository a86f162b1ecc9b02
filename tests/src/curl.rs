//! curl: what it is to transfer, as a shell script, and what it says and stores of each transfer itself.

use std::fmt::Write;
use std::fs;
use std::net::IpAddr;

use crate::place::{HOST, Place, content};

/// Version of TLS that curl is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// 1.2
    V1_2,
    /// 1.3
    V1_3,
}

/// What is sent with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upload {
    /// Nothing: GET.
    None,
    /// POST with a body of this size.
    Post(usize),
    /// PUT of this size, in chunks: its length isn't told in advance.
    ChunkedPut(usize),
}

/// One run of curl, on one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Names its files.
    pub name: String,
    /// Path and query. With `repeat`, the query is the request's number.
    pub url: String,
    /// What is sent.
    pub upload: Upload,
    /// So many requests one after another on the same connection.
    pub repeat: usize,
    /// The client goes away after so many bytes of body.
    pub abort_after: Option<usize>,
}

/// One request and its response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Method.
    pub method: &'static str,
    /// Path and query.
    pub url: String,
    /// Status that curl saw.
    pub status: u64,
    /// Body of the request.
    pub sent: Vec<u8>,
    /// Body of the response, as the server framed it.
    pub received: Vec<u8>,
}

/// What curl says of a connection.
#[derive(Clone, Debug)]
pub struct Truth {
    /// The port that it connected from.
    pub port: u16,
    /// All that it sent; `None` where it doesn't tell the framing (chunks).
    pub request: Option<Vec<u8>>,
    /// Heads of its requests only.
    pub request_heads: Vec<u8>,
    /// All that it received.
    pub response: Vec<u8>,
    /// Its transactions.
    pub transactions: Vec<Transaction>,
}

impl Transfer {
    /// A GET.
    pub fn get(location: &str, size: usize) -> Self {
        Self {
            name: format!("{location}-{size}"),
            url: format!("/{location}/{size}"),
            upload: Upload::None,
            repeat: 1,
            abort_after: None,
        }
    }

    /// A POST, of which nginx stores the body.
    pub fn post(size: usize) -> Self {
        Self {
            upload: Upload::Post(size),
            ..Self::get("post", size)
        }
    }

    /// A PUT in chunks, which nginx stores.
    pub fn chunked_put(size: usize) -> Self {
        Self {
            upload: Upload::ChunkedPut(size),
            ..Self::get("put", size)
        }
    }

    /// Many GETs on one connection.
    pub fn many(size: usize, repeat: usize) -> Self {
        Self {
            name: format!("many-{size}"),
            repeat,
            ..Self::get("get", size)
        }
    }

    /// A GET whose client goes away in the middle of the body.
    pub fn abort(size: usize, after: usize) -> Self {
        Self {
            name: format!("abort-{size}"),
            abort_after: Some(after),
            ..Self::get("get", size)
        }
    }

    /// The method.
    pub fn method(&self) -> &'static str {
        match self.upload {
            Upload::None => "GET",
            Upload::Post(_) => "POST",
            Upload::ChunkedPut(_) => "PUT",
        }
    }

    /// The shell's words for it, in clear without a version of TLS. A transfer that fails ends the script with status 9.
    pub fn script(
        &self,
        place: &Place,
        server: (IpAddr, u16),
        tls: impl Into<Option<Tls>>,
    ) -> String {
        let (tls, (address, port)) = (tls.into(), server);
        let out = place.path("out").join(&self.name);
        let out = out.display();
        let www = place.path("www");
        let mut words = String::from("curl -q -sS -k -v --http1.1 --raw --noproxy '*'");
        words += match tls {
            Some(Tls::V1_2) => " --tlsv1.2 --tls-max 1.2",
            Some(Tls::V1_3) => " --tlsv1.3",
            None => "",
        };
        let address = match address {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let _ = write!(words, " --resolve {HOST}:{port}:{address}");
        let _ = write!(
            words,
            " -D {out}.head -w '%{{local_port}} %{{http_code}}\\n'"
        );
        match self.upload {
            Upload::None => {}
            Upload::Post(size) => {
                let _ = write!(words, " --data-binary @{}/{size}", www.display());
                words += " -H 'Content-Type: application/octet-stream'";
            }
            Upload::ChunkedPut(_) => words += " -T -",
        }
        let input = match self.upload {
            Upload::ChunkedPut(size) => format!(" <{}/{size}", www.display()),
            _ => String::new(),
        };
        let query = match self.repeat {
            1 => String::new(),
            count => format!("?[1-{count}]"),
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("'{scheme}://{HOST}:{port}{}{query}'", self.url);
        match self.abort_after {
            // The reader's end makes curl fail: that is the transfer's purpose.
            Some(after) => {
                format!("{words} {url} 2>{out}.said | head -c {after} >{out}.body1\n")
            }
            None => {
                let number = if self.repeat == 1 { "1" } else { "#1" };
                format!(
                    "{words} -o '{out}.body{number}' {url}{input} 2>{out}.said >{out}.info || exit 9\n"
                )
            }
        }
    }

    /// What curl said and stored, for a transfer that it finished.
    ///
    /// # Panics
    /// If a file is missing, or curl received another body than the server has.
    pub fn truth(&self, place: &Place) -> Truth {
        let said = place.text(&format!("out/{}.said", self.name));
        let info = place.text(&format!("out/{}.info", self.name));
        let heads = heads(&place.read(&format!("out/{}.head", self.name)));
        let request_heads = request_heads(&said);
        let sent = match self.upload {
            Upload::None => Vec::new(),
            Upload::Post(size) | Upload::ChunkedPut(size) => content(size),
        };
        let mut transactions = Vec::new();
        let mut response = Vec::new();
        let mut heads = heads.into_iter();
        for (index, line) in info.lines().enumerate() {
            let (_, status) = line.split_once(' ').expect("curl's -w");
            // A body that is empty may have no file.
            let file = place.path(&format!("out/{}.body{}", self.name, index + 1));
            let received = fs::read(file).unwrap_or_default();
            let interim = |head: &Vec<u8>| head.starts_with(b"HTTP/1.1 1");
            for head in heads.by_ref() {
                response.extend(&head);
                if !interim(&head) {
                    break;
                }
            }
            response.extend(&received);
            transactions.push(Transaction {
                method: self.method(),
                url: match self.repeat {
                    1 => self.url.clone(),
                    _ => format!("{}?{}", self.url, index + 1),
                },
                status: status.parse().expect("curl's status"),
                sent: sent.clone(),
                received,
            });
        }
        assert_eq!(transactions.len(), self.repeat, "{}: {info}", self.name);
        let ports: Vec<_> = info.lines().map(|line| line.split(' ').next()).collect();
        assert!(ports.iter().all(|port| *port == ports[0]), "one connection");
        let port = ports[0].and_then(|port| port.parse().ok());
        let request = match self.upload {
            Upload::None | Upload::Post(_) => Some([&request_heads[..], &sent].concat()),
            Upload::ChunkedPut(_) => None,
        };
        Truth {
            port: port.expect("curl's port"),
            request,
            request_heads,
            response,
            transactions,
        }
    }

    /// Head of the response of a transfer that was given up.
    ///
    /// # Panics
    /// If there is none.
    pub fn response_head(&self, place: &Place) -> Vec<u8> {
        place.read(&format!("out/{}.head", self.name))
    }

    /// Head of the request of a transfer that was given up.
    pub fn request_head(&self, place: &Place) -> Vec<u8> {
        request_heads(&place.text(&format!("out/{}.said", self.name)))
    }
}

/// Size of the file or body that a URL names.
///
/// # Panics
/// If it names none.
pub fn size_of(url: &str) -> usize {
    let path = url.split('?').next();
    let name = path.and_then(|path| path.rsplit('/').next());
    let size = name.and_then(|name| name.parse().ok());
    size.expect("a size")
}

/// Takes the body out of chunks (RFC 9112 7.1); `None` if they aren't whole.
pub fn dechunk(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|pair| pair == b"\r\n")?;
        let size = std::str::from_utf8(&chunks[..end]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        let chunk = chunks.get(end + 2..end + 2 + size)?;
        let rest = chunks.get(end + 2 + size..)?.strip_prefix(b"\r\n")?;
        if size == 0 {
            return rest.is_empty().then_some(body);
        }
        body.extend(chunk);
        chunks = rest;
    }
}

/// The heads in curl's `-D` file, each with its empty line.
fn heads(text: &[u8]) -> Vec<Vec<u8>> {
    let mut heads = Vec::new();
    let mut begin = 0;
    for end in 4..=text.len() {
        if text[..end].ends_with(b"\r\n\r\n") && end - begin >= 4 {
            heads.push(text[begin..end].to_vec());
            begin = end;
        }
    }
    heads
}

/// What curl's `-v` shows of the requests it sent: lines that begin with "> ".
fn request_heads(said: &str) -> Vec<u8> {
    said.split_inclusive('\n')
        .filter_map(|line| line.strip_prefix("> "))
        .flat_map(str::bytes)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks() {
        assert_eq!(
            dechunk(b"3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n"),
            Some(b"abc0123456789".to_vec())
        );
        assert_eq!(dechunk(b"0\r\n\r\n"), Some(Vec::new()));
        for bad in [
            &b"3\r\nabc\r\n"[..],
            b"3\r\nab\r\n0\r\n\r\n",
            b"0\r\n\r\nx",
            b"",
        ] {
            assert_eq!(dechunk(bad), None);
        }
    }

    #[test]
    fn what_curl_says() {
        let said = "* Trying\n> GET / HTTP/1.1\r\n> Host: x\r\n> \r\n< HTTP/1.1 200 OK\r\n";
        assert_eq!(request_heads(said), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\n";
        assert_eq!(heads(text).len(), 2);
    }
}
