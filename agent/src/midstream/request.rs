//! What the head of an HTTP/1 request looks like.

/// Whether it begins with a whole request line (RFC 9112 section 3). Parts of anything else hardly ever do.
pub(super) fn begins_request(bytes: &[u8]) -> bool {
    let Some(line) = bytes.split(|byte| *byte == b'\n').next() else {
        return false;
    };
    // The line's end has to be there.
    if line.len() == bytes.len() {
        return false;
    }
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else {
        return false;
    };
    let is_method = |byte: &u8| byte.is_ascii_uppercase() || *byte == b'-';
    !method.is_empty()
        && method.iter().all(is_method)
        && !target.is_empty()
        && target.iter().all(u8::is_ascii_graphic)
        && [&b"HTTP/1.1"[..], b"HTTP/1.0"].contains(&version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_request_lines() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "M-SEARCH * HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST http://a/b?c=%20 HTTP/1.0\nrest",
        ] {
            assert!(begins_request(line.as_bytes()), "{line}");
        }
        for line in [
            "",
            "\r\n",
            "GET / HTTP/1.1",
            "get / HTTP/1.1\r\n",
            "GET  / HTTP/1.1\r\n",
            "GET / HTTP/2.0\r\n",
            "T /index.html\r\n",
            " / HTTP/1.1\r\n",
            "HTTP/1.1 200 OK\r\n",
            "X-Forwarded-For: a\r\n",
            "EHLO a\r\n",
            "GET /\u{7f} HTTP/1.1\r\n",
        ] {
            assert!(!begins_request(line.as_bytes()), "{line}");
        }
    }
}
