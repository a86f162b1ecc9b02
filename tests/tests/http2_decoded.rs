//! HTTP/2 whose content is coded, shown as HTTP/1.1 without: curl takes what nginx compresses as it comes, and Suricata sees the
//! file that it was made of.

use std::process::Command;

use mirror_tests::examples::{judge, sha256};
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::{HOST, Place, content};
use mirror_tests::process::run;
use mirror_tests::sslcollector::run_to;

/// Of the file that is asked for.
const SIZE: usize = 60_000;

#[test]
fn curl_and_nginx() {
    let place = Place::new(&[SIZE]);
    let options = Options {
        http2: true,
        ..Options::default()
    };
    let nginx = Nginx::with(&place, options);
    nginx.start();
    let file = |name: &str| place.path(name).display().to_string();
    let url = format!("https://{HOST}:{}/gzip/{SIZE}", nginx.port);
    let resolve = format!("{HOST}:{}:127.0.0.1", nginx.port);
    let mut mirror: Command = run_to(&place.path("capture.pcapng"), &["--http1", "--decompress"]);
    mirror.args(["curl", "-q", "-sS", "--http2", "--noproxy", "*", "--cacert"]);
    mirror.args([&file("cert.pem"), "--resolve", &resolve]);
    mirror.args(["-H", "Accept-Encoding: gzip", "-D", &file("head")]);
    mirror.args(["-o", &file("out/coded"), &url]);
    let output = run(&mut mirror);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    nginx.quit();
    assert!(place.text("head").contains("content-encoding: gzip"));
    assert!(place.read("out/coded").starts_with(&[0x1f, 0x8b]));

    let (flows, verdict) = judge(&place);
    let [flow] = &flows[..] else {
        panic!("{} flows: {said}", flows.len());
    };
    let response = String::from_utf8_lossy(flow.response.whole().expect("no hole"));
    assert!(
        response.contains("\r\nX-Decoded-Content-Encoding: gzip\r\n"),
        "{response}"
    );
    assert!(!response.contains("\r\nContent-Encoding"), "{response}");
    let plain = place.path(&format!("www/{SIZE}"));
    assert!(place.read(&format!("www/{SIZE}")) == content(SIZE));
    let [seen] = &verdict.files[..] else {
        panic!("{} files", verdict.files.len());
    };
    assert!(seen.sha256 == sha256(&plain) && !seen.gaps);
    assert!(
        said.contains("1 message of HTTP/2 shown with its content decoded"),
        "{said}"
    );
}
