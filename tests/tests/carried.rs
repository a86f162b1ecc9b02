//! Programs whose TLS has a transport of their own, which another thread or process carries to a TCP connection: rustls by
//! wrappers and by its provider, and libssl. Each session is found on the wire, however it shook hands: with a hello
//! of the hybrid X25519MLKEM768 that is longer than a packet, with a HelloRetryRequest, with what looks like an Encrypted
//! Client Hello, and resumed in each way.

use std::path::Path;

use mirror_tests::bio::{data, word};
use mirror_tests::carried::{End, Talk};
use mirror_tests::native::compile_gnu;
use mirror_tests::place::Place;
use mirror_tests::sslcollector::beside;

const STEPS: [&str; 6] = ["1.3", "1.3", "1.2-id", "1.2-id", "1.2-ticket", "1.2-ticket"];
const RESUMED_RETRIED: &str = "ResumedWithHelloRetryRequest";
/// Of a packet with the options that Linux sets.
const MOST_IN_A_PACKET: usize = 1448;

/// Lets this end, mirrored, talk with rustls over a transport of its own, in both roles and with each way in which servers
/// answer a client's first key share.
fn is_found(program: &Path, way: &'static str) {
    let ours = || End::new(program, way).mirrored();
    let peers = || End::new(&beside("carried"), "stream");
    for group in ["any", "secp384r1"] {
        talk(ours(), peers(), group, &STEPS);
        talk(peers(), ours(), group, &STEPS);
    }
}

fn talk(client: End, server: End, group: &str, steps: &[&str]) {
    let place = Place::new(&[]);
    let talk = Talk {
        client,
        server,
        group,
        steps,
        connections: steps.len(),
        more: &[],
    };
    let heard = talk.heard(&place);
    let [said, answered] = &heard.lines;
    // Of a session that goes on rustls' server doesn't say whether it asked again.
    let plain = |lines: &[String]| lines.join(" ").replace(RESUMED_RETRIED, "Resumed");
    assert_eq!(plain(answered), plain(said), "{talk:?}");
    // rustls offers the hybrid in TLS 1.3, and OpenSSL 3.0 doesn't.
    let is_long = heard.hellos.iter().any(|length| *length > MOST_IN_A_PACKET);
    assert_eq!(
        is_long,
        talk.client.program == beside("carried"),
        "{talk:?}"
    );
    let flows = heard.flows.concat();
    assert_eq!(flows.len(), steps.len());
    for (number, (flow, said)) in flows.iter().zip(said).enumerate() {
        let what = format!("{number} {talk:?}");
        let how = heard.judge(flow, said, &what);
        // Who has asked before may know the group.
        let is_retried = number == 0 && group != "any" || number == 1 && how.ends_with("Request");
        let kind = ["Full", "Resumed"][number % 2];
        let retried = ["", "WithHelloRetryRequest"][usize::from(is_retried)];
        assert_eq!(how, format!("{kind}{retried}"), "{what}");
        let resumed = [None, Some("yes")][number % 2];
        assert_eq!(word(flow, "resumed"), resumed, "{what}");
        let version = if number < 2 { "TLSv1.3" } else { "TLSv1.2" };
        assert_eq!(word(flow, "tls"), Some(version), "{what}");
        assert_eq!(word(flow, "sni"), Some("mirror.test"), "{what}");
    }
}

#[test]
fn rustls_by_wrappers() {
    is_found(&beside("carried"), "stream");
}

#[test]
fn rustls_by_wrappers_of_tokio() {
    is_found(&beside("carried"), "tokio");
}

#[test]
fn rustls_by_its_provider() {
    is_found(&beside("carried"), "install");
}

#[test]
fn rustls_that_seems_to_encrypt_its_hello() {
    let program = beside("carried");
    for way in ["stream", "tokio", "install"] {
        let client = End::new(&program, way).mirrored();
        let server = End::new(&program, "stream");
        talk(client, server, "secp384r1", &["1.3-grease", "1.3-grease"]);
    }
}

fn openssl_is_found(way: &'static str) {
    let place = Place::new(&[]);
    let program = place.path("carried");
    compile_gnu(&[data("carried.c")], &program, &["-lssl", "-lcrypto"]);
    is_found(&program, way);
}

#[test]
fn openssl_with_a_bio_of_its_own() {
    openssl_is_found("bio");
}

#[test]
fn openssl_with_a_socket_that_is_no_connection_of_tcp() {
    openssl_is_found("unix");
}
