//! h2, which understands HTTP/2 for hyper, beside us.

use super::{data, headers, ok, reset};
use crate::corpus::peer::{Asked, asking, requests, responses};
use crate::corpus::run;
use crate::tunnel::batch::tests::info;

#[test]
fn what_a_client_asks() {
    let long = "0123456789".repeat(300);
    let simple: &[Asked<'_>] = &[
        (
            "GET",
            "/a?b=c",
            &[("x-id", "1"), ("accept", "*/*")],
            &[],
            &[],
        ),
        (
            "GET",
            "/a?b=c",
            &[("x-id", "2"), ("cookie", "a=b"), ("cookie", "c=d")],
            &[],
            &[],
        ),
        (
            "HEAD",
            "/",
            &[("x-id", "3"), ("x-a", "1"), ("x-b", "2"), ("x-a", "")],
            &[],
            &[],
        ),
    ];
    let content: &[Asked<'_>] = &[
        (
            "POST",
            "/p",
            &[("x-id", "1"), ("content-length", "5")],
            &["ab", "cde"],
            &[],
        ),
        (
            "PUT",
            "/p",
            &[("x-id", "2"), ("te", "trailers")],
            &["ab", "cde"],
            &[("x-sum", "1")],
        ),
        ("DELETE", "/p", &[("x-id", "3")], &[], &[]),
    ];
    let large: &[Asked<'_>] = &[("GET", "/", &[("x-id", "1"), ("x-long", &long)], &[], &[])];
    for (name, asked) in [("simple", simple), ("content", content), ("large", large)] {
        run("http2_requests", name, &asking(asked), |bytes| {
            requests(bytes, &info(3));
        });
    }
}

#[test]
fn what_a_server_answers() {
    let simple = [
        ok(1, "abc"),
        headers(5, false, ":status: 404\nx-id: 5\nx-a: 1\nx-a: 2"),
        headers(3, true, ":status: 204\nx-id: 3"),
        data(5, false, b"de"),
        data(5, true, b"f"),
    ];
    let special = [
        headers(1, false, ":status: 103\nx-a: 1"),
        headers(1, false, ":status: 200\nx-id: 1"),
        data(1, false, b"ab"),
        headers(1, true, "x-sum: 2"),
        headers(3, true, ":status: 304\nx-id: 3\ncontent-length: 7"),
        headers(5, false, ":status: 200\nx-id: 5"),
        reset(5),
    ];
    // HTTP/1.1 has no place for the content, and h2 doesn't mind it.
    let forbidden = [
        headers(1, false, ":status: 204\nx-id: 1"),
        data(1, true, b"ab"),
    ];
    for (name, said) in [
        ("simple", simple.concat()),
        ("special", special.concat()),
        ("forbidden", forbidden.concat()),
    ] {
        run("http2_responses", name, &said, |bytes| {
            responses(bytes, &info(3));
        });
    }
}
