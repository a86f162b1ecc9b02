//! tshark and capinfos.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use crate::process::{output_of, stdout_of};

/// Packets that tshark's expert objects to: `tcp.analysis.flags` and bad checksums (which it only
/// verifies when told to). One line each. (On its standard error it warns of being run by root.)
pub fn complaints(capture: &Path) -> Vec<String> {
    let mut tshark = tshark(capture);
    // What HTTP makes of the streams isn't asked here, and would take most of the time.
    tshark.args([
        "-o",
        "tcp.desegment_tcp_streams:FALSE",
        "--disable-protocol",
        "http",
    ]);
    tshark.args([
        "-Y",
        "tcp.analysis.flags || tcp.checksum.status == 0 || ip.checksum.status == 0 || _ws.malformed",
    ]);
    lines(&stdout_of(&mut tshark))
}

/// The bodies that tshark finds in HTTP messages, by the name of the file that it writes each to
/// (`name`, `name(1)`, …), put in `directory`.
///
/// # Panics
/// If the directory can't be read.
pub fn exported_objects(capture: &Path, directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let argument = format!("http,{}", directory.display());
    output_of(tshark(capture).args(["-q", "--export-objects", &argument]));
    let mut objects = BTreeMap::new();
    for entry in std::fs::read_dir(directory).expect("tshark made the directory") {
        let entry = entry.expect("entry of tshark's directory");
        let bytes = std::fs::read(entry.path()).expect("object written by tshark");
        objects.insert(entry.file_name().to_string_lossy().into_owned(), bytes);
    }
    objects
}

/// What tshark prints for the fields of the packets that pass a display filter; a line a packet, tabs
/// between the fields.
pub fn follow(capture: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    follow_by(tshark(capture), filter, fields)
}

/// The same, by a protocol that tshark doesn't look for unasked.
pub fn follow_with(capture: &Path, filter: &str, fields: &[&str], protocol: &str) -> Vec<String> {
    let mut tshark = tshark(capture);
    tshark.args(["--enable-protocol", protocol]);
    follow_by(tshark, filter, fields)
}

fn follow_by(mut tshark: Command, filter: &str, fields: &[&str]) -> Vec<String> {
    tshark.args(["-Y", filter, "-T", "fields"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    lines(&stdout_of(&mut tshark))
}

/// The heads of HTTP/2 messages that tshark decodes in the streams to and from `port`: the path of each
/// request, the status of each response.
pub fn http2_messages(capture: &Path, port: u16) -> Vec<String> {
    let mut tshark = tshark(capture);
    tshark.args(["-d", &format!("tcp.port=={port},http2")]);
    tshark.args(["-Y", "http2.type == 1", "-T", "fields", "-E", "separator=,"]);
    tshark.args(["-e", "http2.headers.path", "-e", "http2.headers.status"]);
    // A packet may have several, with commas between them as well.
    let text = stdout_of(&mut tshark);
    let words = text.split(['\n', ',']).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// capinfos' answer to whether no packet is older than its predecessor.
pub fn in_time_order(capture: &Path) -> bool {
    let answer = output_of(Command::new("capinfos").arg("-o").arg(capture));
    answer.contains("Strict time order:   True")
}

fn tshark(capture: &Path) -> Command {
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(capture);
    // Names are never looked up: a test talks to nobody outside.
    tshark.args([
        "-n",
        "-o",
        "tcp.check_checksum:TRUE",
        "-o",
        "ip.check_checksum:TRUE",
    ]);
    tshark
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}
