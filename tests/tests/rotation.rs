//! Captures in several files, each of which stands alone, and all of which together have every byte once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;

use mirror_tests::curl::{Tls, Transfer};
use mirror_tests::nginx::Nginx;
use mirror_tests::place::Place;
use mirror_tests::process::{output_of, run, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::service::Agent;
use mirror_tests::sslcollector;
use mirror_tests::streams::{Flow, flows};
use rustix::process::Signal;

const MIB: usize = 1 << 20;

/// What is in the directory of captures, by name.
fn files(place: &Place) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(place.path("captures")).expect("a directory");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files
}

fn fetch(place: &Place, port: u16, transfers: &[Transfer]) {
    let server = (IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    for transfer in transfers {
        let script = transfer.script(place, server, Tls::V1_3);
        output_of(Command::new("sh").args(["-c", &script]));
    }
}

/// What a comment says under a name.
fn said<'c>(comment: &'c str, name: &str) -> Option<&'c str> {
    let words = comment.split(' ');
    words
        .filter_map(|word| word.split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

#[test]
fn every_file_stands_alone_and_nothing_is_lost_between() {
    let place = Place::new(&[20_000, 20 * MIB]);
    std::fs::create_dir(place.path("captures")).expect("a directory");
    let nginx = Nginx::new(&place);
    let options = ["--rotate-size", "2M", "--ring-size", "64M"];
    let agent = Agent::start(&place, &place.path("captures/out.pcapng"), &options);
    nginx.start_with(|command| agent.prepare(command));
    // The first one has the agent answer, so that there is room when the large one comes.
    let transfers = [
        Transfer::get("close", 20_000),
        Transfer::get("get", 20 * MIB),
        Transfer::many(20_000, 100),
    ];
    fetch(&place, nginx.port, &transfers[..1]);
    until("the first transfer in a file", || {
        let capture = Capture::read(files(&place).first()?).ok()?;
        (!capture.packets.is_empty()).then_some(())
    });
    fetch(&place, nginx.port, &transfers[1..]);
    nginx.quit();
    let before = files(&place).len();
    agent.signal(Signal::HUP);
    until("another file at SIGHUP", || {
        (files(&place).len() > before).then_some(())
    });
    let report = agent.end_well();
    assert!(!report.contains("LOST"), "{report}");

    let files = files(&place);
    assert!(files.len() >= 11, "{files:?}");
    let mut streams: BTreeMap<u16, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        let name = format!("out.{:05}.pcapng", index + 1);
        assert!(file.ends_with(name), "{files:?}");
        let size = std::fs::metadata(file).expect("a file").len();
        // One record more than it may have, and what ends the flows.
        let most = (2 << 20) + (64 << 10);
        assert!(size < most, "{}: {size} bytes", file.display());
        let capture = Capture::read(file).expect("a capture");
        rules::assert_good(&capture, &file.display().to_string());
        for flow in flows(&capture).expect("flows") {
            append(streams.entry(flow.client.port()).or_default(), &flow);
        }
    }
    for transfer in &transfers {
        let truth = transfer.truth(&place);
        let (request, response) = &streams[&truth.port];
        let name = &transfer.name;
        assert!(
            Some(request) == truth.request.as_ref(),
            "{name}: another request"
        );
        assert!(response == &truth.response, "{name}: another response");
    }
}

/// A flow of one file goes on where that of the file before has ended, and says so.
fn append((request, response): &mut (Vec<u8>, Vec<u8>), flow: &Flow) {
    let begun = !request.is_empty() || !response.is_empty();
    let offset = |name| said(&flow.comment, name).map(|text| text.parse().expect("a number"));
    let offsets = offset("client_offset").zip(offset("server_offset"));
    let expected = begun.then_some((request.len(), response.len()));
    assert_eq!(offsets, expected, "{}", flow.comment);
    let restarted = said(&flow.comment, "restarted").is_some();
    assert_eq!(restarted, begun, "{}", flow.comment);
    request.extend(flow.request.whole().expect("no hole"));
    response.extend(flow.response.whole().expect("no hole"));
}

#[test]
fn old_files_go_and_those_of_others_stay() {
    let place = Place::new(&[MIB]);
    std::fs::create_dir(place.path("captures")).expect("a directory");
    for name in ["out.00007.pcapng", "other.00001.pcapng"] {
        std::fs::write(place.path("captures").join(name), "").expect("a file");
    }
    let nginx = Nginx::new(&place);
    nginx.start();
    let capture = place.path("captures/out.pcapng");
    let mut command = sslcollector::run_to(&capture, &["--rotate-size", "1M", "--keep", "2"]);
    let url = format!("https://127.0.0.1:{}/get/{MIB}", nginx.port);
    let one = format!("curl -qsSk -o /dev/null {url}\n");
    output_of(command.args(["sh", "-c", &one.repeat(6)]));
    nginx.quit();
    let names: Vec<_> = files(&place)
        .iter()
        .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
        .collect();
    let [other, one, two] = &names[..] else {
        panic!("{names:?}");
    };
    assert_eq!(other, "other.00001.pcapng");
    assert!(one < two && one.as_str() > "out.00008.pcapng", "{names:?}");
}

#[test]
fn what_contradicts_itself_is_refused() {
    for (options, words) in [
        (
            &["-w", "-", "--rotate-size", "1M"][..],
            "standard output is one file",
        ),
        (
            &["-w", "x", "--keep", "3"],
            "--rotate-size or --rotate-time",
        ),
    ] {
        let output = run(Command::new(sslcollector::binary()).args(options));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && said.contains(words),
            "{options:?}: {said}"
        );
    }
}
