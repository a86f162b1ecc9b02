//! The fuzz targets of packets from the wire, and of what programs say.

use super::frames::frames;
use super::hellos::tests::conversations;
use super::proof::message::tests::samples;
use crate::corpus::run;
use crate::tunnel::batch::tests::info;

#[path = "../../../fuzz/fuzz_targets/network.rs"]
mod network;

#[test]
fn packets() {
    for (name, bytes) in frames() {
        run("wire", name, &bytes, network::wire);
    }
}

#[test]
fn handshakes() {
    for (name, bytes) in conversations() {
        run("handshakes", name, &bytes, network::handshakes);
    }
}

#[test]
fn what_the_kernel_says_of_sockets() {
    for (name, bytes) in samples() {
        run("diag", name, &bytes, network::diag);
    }
}

#[test]
fn what_programs_say() {
    let text = |bytes: &[u8]| network::text(bytes, &info(3));
    let mut steps = Vec::new();
    let mut say = |what: u8, said: &[u8]| {
        steps.push(u8::try_from(said.len()).unwrap() << 2 | what);
        steps.extend_from_slice(said);
    };
    say(0, b"GET /\x1b[2J HTTP/1.1\r\nHost: a\r\n\r\n");
    say(1, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
    say(1, b"\x07\x9b\xc2\x9b\xe2\x80\xae!");
    say(3, &[0; 40]);
    say(0, b"no end of a line");
    run("text", "http", &steps, text);
}
