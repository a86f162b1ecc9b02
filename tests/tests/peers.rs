//! The peers among themselves, without any mirror: what the other tests take for the truth is checked
//! here against each other first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use mirror_tests::curl::{Tls, Transfer, dechunk};
use mirror_tests::nginx::Nginx;
use mirror_tests::place::{Place, content};
use mirror_tests::process::output_of;

#[test]
fn curl_and_nginx_say_the_same() {
    let place = Place::new(&[0, 1, 16_385, 1 << 20, 20 << 20]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let transfers = [
        Transfer::get("get", 0),
        Transfer::get("get", 16_385),
        Transfer::get("chunked", 1 << 20),
        Transfer::get("close", 1),
        Transfer::post(0),
        Transfer::post(16_385),
        Transfer::post(20 << 20),
        Transfer::chunked_put(1 << 20),
        Transfer::many(1, 20),
        Transfer::abort(20 << 20, 100_000),
    ];
    let ends: [(IpAddr, Tls); 2] = [
        (Ipv4Addr::LOCALHOST.into(), Tls::V1_2),
        (Ipv6Addr::LOCALHOST.into(), Tls::V1_3),
    ];
    let mut expected = 0;
    for (address, tls) in ends {
        for transfer in &transfers {
            let script = transfer.script(&place, (address, nginx.port), tls);
            output_of(Command::new("sh").arg("-c").arg(script));
            expected += transfer.repeat;
        }
    }
    nginx.quit();
    let log = nginx.log();
    assert_eq!(log.len(), expected);
    // What is stored is of the second round. A port may be the same in both: they differ in the address.
    let log = &log[expected / 2..];
    for transfer in transfers
        .iter()
        .filter(|transfer| transfer.abort_after.is_none())
    {
        let truth = transfer.truth(&place);
        let lines: Vec<_> = log.iter().filter(|line| line.port == truth.port).collect();
        let name = &transfer.name;
        assert_eq!(lines.len(), truth.transactions.len(), "{name}");
        for (line, transaction) in lines.iter().zip(&truth.transactions) {
            assert_eq!(line.url, transaction.url, "{name}");
            assert_eq!(line.status, transaction.status, "{name}");
            assert!(line.completed, "{name}");
            if name.starts_with("get") {
                assert_eq!(transaction.received.len().to_string(), transfer.url[5..]);
            }
            if name.starts_with("chunked") {
                assert_eq!(dechunk(&transaction.received), Some(content(1 << 20)));
            }
            if line.method == "POST" && !transaction.sent.is_empty() {
                assert_eq!(std::fs::read(&line.body_file).unwrap(), transaction.sent);
            }
        }
        let sent: u64 = lines.iter().map(|line| line.bytes_sent).sum();
        assert_eq!(sent, truth.response.len() as u64, "{name}");
        if let Some(request) = &truth.request {
            let received: u64 = lines.iter().map(|line| line.request_length).sum();
            assert_eq!(received, request.len() as u64, "{name}");
        }
    }
    assert_eq!(place.read("put/1048576"), content(1 << 20));
}
