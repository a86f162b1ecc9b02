//! HTTP/2 whose content is coded, shown as HTTP/1.1 without: curl takes what nginx has as it comes, and Suricata sees the
//! file that it was made of.

use std::fs;
use std::process::Command;

use mirror_tests::examples::{judge, sha256};
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::{HOST, Place};
use mirror_tests::process::{output_of, run};
use mirror_tests::sslcollector::run_to;

/// Of the file that is asked for.
const SIZE: usize = 60_000;

/// With a file that compresses well, and not like zeros.
fn place() -> Place {
    let place = Place::new(&[SIZE]);
    let words = (0..).map(|number: u32| format!("<p>{}</p>\n", number.wrapping_mul(number) % 977));
    let text: String = words.take(SIZE / 9).collect();
    fs::write(place.path(&format!("www/{SIZE}")), text).expect("the file");
    place
}

/// Asks for `path`, whose content comes in this coding.
fn is_shown_decoded(place: &Place, coding: &str, path: &str) {
    let options = Options {
        http2: true,
        ..Options::default()
    };
    let nginx = Nginx::with(place, options);
    nginx.start();
    let file = |name: &str| place.path(name).display().to_string();
    let url = format!("https://{HOST}:{}/{path}", nginx.port);
    let resolve = format!("{HOST}:{}:127.0.0.1", nginx.port);
    let mut mirror: Command = run_to(&place.path("capture.pcapng"), &["--http1", "--decompress"]);
    mirror.args(["curl", "-q", "-sS", "--http2", "--noproxy", "*", "--cacert"]);
    mirror.args([&file("cert.pem"), "--resolve", &resolve]);
    mirror.args([
        "-H",
        &format!("Accept-Encoding: {coding}"),
        "-D",
        &file("head"),
    ]);
    mirror.args(["-o", &file("out/coded"), &url]);
    let output = run(&mut mirror);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    nginx.quit();
    let head = place.text("head");
    assert!(
        head.contains(&format!("content-encoding: {coding}")),
        "{head}"
    );
    let plain = place.path(&format!("www/{SIZE}"));
    assert!(sha256(&place.path("out/coded")) != sha256(&plain));

    let (flows, verdict) = judge(place);
    let [flow] = &flows[..] else {
        panic!("{} flows: {said}", flows.len());
    };
    let response = String::from_utf8_lossy(flow.response.whole().expect("no hole"));
    let name = format!("\r\nX-Decoded-Content-Encoding: {coding}\r\n");
    assert!(response.contains(&name), "{response}");
    assert!(!response.contains("\r\nContent-Encoding"), "{response}");
    let [seen] = &verdict.files[..] else {
        panic!("{} files", verdict.files.len());
    };
    assert!(seen.sha256 == sha256(&plain) && !seen.gaps);
    assert!(
        said.contains("1 message of HTTP/2 shown with its content decoded"),
        "{said}"
    );
}

#[test]
fn gzip_as_nginx_makes_it() {
    is_shown_decoded(&place(), "gzip", &format!("gzip/{SIZE}"));
}

#[test]
fn files_that_are_brotli_and_zstd() {
    for (coding, tool) in [("br", "brotli"), ("zstd", "zstd")] {
        let place = place();
        let coded = format!("{SIZE}.{coding}");
        let mut code = Command::new(tool);
        code.arg("-fk").arg(place.path(&format!("www/{SIZE}")));
        output_of(code.arg("-o").arg(place.path(&format!("www/{coded}"))));
        is_shown_decoded(&place, coding, &format!("{coding}/{coded}"));
    }
}
