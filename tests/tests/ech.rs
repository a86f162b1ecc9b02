//! Encrypted Client Hello (RFC 9849) of OpenSSL 4.0 and of rustls: sessions without a socket are found on the wire, by the
//! hello that is there, and have the same id at both ends; their server's name is the one that was encrypted. Not in
//! `make test`, which builds the library of the machine's OpenSSL only: `make openssl-test-4.0`.

use std::path::{Path, PathBuf};
use std::process::Command;

use mirror_tests::bio::{data, word};
use mirror_tests::carried::{End, Heard, Talk};
use mirror_tests::native::{compile_gnu, source};
use mirror_tests::place::Place;
use mirror_tests::process::stdout_of;
use mirror_tests::sslcollector::beside;
use mirror_tests::streams::Flow;

/// OpenSSL 4.0's program, and the patched library's directory.
struct Openssl {
    program: PathBuf,
    library: PathBuf,
}

impl Openssl {
    fn new(place: &Place) -> Self {
        let built = |what: &[&str]| {
            let mut build = Command::new(source("openssl-compat/build.sh"));
            PathBuf::from(stdout_of(build.arg("4.0").args(what)).trim())
        };
        let library = built(&[]);
        let headers = built(&["--objects"]).join("include");
        let upstream = built(&["--upstream"]);
        let program = place.path("carried");
        let libraries = ["libssl.so.4", "libcrypto.so.4"].map(|name| path(&upstream.join(name)));
        let options = [
            format!("-I{}", path(&headers)),
            format!("-Wl,-rpath,{}", path(&upstream)),
        ];
        let options: Vec<_> = libraries
            .iter()
            .chain(&options)
            .map(String::as_str)
            .collect();
        compile_gnu(&[data("carried.c")], &program, &options);
        let library = library.parent().expect("a directory").to_owned();
        Self { program, library }
    }

    fn end(&self) -> End {
        End::new(&self.program, "bio")
    }

    fn mirrors(&self, end: End) -> End {
        End {
            mirrored: Some(self.library.clone()),
            ..end
        }
    }

    fn mirrored(&self) -> End {
        self.mirrors(self.end())
    }

    /// A key in a file.
    fn key(&self, place: &Place, name: &str) -> String {
        let file = place.path(name);
        let mut maker = Command::new(&self.program);
        stdout_of(maker.args(["bio", "key"]).arg(&file));
        path(&file)
    }
}

fn path(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

/// Flow and line of each connection of which there is text, at each mirrored end.
fn judge(heard: &Heard, what: &str) {
    for (flows, lines) in heard.flows.iter().zip(&heard.lines) {
        let good = lines.iter().filter(|line| !line.ends_with("Rejected"));
        for (flow, line) in flows.iter().zip(good) {
            heard.judge(flow, line, what);
            assert_eq!(word(flow, "sni"), Some("mirror.test"), "{what}");
        }
    }
}

/// The flows' ids.
fn ids(flows: &[Flow]) -> Vec<&str> {
    let ids = flows.iter().map(|flow| word(flow, "flow"));
    ids.map(|id| id.expect("an id")).collect()
}

/// How each connection began, as the server says.
fn how(heard: &Heard) -> Vec<&str> {
    let lines = heard.lines[1].iter();
    let how = lines.map(|line| line.split_once(' ').expect("a port and how").1);
    how.collect()
}

#[test]
fn both_ends_are_found_and_known_as_one() {
    let place = Place::new(&[]);
    let openssl = Openssl::new(&place);
    let key = openssl.key(&place, "ech.pem");
    let encrypted = format!("1.3-ech={key}");
    for (group, retried) in [("any", ""), ("P-384", "WithHelloRetryRequest")] {
        let talk = Talk {
            client: openssl.mirrored(),
            server: openssl.mirrored(),
            group,
            steps: &[&encrypted, &encrypted, "1.3-grease", "1.3"],
            connections: 4,
            more: &[&key],
        };
        let heard = talk.heard(&place);
        judge(&heard, group);
        let began = ["Full* opened", "Resumed* opened", "Full*", "Full*"];
        assert_eq!(how(&heard), began.map(|how| how.replace('*', retried)));
        let ids = |flows: &[mirror_tests::streams::Flow]| -> Vec<_> {
            let ids = flows
                .iter()
                .map(|flow| word(flow, "flow").map(str::to_owned));
            ids.collect()
        };
        let [client, server] = &heard.flows;
        assert_eq!(client.len(), 4);
        assert_eq!(ids(client), ids(server));
    }
}

#[test]
fn a_client_that_is_rejected_comes_again_and_is_found() {
    let place = Place::new(&[]);
    let openssl = Openssl::new(&place);
    let key = openssl.key(&place, "ech.pem");
    let old = format!("1.3-ech={}", openssl.key(&place, "old.pem"));
    let talk = Talk {
        client: openssl.mirrored(),
        server: openssl.mirrored(),
        group: "any",
        steps: &[&old],
        connections: 2,
        more: &[&key],
    };
    let heard = talk.heard(&place);
    assert_eq!(how(&heard), ["Rejected", "Full opened"]);
    assert_eq!(heard.flows.each_ref().map(Vec::len), [1, 1]);
    judge(&heard, "rejected");
}

#[test]
fn rustls_is_found_in_each_way() {
    let place = Place::new(&[]);
    let openssl = Openssl::new(&place);
    let key = openssl.key(&place, "ech.pem");
    let encrypted = format!("1.3-ech={key}");
    for way in ["stream", "tokio", "install"] {
        for (group, retried) in [("any", ""), ("P-384", "WithHelloRetryRequest")] {
            let talk = Talk {
                client: openssl.mirrors(End::new(&beside("carried"), way)),
                server: openssl.end(),
                group,
                steps: &[&encrypted, &encrypted, "1.3-grease"],
                connections: 3,
                more: &[&key],
            };
            let heard = talk.heard(&place);
            assert_eq!(heard.flows[0].len(), 3, "{way} {group}");
            judge(&heard, way);
            let full = format!("Full{retried}");
            let opened = format!("{full} opened");
            assert_eq!(how(&heard), [&opened, "Resumed opened", &full], "{way}");
        }
    }
}

/// Text that was said when nobody had answered the hello.
#[test]
fn rustls_with_early_data_is_found() {
    let place = Place::new(&[]);
    let openssl = Openssl::new(&place);
    let key = openssl.key(&place, "ech.pem");
    let early = format!("1.3-early={key}");
    for way in ["stream", "install"] {
        let talk = Talk {
            client: openssl.mirrors(End::new(&beside("carried"), way)),
            server: openssl.mirrored(),
            group: "any",
            steps: &[&early, &early],
            connections: 2,
            more: &[&key, "early"],
        };
        let heard = talk.heard(&place);
        assert_eq!(
            how(&heard),
            ["Full opened", "Resumed opened early"],
            "{way}"
        );
        assert_eq!(heard.flows.each_ref().map(Vec::len), [2, 2], "{way}");
        judge(&heard, way);
        let [client, server] = heard.flows.each_ref().map(|flows| ids(flows));
        assert_eq!(client, server, "{way}");
    }
}
