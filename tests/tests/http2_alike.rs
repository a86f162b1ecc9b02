//! HTTP/2 shown as HTTP/1.1: Suricata tells of it what it tells of the same exchange by HTTP/1.1 in clear, which
//! dumpcap has captured. Chromium's, and curl's.

use std::path::Path;
use std::process::Command;

use mirror_tests::chromium;
use mirror_tests::clear::{Clear, alone};
use mirror_tests::examples::judge;
use mirror_tests::judges::{FileInfo, Profile, Suricata, Verdict};
use mirror_tests::lanes::{HTTP1, assert_lanes, curl, event, events, further_flows, word};
use mirror_tests::nginx::{LogEntry, Nginx, Options};
use mirror_tests::place::{HOST, Place, free_port};
use mirror_tests::process::output_of;
use mirror_tests::streams::Flow;

/// Objects of the page.
const OBJECTS: usize = 50;
/// Of bodies of more than 100 KB Suricata hashes the beginning only, unless it is told otherwise.
const LARGE: usize = 90_000;

/// Where the same nginx is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// TLS and HTTP/2.
    Http2(u16),
    /// HTTP/1.1.
    Clear(u16),
}

impl Way {
    fn url(self, path: &str) -> String {
        match self {
            Self::Http2(port) => format!("https://{HOST}:{port}{path}"),
            Self::Clear(port) => format!("http://{HOST}:{port}{path}"),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Http2(_) => "http2",
            Self::Clear(_) => "clear",
        }
    }
}

/// What was seen of both.
struct Seen {
    flows: Vec<Flow>,
    http2: Verdict,
    clear: Verdict,
    log: Vec<LogEntry>,
    said: String,
}

/// `talk` with nginx by HTTP/2, mirrored, and then by HTTP/1.1.
fn both_ways(place: &Place, talk: impl Fn(Way)) -> Seen {
    alone();
    let plain = free_port();
    let options = Options {
        http2: true,
        plain: Some(plain),
        ..Options::default()
    };
    let nginx = Nginx::with(place, options);
    let mirrored = nginx.service().start_with(place, &HTTP1);
    talk(Way::Http2(nginx.port));
    let clear = Clear::listen(place);
    talk(Way::Clear(plain));
    let said = mirrored.end().said;
    let (flows, http2) = judge(place);
    Seen {
        flows,
        http2,
        clear: clear.verdict(),
        log: nginx.log(),
        said,
    }
}

impl Seen {
    /// The http events and the files of both are the same, and so many.
    fn assert_alike(&self, requests: usize) {
        assert_eq!(events(&self.http2), events(&self.clear), "{}", self.said);
        assert_eq!(self.http2.http.len(), requests);
        assert_eq!(heads(&self.http2), heads(&self.clear));
        assert_eq!(files(&self.http2), files(&self.clear));
        let told = format!("shown as HTTP/1.1: {requests} requests");
        assert!(self.said.contains(&told), "{}", self.said);
        assert!(!self.said.contains("shown as frames"), "{}", self.said);
    }
}

fn heads(verdict: &Verdict) -> Vec<String> {
    let mut heads: Vec<_> = verdict.heads.iter().map(ToString::to_string).collect();
    heads.sort_unstable();
    heads
}

fn files(verdict: &Verdict) -> Vec<FileInfo> {
    let mut files = verdict.files.clone();
    files.sort();
    files
}

/// Rules on what Chromium says, by its own words in HTTP/1.1.
const RULES: &str = r#"
alert http1 any any -> any any (msg:"page"; http.uri; content:"/get/page.html"; sid:1;)
alert http1 any any -> any any (msg:"browser"; http.user_agent; content:"HeadlessChrome/"; http.uri; content:"/get/83301"; endswith; sid:2;)
alert http1 any any -> any any (msg:"fetch"; http.header; content:"Sec-Fetch-Dest|3a 20|document"; sid:3;)
alert http1 any any -> any any (msg:"cookie"; http.cookie; content:"a=1|3b| b=2"; startswith; endswith; sid:4;)
alert http2 any any -> any any (msg:"http2"; sid:5;)
"#;

/// The page of `tests/data/page.html`: a POST, and fifty objects, of which Chromium asks for all at once.
#[test]
fn a_page_in_chromium() {
    let sizes: Vec<_> = (0..OBJECTS).map(|number| number * 1_700 + 1).collect();
    let place = Place::new(&sizes);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/page.html");
    std::fs::copy(page, place.path("www/page.html")).expect("a page");
    let seen = both_ways(&place, |way| {
        let document = chromium::page(&place, &way.url("/get/page.html"));
        assert!(document.contains("<title>loaded</title>"), "{document}");
    });
    seen.assert_alike(OBJECTS + 2);
    assert_eq!(seen.log.len(), 2 * (OBJECTS + 2));
    let is_whole = |entry: &LogEntry| entry.completed && entry.status == 200;
    assert!(seen.log.iter().all(is_whole), "{:?}", seen.log);
    let shown = events(&seen.http2);
    for size in sizes {
        let expected = event("GET", &format!("/get/{size}"), 200, size);
        let count = shown.iter().filter(|event| **event == expected).count();
        assert_eq!(count, 1, "{expected:?}");
    }
    let sessions = sessions(&seen.flows);
    assert_lanes(&seen.flows, sessions);
    let further = further_flows(&seen.said, shown.len());
    assert_eq!(seen.flows.len(), sessions + further, "{}", seen.said);
    let verdict = Suricata.read_by(
        RULES,
        &place.path("capture.pcapng"),
        Profile::Sslcollector,
        &place.path("judge"),
    );
    let alerts = verdict.objections.iter();
    let matched = alerts.map(|alert| alert.rsplit(": ").next().unwrap_or_default());
    let mut matched: Vec<_> = matched.collect();
    matched.sort_unstable();
    let mut expected = vec!["browser"];
    expected.extend(["cookie"; OBJECTS + 1]);
    expected.extend(["fetch", "page"]);
    assert_eq!(matched, expected);
}

