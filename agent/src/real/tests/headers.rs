//! The PROXY protocol.

use super::*;

#[test]
fn a_proxy_header_is_taken_out() {
    let v4 = [203, 0, 113, 7, 10, 0, 0, 2, 0xdc, 4, 1, 0xbb];
    let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &v4].concat();
    let v1 = b"PROXY TCP4 203.0.113.7 10.0.0.2 56324 443\r\n".to_vec();
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    let unknown = b"PROXY UNKNOWN\r\n".to_vec();
    for (header, client) in [
        (v2, "203.0.113.7:56324"),
        (v1, "203.0.113.7:56324"),
        (local, "10.0.0.1:40000"),
        (unknown, "10.0.0.1:40000"),
    ] {
        let text = [&header[..], b"EHLO x\r\n"].concat();
        for piece in [1, 5, text.len()] {
            let mut stage = Stage::new(Way::ProxyProtocol);
            text.chunks(piece)
                .for_each(|piece| stage.says(Client, piece));
            stage.says(Server, b"250 x\r\n");
            // Later ones are text.
            stage.says(Client, &header);
            stage.end();
            let again = String::from_utf8_lossy(&header).into_owned();
            let said = format!("EHLO x\r\n{again}");
            assert_eq!(stage.seen.all(), [flow(client, &said, "250 x\r\n")]);
            let real = stage.seen.flows[&1].info.real_client.unwrap();
            assert_eq!(real.header_bytes as usize, header.len());
            assert_eq!(stage.clients.stats().header_bytes, header.len() as u64);
        }
    }
}

#[test]
fn without_a_proxy_header_nothing_is_taken_out() {
    for text in ["GET / HTTP/1.1\r\n\r\n", "PROXY TCP9 a\r\n", "PROX"] {
        let mut stage = Stage::new(Way::ProxyProtocol);
        stage.says(Client, text.as_bytes());
        stage.end();
        assert_eq!(stage.seen.all(), [flow("10.0.0.1:40000", text, "")]);
        assert_eq!(stage.clients.stats().headerless, 1);
    }
    let mut stage = Stage::new(Way::ProxyProtocol);
    stage.says(Server, b"220 x\r\n");
    stage.says(Client, b"PROXY TCP4 203.0.113.7 10.0.0.2 56324 443\r\n");
    assert_eq!(stage.seen.clients(), ["10.0.0.1:40000"]);
}
