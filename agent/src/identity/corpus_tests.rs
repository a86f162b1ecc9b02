//! The fuzz targets of what passes while a host joins.

use super::{
    Address, EnrolAnswer, EnrolRequest, Granted, KeyId, Token, hostile_request, refusal_text,
};
use crate::corpus::{run, run_all};
use crate::tunnel::frame::{Reason, Refused, VERSION};

#[path = "../../../fuzz/fuzz_targets/identity.rs"]
mod identity;

#[test]
fn tokens() {
    let token = Token {
        addresses: vec![Address::new("Sensor", None), Address::new("::1", Some(9))],
        pin: KeyId([7; 32]),
        id: [1; 8],
        secret: *b"a secret of ours",
        expires: 1_800_000_000,
    };
    let text = [&b"\0"[..], token.encode().as_bytes()].concat();
    run("token", "text", &text, identity::token);
    let inner = [&[1][..], &postcard::to_stdvec(&token).unwrap()].concat();
    run("token", "inner", &inner, identity::token);
    let address = b"\0[2001:db8::1]:7833";
    run("token", "address", address, identity::token);
}

#[test]
fn requests_and_answers() {
    let request = EnrolRequest {
        version: VERSION,
        id: [1; 8],
        secret: [2; 16],
        certificate_request: vec![3; 30],
        host: "web1".into(),
        addresses: vec!["::1".parse().unwrap(), "10.0.0.1".parse().unwrap()],
    };
    let granted = EnrolAnswer::Granted(Granted {
        name: "web1".into(),
        certificate: vec![4; 30],
        networks: vec!["10.0.0.0/8".into()],
    });
    let refused = EnrolAnswer::Refused(Refused {
        reason: Reason::TokenUsed,
        text: refusal_text(Reason::TokenUsed).into(),
    });
    for (name, mode, framed) in [
        ("request", 0, request.encode()),
        ("granted", 1, granted.encode()),
        ("refused", 1, refused.encode()),
    ] {
        let bytes = [&[mode][..], &framed[4..]].concat();
        run("enrol", name, &bytes, identity::enrol);
    }
}

/// Each has a key and a signature of its own.
#[test]
fn requests_for_certificates() {
    run_all("certificate_request", 1, hostile_request);
}
