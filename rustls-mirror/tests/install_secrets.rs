#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! Nothing of what rustls tells a key log is in the ring; clear text is, so it would be found.

mod common;

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex};

use common::memory::{Wire, write_all};
use common::recorder::Agent;
use common::tls;
use mirror_hook::hook;
use rustls::KeyLog;
use rustls::crypto::ring::default_provider;
use rustls_mirror::mirrored;

const RING_BYTES: u64 = 4 * 1024 * 1024;
const SESSIONS: usize = 100;

#[derive(Debug, Default)]
struct Secrets(Mutex<Vec<(String, Vec<u8>)>>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        self.0
            .lock()
            .unwrap()
            .push((label.to_owned(), secret.to_vec()));
    }
}

/// All memory of this process that belongs to a ring.
fn ring_memory() -> Vec<u8> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut memory = std::fs::File::open("/proc/self/mem").unwrap();
    let mut all = Vec::new();
    for line in maps.lines().filter(|line| line.contains("/memfd:")) {
        let (from, rest) = line.split_once('-').unwrap();
        let (to, _) = rest.split_once(' ').unwrap();
        let place = |digits| u64::from_str_radix(digits, 16).unwrap();
        let length = usize::try_from(place(to) - place(from)).unwrap();
        let mut bytes = vec![0; length.min(usize::try_from(RING_BYTES).unwrap() * 2)];
        memory.seek(SeekFrom::Start(place(from))).unwrap();
        memory.read_exact(&mut bytes).unwrap();
        all.extend(bytes);
    }
    all
}

/// Which of these are in `bytes`: by their first eight bytes, then whole.
fn found<'a>(needles: &'a [(String, Vec<u8>)], bytes: &[u8]) -> Vec<&'a str> {
    let heads: HashMap<&[u8], &(String, Vec<u8>)> = needles
        .iter()
        .map(|needle| (&needle.1[..8], needle))
        .collect();
    let hits = bytes.windows(8).enumerate().filter_map(|(at, head)| {
        let (label, needle) = heads.get(head)?;
        bytes[at..].starts_with(&needle[..16]).then_some(&label[..])
    });
    hits.collect()
}

#[test]
fn no_secret_is_in_the_ring() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent");
    let agent = Agent::listen(&path);
    common::recorder::point_at(&path, RING_BYTES);
    hook::handshake();
    // Nothing of it is read, so all that is ever written stays.
    let _ring = agent.accept(RING_BYTES);
    let secrets = Arc::new(Secrets::default());
    let provider = Arc::new(mirrored(default_provider()));
    let mut texts = Vec::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut client = tls::client_config_of(Arc::clone(&provider), version);
        client.key_log = Arc::clone(&secrets) as _;
        client.enable_early_data = true;
        let mut server = tls::server_config(Arc::clone(&provider));
        server.key_log = Arc::clone(&secrets) as _;
        server.max_early_data_size = 1000;
        let (client, server) = (Arc::new(client), Arc::new(server));
        for session in 0..SESSIONS / 2 {
            let text = format!("{session:08} in {:?} is clear text", version.version);
            let mut wire = Wire::connected(&client, &server, "secrets");
            write_all(&mut wire.client, text.as_bytes());
            wire.settle().unwrap();
            texts.push(("text".to_owned(), text.into_bytes()));
        }
    }
    let memory = ring_memory();
    assert!(
        found(&texts, &memory).len() >= SESSIONS,
        "the text of both ends"
    );
    let secrets = secrets.0.lock().unwrap();
    assert!(secrets.len() > 5 * SESSIONS, "few secrets");
    assert_eq!(found(&secrets, &memory), [] as [&str; 0]);
}