fn sessions(flows: &[Flow]) -> usize {
    let mut ids: Vec<_> = flows.iter().map(|flow| word(flow, "session")).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.len()
}

/// A request of curl's: its options, and the path.
type Request<'a> = (&'a [&'a str], &'a str);

/// curl's words for `requests` one after another on one connection; what it gets is written to `out/NUMBER.NAME`.
fn one_after_another(place: &Place, way: Way, requests: &[Request<'_>]) -> Vec<String> {
    let (port, version) = match way {
        Way::Http2(port) => (port, "--http2"),
        Way::Clear(port) => (port, "--http1.1"),
    };
    let mut words = Vec::new();
    for (number, (options, path)) in requests.iter().enumerate() {
        let mut one = curl(place, port);
        if number > 0 {
            // It is the first of all words, or nothing.
            one.retain(|word| word != "-q");
            one[0] = "--next".into();
        }
        one.push(version.into());
        one.extend(options.iter().map(|&word| word.to_owned()));
        let out = place.path(&format!("out/{number}.{}", way.name()));
        one.extend([way.url(path), "-o".into(), out.display().to_string()]);
        words.extend(one);
    }
    words
}

/// curl makes them both ways, and got the same but for what differs in heads.
fn curl_both_ways(place: &Place, requests: &[Request<'_>]) -> Seen {
    let seen = both_ways(place, |way| {
        let words = one_after_another(place, way, requests);
        output_of(Command::new(&words[0]).args(&words[1..]));
        // What is put is new to the server either way.
        let _ = std::fs::remove_file(place.path("put/x"));
    });
    for (number, request) in requests.iter().enumerate() {
        // Of nothing it makes no file.
        let file = |name: &str| place.path(&format!("out/{number}.{name}"));
        let got = |name: &str| std::fs::read(file(name)).unwrap_or_default();
        let is_head = request.0 == ["-I"];
        assert!(is_head || got("http2") == got("clear"), "{request:?}");
    }
    seen
}

/// Each kind of request and of answer.
#[test]
fn requests_of_curl() {
    let place = Place::new(&[0, 1, 16_385, LARGE]);
    let upload = place.path(&format!("www/{LARGE}")).display().to_string();
    let file = format!("@{upload}");
    let requests: [(Request<'_>, u64); 16] = [
        ((&[], "/get/0"), 200),
        ((&[], "/get/1?a=b%20c"), 200),
        ((&[], "/get/16385"), 200),
        ((&[], "/get/90000"), 200),
        (
            (
                &["-A", "a browser/1", "-e", "elsewhere", "-b", "a=1; b=2"],
                "/get/1",
            ),
            200,
        ),
        ((&["-I"], "/get/16385"), 200),
        ((&["--data-binary", &file], "/post/x"), 200),
        ((&["--data-binary", "a=1&b=2"], "/post/y"), 200),
        ((&["-T", &upload], "/put/x"), 201),
        ((&["-T", &upload], "/put/x"), 204),
        ((&["-H", "If-None-Match: *"], "/get/16385"), 304),
        ((&["-r", "100-199"], "/get/90000"), 206),
        ((&["-r", "90000-"], "/get/90000"), 416),
        ((&["-X", "OPTIONS"], "/get/1"), 405),
        ((&["-X", "DELETE"], "/put/x"), 405),
        ((&[], "/get/none"), 404),
    ];
    let statuses = requests.map(|(_, status)| status);
    let seen = curl_both_ways(&place, &requests.map(|(request, _)| request));
    seen.assert_alike(requests.len());
    let logged: Vec<_> = seen.log.iter().map(|entry| entry.status).collect();
    assert_eq!(logged, [statuses, statuses].concat());
    let shown: Vec<_> = seen.http2.http.iter().map(|event| event.status).collect();
    assert_eq!(shown, statuses);
    assert_lanes(&seen.flows, 1);
    assert_eq!(seen.flows.len(), 1, "one after another: {}", seen.said);
}

/// Content that nobody tells the length of, up and down, and compressed.
#[test]
fn content_of_unknown_length() {
    let place = Place::new(&[1, LARGE]);
    let text = "the same again and again\n".repeat(3_000);
    std::fs::write(place.path("www/text"), &text).expect("a file");
    let text = place.path("www/text").display().to_string();
    let requests: [Request<'_>; 5] = [
        (&[], "/chunked/90000"),
        (&["--compressed"], "/gzip/90000"),
        (&["--compressed"], "/gzip/text"),
        (&["-T", &text, "-H", "Transfer-Encoding: chunked"], "/put/x"),
        (&["--compressed"], "/gzip/1"),
    ];
    let mut seen = curl_both_ways(&place, &requests);
    for verdict in [&mut seen.http2, &mut seen.clear] {
        // Suricata counts with what frames chunks, of which the server makes others in HTTP/1.1.
        verdict.http.iter_mut().for_each(|event| event.length = 0);
        verdict
            .heads
            .iter_mut()
            .for_each(|head| head["length"] = 0.into());
    }
    seen.assert_alike(requests.len());
    let sizes: Vec<_> = files(&seen.http2).iter().map(|file| file.size).collect();
    assert_eq!(sizes, [90_000, 1, 90_000, 75_000, 75_000]);
    let response = seen.flows[0].response.whole().expect("no hole");
    let chunked = b"\r\nTransfer-Encoding: chunked\r\n";
    let chunked = response
        .windows(chunked.len())
        .filter(|text| text == chunked);
    assert!(chunked.count() >= 3);
}
