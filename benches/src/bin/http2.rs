//! What telling HTTP/2 as HTTP/1.1 costs: content against forging the same bytes as they are, small requests, memory of a stream.

use std::hint::black_box;
use std::io;

use agent::event::{FlowChange, FlowEvent, FlowSink, Packet, PacketSink, Side, WallTime};
use agent::forge::{ForgeConfig, Forger, Mtu, SequenceKey, View};
use agent::transform::Http1;
use anyhow::Context;
use mirror_benches::figures::Figures;
use mirror_benches::{compare, flow_info};

/// A record of TLS: what a flow event has at most.
const RECORD_BYTES: usize = 16 << 10;
/// Content of one round.
const BULK_BYTES: usize = 64 << 20;
const REQUESTS: u32 = 20_000;
/// Streams at a time whose memory is looked at, and their sessions.
const STREAMS: u32 = 200;
const SESSIONS: u64 = 100;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a browser says with each request but the path; behind the first one all of it is in the table.
const FIELDS: [(&str, &str); 10] = [
    (":authority", "www.example.com"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    ),
    (
        "accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    ),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "https://www.example.com/a/page/before"),
    ("cookie", "session=0123456789abcdef0123456789abcdef"),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-site", "same-origin"),
];
const ANSWER: [(&str, &str); 4] = [
    ("server", "nginx"),
    ("date", "Mon, 23 Nov 2026 08:00:00 GMT"),
    ("content-type", "text/html"),
    ("content-length", "1024"),
];

/// Takes frames as an output would, without a system call.
#[derive(Debug, Default)]
struct Nowhere(u64);

impl PacketSink for Nowhere {
    fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
        self.0 += black_box(packet.frame).len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes flow events, and does nothing with them.
struct Passed(u64);

impl FlowSink for Passed {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        if let FlowChange::Data { bytes, .. } = event.change {
            self.0 += black_box(bytes).len() as u64;
        }
    }
}

/// A session on its way.
struct Session<S> {
    /// As it is, or as HTTP/1.1.
    http1: Option<Http1>,
    sink: S,
    flow: u64,
    said: [u64; 2],
}

impl<S: FlowSink> Session<S> {
    fn new(http1: Option<Http1>, sink: S) -> Self {
        Self {
            http1,
            sink,
            flow: 0,
            said: [0; 2],
        }
    }

    /// Another session begins, with the preface and what both ends permit.
    fn begin(&mut self) {
        self.flow += 1;
        self.said = [0; 2];
        let mut info = flow_info();
        info.alpn = Some("h2".into());
        let client = u8::try_from(self.flow % 250).unwrap_or(0);
        info.tuple.client.set_ip([192, 0, 2, client].into());
        self.event(FlowChange::Begin(&info));
        let settings = frame(4, 0, 0, b"");
        self.say(Side::Client, &[PREFACE, &settings].concat());
        self.say(Side::Server, &settings);
    }

    fn say(&mut self, from: Side, text: &[u8]) {
        for bytes in text.chunks(RECORD_BYTES) {
            let offset = self.said[from as usize];
            self.said[from as usize] += bytes.len() as u64;
            self.event(FlowChange::Data {
                from,
                offset,
                bytes,
            });
        }
    }

    fn event(&mut self, change: FlowChange<'_>) {
        let event = FlowEvent {
            flow: self.flow,
            at: WallTime(1),
            change,
        };
        match &mut self.http1 {
            Some(http1) => http1.flow_event(event, &mut self.sink),
            None => self.sink.flow_event(event),
        }
    }

    fn assert_told(&self) {
        let stopped = self.http1.as_ref().map(|http1| http1.stats().stopped);
        let stopped: u64 = stopped.iter().flatten().sum();
        assert_eq!(stopped, 0, "a session isn't told as HTTP/1.1");
    }
}

fn forger() -> Forger<Nowhere> {
    let config = ForgeConfig {
        key: SequenceKey::new([1; 16]),
        mtu: Mtu::default(),
        view: View::default(),
    };
    Forger::new(config, Nowhere::default())
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A literal of HPACK: with indexing (0x40), or without (0).
fn literal(pattern: u8, name: &str, value: &str, block: &mut Vec<u8>) {
    block.push(pattern);
    for text in [name, value] {
        block.push(u8::try_from(text.len()).unwrap_or(0));
        block.extend_from_slice(text.as_bytes());
    }
}

/// `indexed` is how many of the fields the table has: the newest has number 62.
fn block(begin: &[u8], fields: &[(&str, &str)], is_first: bool) -> Vec<u8> {
    let mut block = begin.to_vec();
    for (at, (name, value)) in fields.iter().enumerate() {
        match is_first {
            true => literal(0x40, name, value, &mut block),
            false => block.push(0x80 | u8::try_from(61 + fields.len() - at).unwrap_or(0)),
        }
    }
    block
}

fn request(stream: u32, is_first: bool) -> Vec<u8> {
    // GET, https; the path by its name in the static table.
    let mut begin = vec![0x82, 0x87, 0x04];
    let path = format!("/a/path/to/something/{stream}");
    begin.push(u8::try_from(path.len()).unwrap_or(0));
    begin.extend_from_slice(path.as_bytes());
    let block = block(&begin, &FIELDS, is_first);
    frame(1, END_HEADERS | END_STREAM, stream, &block)
}

fn answer(stream: u32, is_first: bool) -> Vec<u8> {
    let block = block(&[0x88], &ANSWER, is_first);
    let text = [b'x'; 1024];
    [
        frame(1, END_HEADERS, stream, &block),
        frame(0, END_STREAM, stream, &text),
    ]
    .concat()
}

/// A response of so many bytes, with its length or without.
fn bulk(has_length: bool) -> Vec<u8> {
    let mut block = vec![0x88];
    if has_length {
        literal(0, "content-length", &BULK_BYTES.to_string(), &mut block);
    }
    let mut all = frame(1, END_HEADERS, 1, &block);
    let text = vec![b'x'; 16_384];
    let count = BULK_BYTES / text.len();
    for number in 1..=count {
        all.extend(frame(0, u8::from(number == count), 1, &text));
    }
    all
}

/// How much of a core forging alone has for so much, against the same as HTTP/1.1.
fn bulk_against_raw(has_length: bool) -> (f64, f64) {
    let text = bulk(has_length);
    let mut raw = Session::new(None, forger());
    let mut told = Session::new(Some(Http1::new()), forger());
    let round = |session: &mut Session<Forger<Nowhere>>| {
        session.begin();
        session.say(Side::Client, &request(1, true));
        session.say(Side::Server, &text);
        session.event(FlowChange::Finish { from: Side::Client });
        session.event(FlowChange::Finish { from: Side::Server });
    };
    let result = compare(|| round(&mut raw), || round(&mut told));
    told.assert_told();
    let gbit = BULK_BYTES as f64 * 8.0 / result.b.as_secs_f64() / 1e9;
    (result.ratio, gbit)
}

/// Requests a second, one after another on a connection: told, and told and forged.
fn requests_per_s() -> (f64, f64) {
    let exchanges: Vec<_> = (0..REQUESTS)
        .map(|number| {
            let (stream, is_first) = (2 * number + 1, number == 0);
            (request(stream, is_first), answer(stream, is_first))
        })
        .collect();
    let mut told = Session::new(Some(Http1::new()), Passed(0));
    let mut forged = Session::new(Some(Http1::new()), forger());
    fn round<S: FlowSink>(session: &mut Session<S>, exchanges: &[(Vec<u8>, Vec<u8>)]) {
        session.begin();
        for (request, answer) in exchanges {
            session.say(Side::Client, request);
            session.say(Side::Server, answer);
        }
        session.event(FlowChange::Finish { from: Side::Client });
        session.event(FlowChange::Finish { from: Side::Server });
    }
    let result = compare(
        || round(&mut told, &exchanges),
        || round(&mut forged, &exchanges),
    );
    told.assert_told();
    forged.assert_told();
    let rate = |took: std::time::Duration| f64::from(REQUESTS) / took.as_secs_f64();
    (rate(result.a), rate(result.b))
}

/// By how many nanoseconds content of so many bytes, in a frame and an event of its own, is forged later than its frame as it is would be.
/// Nothing waits on the way: it is the time of the call.
fn added_ns(content_bytes: usize) -> f64 {
    let text = vec![b'x'; content_bytes];
    let frames: Vec<_> = (0..REQUESTS).map(|_| frame(0, 0, 1, &text)).collect();
    let head = frame(1, END_HEADERS, 1, &[0x88]);
    let mut raw = Session::new(None, forger());
    let mut told = Session::new(Some(Http1::new()), forger());
    let round = |session: &mut Session<Forger<Nowhere>>| {
        session.begin();
        session.say(Side::Client, &request(1, true));
        session.say(Side::Server, &head);
        for frame in &frames {
            session.say(Side::Server, frame);
        }
        session.event(FlowChange::Finish { from: Side::Client });
        session.event(FlowChange::Finish { from: Side::Server });
    };
    let result = compare(|| round(&mut raw), || round(&mut told));
    told.assert_told();
    let added = result.b.as_secs_f64() - result.a.as_secs_f64();
    added * 1e9 / f64::from(REQUESTS)
}

fn resident_bytes() -> anyhow::Result<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = statm.split(' ').nth(1).context("statm")?.parse()?;
    Ok(pages * rustix::param::page_size() as f64)
}

/// What the transform takes for each stream that is under way, its lane included; the forger's flow isn't.
fn stream_bytes() -> anyhow::Result<f64> {
    let mut sessions = Session::new(Some(Http1::new()), Passed(0));
    let before = resident_bytes()?;
    for _ in 0..SESSIONS {
        sessions.begin();
        for number in 0..STREAMS {
            sessions.say(Side::Client, &request(2 * number + 1, number == 0));
        }
    }
    sessions.assert_told();
    let streams = SESSIONS as f64 * f64::from(STREAMS);
    Ok((resident_bytes()? - before) / streams)
}

fn main() -> anyhow::Result<()> {
    let stream_bytes = stream_bytes()?;
    println!("a stream under way: {stream_bytes:.0} bytes of memory, its lane included");
    let (by_length, gbit) = bulk_against_raw(true);
    println!(
        "content of a known length: {by_length:.2} of forging the frames as they are, {gbit:.1} Gbit/s a core"
    );
    let (chunked, chunked_gbit) = bulk_against_raw(false);
    println!("content in chunks: {chunked:.2}, {chunked_gbit:.1} Gbit/s a core");
    let (told, forged) = requests_per_s();
    println!(
        "requests with an answer of 1 KiB: {told:.0}/s told, {forged:.0}/s told and forged, a core"
    );
    let added = [("64", 64), ("1k", 1 << 10), ("16k", 16 << 10)];
    let added = added.map(|(name, bytes)| (name, added_ns(bytes)));
    for (bytes, ns) in added {
        println!("content of {bytes} is forged {ns:.0} ns later than its frame would be");
    }
    let mut figures = Figures::default();
    for (bytes, ns) in added {
        figures.add(&format!("added_ns_{bytes}"), ns);
    }
    figures.add("bulk_vs_raw", by_length);
    figures.add("bulk_chunked_vs_raw", chunked);
    figures.add("bulk_gbit", gbit);
    figures.add("requests_per_s", told);
    figures.add("requests_forged_per_s", forged);
    figures.add("stream_bytes", stream_bytes);
    println!("{figures}");
    Ok(())
}
