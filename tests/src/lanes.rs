//! HTTP/2 shown as HTTP/1.1: who speaks it, and what flows and Suricata have to show of it.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

use crate::examples::sha256;
use crate::judges::{FileInfo, HttpEvent, Verdict};
use crate::nginx::{Nginx, Options};
use crate::place::{HOST, Place};
use crate::sslcollector::run_to;
use crate::streams::Flow;

/// What everything that a scenario says fits.
pub const RING: &str = "64M";

/// Options of whoever shows HTTP/2 so, and loses nothing.
pub const HTTP1: [&str; 3] = ["--http1", "--ring-size", RING];

/// `sslcollector run --http1` that writes the place's capture and log.
pub fn mirror(place: &Place) -> Command {
    let log = place.path("sessions.jsonl").display().to_string();
    run_to(
        &place.path("capture.pcapng"),
        &[&HTTP1[..], &["--log", &log]].concat(),
    )
}

/// nginx that offers HTTP/2, and runs.
pub fn with_http2(place: &Place) -> Nginx<'_> {
    let options = Options {
        http2: true,
        ..Options::default()
    };
    let nginx = Nginx::with(place, options);
    nginx.start();
    nginx
}

/// curl's words for HTTP/2, where it believes the place's certificate.
pub fn curl(place: &Place, port: u16) -> Vec<String> {
    curl_to(place, (Ipv4Addr::LOCALHOST.into(), port))
}

/// The same for a server elsewhere.
pub fn curl_to(place: &Place, (address, port): (IpAddr, u16)) -> Vec<String> {
    let words = [
        "curl",
        "-q",
        "-sS",
        "--http2",
        "--noproxy",
        "*",
        "--cacert",
        &place.path("cert.pem").display().to_string(),
        "--resolve",
        &format!("{HOST}:{port}:{address}"),
    ];
    words.map(str::to_owned).to_vec()
}

/// What a flow's comment says behind `name=`.
pub fn word<'f>(flow: &'f Flow, name: &str) -> Option<&'f str> {
    let mut words = flow.comment.split(' ');
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

/// Flows beside those of the sessions, by what the agent said when it ended.
///
/// # Panics
/// If it didn't say so of this many requests.
pub fn further_flows(said: &str, requests: usize) -> usize {
    let told = format!("shown as HTTP/1.1: {requests} requests, in ");
    let further = said.rsplit_once(&told).map(|(_, behind)| behind);
    let further = further.and_then(|behind| behind.split(' ').next()?.parse().ok());
    further.unwrap_or_else(|| panic!("{told}: {said}"))
}

/// Text of HTTP/1.1 only, each flow a lane, of so many sessions.
///
/// # Panics
/// If not.
pub fn assert_lanes(flows: &[Flow], sessions: usize) {
    let mut ids: Vec<_> = flows.iter().map(|flow| word(flow, "session")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), sessions, "{ids:?}");
    for flow in flows {
        let lane = word(flow, "http1").is_some_and(|part| part.starts_with("lane:"));
        assert!(lane, "{}", flow.comment);
        let response = flow.response.whole().expect("no hole");
        assert!(
            response.is_empty() || response.starts_with(b"HTTP/1.1 "),
            "{}",
            flow.comment
        );
    }
}

/// What Suricata saw without the ports, in order.
pub fn events(verdict: &Verdict) -> Vec<HttpEvent> {
    let events = verdict.http.iter().cloned();
    let mut events: Vec<_> = events.map(|event| HttpEvent { port: 0, ..event }).collect();
    events.sort();
    events
}

/// One of these.
pub fn event(method: &str, url: &str, status: u64, length: usize) -> HttpEvent {
    HttpEvent {
        port: 0,
        method: method.into(),
        url: url.into(),
        status,
        length: length as u64,
    }
}

/// How often Suricata saw this file, whole, up or down.
pub fn hash_count(verdict: &Verdict, file: &Path, upload: bool) -> usize {
    sum_count(&verdict.files, &sha256(file), upload)
}

/// The same by its hash.
pub fn sum_count(files: &[FileInfo], sum: &str, upload: bool) -> usize {
    let is_it = |file: &&FileInfo| file.sha256 == sum && !file.gaps && file.upload == upload;
    files.iter().filter(is_it).count()
}
