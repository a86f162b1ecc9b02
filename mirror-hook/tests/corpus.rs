#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! The fuzz targets' properties hold for all of their corpus, and for bytes close to it.
//! `UPDATE_CORPUS=1` writes the part of the corpus that is made here.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use mirror_hook::attach::AttachMessage;
use mirror_hook::event::{CarriedBy, CloseReason, LookWriter, Meta, Role};
use mirror_hook::filter::{Action, End, Flow, Glob, NamePattern, Network, Process, Rule, encode};
use mirror_hook::layout::{BOOTSTRAP_BYTES, CONTROL_BYTES, RecordWord, control, kind};
use mirror_hook::ring::{HeapMemory, Memory, Producer, Record};

#[path = "../../fuzz/fuzz_targets/oracle.rs"]
mod oracle;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(target)
}

/// Runs `property` over the corpus of `target`, and over each of its inputs cut short and with one
/// byte changed.
fn run(target: &str, property: fn(&[u8])) {
    let mut inputs = 0;
    for entry in fs::read_dir(corpus(target)).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        property(&bytes);
        inputs += 1;
        for at in 0..bytes.len().min(400) {
            property(&bytes[..at]);
            let mut changed = bytes.clone();
            for flip in [1, 0x80, 0xff] {
                changed[at] = bytes[at] ^ flip;
                property(&changed);
            }
        }
    }
    assert!(inputs > 0, "no corpus for {target}");
}

#[test]
fn ring() {
    run("ring", oracle::ring);
}

#[test]
fn attach() {
    run("attach", oracle::attach);
}

#[test]
fn body() {
    run("body", oracle::body);
}

#[test]
fn policy() {
    run("policy", oracle::policy);
}

#[test]
fn the_corpus_is_what_a_hook_writes() {
    let attach = AttachMessage {
        data_bytes: BOOTSTRAP_BYTES,
        instance: 0x1234,
        parent_instance: Some(7),
        parent_fork: 2,
        silent_forks: 1,
        name: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
    };
    let (bodies, ring) = written();
    let mut dead = ring.clone();
    dead[0] = 1;
    // The second record was never completed.
    let second = 32 + 24 + bodies[0].1.len().next_multiple_of(8);
    let word = u64::from_ne_bytes(dead[second..second + 8].try_into().unwrap());
    let busy = RecordWord {
        busy: true,
        ..RecordWord::unpack(word)
    };
    dead[second..second + 8].copy_from_slice(&busy.pack().to_ne_bytes());
    let mut taken_over = ring.clone();
    taken_over[0] = 2;
    let mut files = vec![
        ("attach", "message".to_owned(), attach.encode().to_vec()),
        ("ring", "every-kind".to_owned(), ring),
        ("ring", "died".to_owned(), dead),
        ("ring", "taken-over".to_owned(), taken_over),
    ];
    for (kind, body) in bodies {
        let mut bytes = vec![kind, 0];
        bytes.extend(body);
        files.push(("body", format!("kind-{kind}"), bytes));
    }
    files.extend(
        policies()
            .into_iter()
            .map(|(name, bytes)| ("policy", name.to_owned(), bytes)),
    );
    for (target, name, bytes) in files {
        let path = corpus(target).join(name);
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            fs::write(&path, &bytes).unwrap();
        }
        let found = fs::read(&path).unwrap();
        assert_eq!(found, bytes, "{}: run with UPDATE_CORPUS=1", path.display());
    }
}

/// A record of each kind, and the ring that they are in, as an input of the ring's target.
fn written() -> (Vec<(u8, Vec<u8>)>, Vec<u8>) {
    let meta = Meta {
        sni: b"example.com",
        alpn: b"h2",
        client_random: Some([3; 32]),
        addresses: Some((
            "192.0.2.1:443".parse().unwrap(),
            "192.0.2.2:50000".parse().unwrap(),
        )),
        ..Meta::new(Role::Server)
    };
    let mut open = meta.encode_fixed().to_vec();
    open.extend_from_slice(meta.sni);
    open.extend_from_slice(meta.alpn);
    let words = |words: &[u64]| -> Vec<u8> {
        let bytes = words.iter().map(|word| word.to_ne_bytes());
        bytes.flatten().collect()
    };
    let mut text = words(&[0]);
    text.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
    let mut look = LookWriter::new(999_000_000);
    for (cookie, addresses) in [
        (7, meta.addresses),
        (8, None),
        (
            9,
            Some((
                "[2001:db8::1]:443".parse().unwrap(),
                "[2001:db8::2]:50000".parse().unwrap(),
            )),
        ),
    ] {
        look.push(&CarriedBy {
            cookie,
            sent: 600,
            received: 2000,
            addresses,
        });
    }
    let bodies = vec![
        (kind::OPEN, open.clone()),
        (kind::LOOK, look.part(true).to_vec()),
        (kind::UPDATE, open),
        (kind::DATA, text),
        (kind::LOST, words(&[18, 20])),
        (kind::CLOSE, words(&[20, 0, CloseReason::Free as u64])),
    ];
    let memory = HeapMemory::new(usize::try_from(BOOTSTRAP_BYTES).unwrap());
    let producer = Producer::new(&memory, BOOTSTRAP_BYTES).unwrap();
    for (kind, body) in &bodies {
        let record = Record {
            kind: *kind,
            flags: 0,
            connection: 1,
            at_ns: 1_000_000_000,
        };
        producer.write(record, &[body]).unwrap();
    }
    let head = memory.load_u64(control::HEAD, Ordering::Relaxed);
    let mut input = words(&[0, head, 0, 0]);
    let mut data = vec![0; usize::try_from(head).unwrap()];
    memory.read(CONTROL_BYTES, &mut data);
    input.extend(data);
    (bodies, input)
}

/// Policies with each kind of condition.
fn policies() -> [(&'static str, Vec<u8>); 2] {
    let flow = |name| Flow {
        name: Some(name),
        ..Flow::default()
    };
    let network = Network {
        address: "198.51.100.0".parse().unwrap(),
        bits: 24,
    };
    let rule = |action, flow, process| Rule {
        action,
        flow,
        process,
    };
    let below = NamePattern::EndsWith(".example.com".to_owned());
    let deny = rule(Action::Deny, flow(below), Process::default());
    let by_flow = Flow {
        role: Some(Role::Client),
        ports: Some(443..=444),
        network: Some((End::Server, network)),
        name: Some(NamePattern::Any),
    };
    let process = Process {
        executable: Some(Glob::new("/usr/bin/c*")),
        uid: Some(0),
    };
    let allow = rule(Action::Allow, by_flow, Process::default());
    let allow_program = rule(Action::Allow, Flow::default(), process);
    [
        ("deny", encode(&[deny], false, false).unwrap()),
        (
            "allow",
            encode(&[allow, allow_program], true, true).unwrap(),
        ),
    ]
}
