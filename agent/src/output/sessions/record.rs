//! A line of the log. The names of fields are those of Suricata's EVE and of Zeek where these have one.

use std::io;

use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter};
use time::OffsetDateTime;

use crate::cipher::CipherName;
use crate::community::CommunityId;
use crate::container::Container;
use crate::event::{FlowInfo, Proof, ResetCause, Side, WallTime};
use crate::transform::{Http1Part, PartKind};

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Both sides said that they end.
    Finished,
    /// Abruptly.
    Reset(Side, ResetCause),
    /// It hadn't, when the log did.
    Open,
}

/// What passed, each by who said it: client, server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) bytes: [u64; 2],
    pub(super) holes: [u64; 2],
    pub(super) missing: [u64; 2],
}

impl Counts {
    /// What passed before the flow begins.
    pub(super) fn before(info: &FlowInfo) -> Self {
        let left_out = info.left_out.unwrap_or_default();
        Self {
            bytes: left_out.bytes,
            holes: left_out.holes,
            missing: left_out.missing,
        }
    }
}

#[derive(Serialize)]
struct Record<'a> {
    event_type: &'static str,
    ts: String,
    ts_end: String,
    duration: f64,
    session_id: String,
    community_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
    src_ip: String,
    src_port: u16,
    dest_ip: String,
    dest_port: u16,
    proto: &'static str,
    bound: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    claim: Option<&'static str>,
    role: &'static str,
    announced: &'static str,
    process: Process<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<Runs<'a>>,
    tls: Tls<'a>,
    bytes_toserver: u64,
    bytes_toclient: u64,
    holes_toserver: u64,
    holes_toclient: u64,
    missed_bytes_toserver: u64,
    missed_bytes_toclient: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    clear_prefix: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    continued: Option<Continued>,
    #[serde(skip_serializing_if = "Option::is_none")]
    midstream: Option<Midstream>,
    #[serde(skip_serializing_if = "Option::is_none")]
    real_client: Option<Behind>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http1: Option<Part>,
    end: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reset_by: Option<&'static str>,
}

/// Which part of a session of HTTP/2 it is.
#[derive(Serialize)]
struct Part {
    session_id: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset_toserver: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset_toclient: Option<u64>,
}

#[derive(Serialize)]
struct Process<'a> {
    pid: u32,
    uid: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    netns_name: Option<&'a str>,
}

#[derive(Serialize)]
struct Runs<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<&'static str>,
}

#[derive(Serialize)]
struct Tls<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sni: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpn: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_number: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cipher: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cipher_number: Option<u16>,
    resumed: bool,
    early_data: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ja4: Option<&'a str>,
}

#[derive(Serialize)]
struct Continued {
    offset_toserver: u64,
    offset_toclient: u64,
}

#[derive(Serialize)]
struct Midstream {
    shown: bool,
    left_out_toserver: u64,
    left_out_toclient: u64,
}

#[derive(Serialize)]
struct Behind {
    xff: String,
    proxy_ip: String,
    proxy_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<&'static str>,
    header_bytes: u32,
}

#[derive(Serialize)]
struct Lost {
    event_type: &'static str,
    ts: String,
    lost_sessions: u64,
}

/// The line of a session.
pub(super) fn session(
    info: &FlowInfo,
    (began, ended): (WallTime, WallTime),
    counts: &Counts,
    ending: Ending,
) -> Vec<u8> {
    let FlowInfo { tuple, process, .. } = info;
    let container = process.cgroup.as_deref().and_then(Container::of);
    line(&Record {
        event_type: "session",
        ts: timestamp(began),
        ts_end: timestamp(ended),
        duration: seconds(ended.0.saturating_sub(began.0)),
        session_id: info.id.to_string(),
        community_id: CommunityId(*tuple).to_string(),
        agent: info.agent.as_deref(),
        src_ip: tuple.client.ip().to_canonical().to_string(),
        src_port: tuple.client.port(),
        dest_ip: tuple.server.ip().to_canonical().to_string(),
        dest_port: tuple.server.port(),
        proto: "TCP",
        bound: info.binding.word(),
        claim: info.proof.map(Proof::word),
        role: info.role_word(),
        announced: info.announcement_word(),
        process: Process {
            pid: process.pid,
            uid: process.uid,
            name: &process.name,
            executable: process.executable.as_deref(),
            cgroup: process.cgroup.as_deref(),
            netns: process.network_namespace,
            netns_name: process.network_name.as_deref(),
        },
        container: container.map(|Container { id, runtime }| Runs { id, runtime }),
        tls: tls(info),
        bytes_toserver: counts.bytes[0],
        bytes_toclient: counts.bytes[1],
        holes_toserver: counts.holes[0],
        holes_toclient: counts.holes[1],
        missed_bytes_toserver: counts.missing[0],
        missed_bytes_toclient: counts.missing[1],
        clear_prefix: info.clear_prefix.filter(|bytes| *bytes > 0),
        continued: info.continued.map(|(client, server)| Continued {
            offset_toserver: client,
            offset_toclient: server,
        }),
        midstream: info.left_out.map(|left_out| Midstream {
            shown: left_out.shown,
            left_out_toserver: left_out.bytes[0],
            left_out_toclient: left_out.bytes[1],
        }),
        real_client: info.real_client.map(|real| Behind {
            xff: real.to_string(),
            proxy_ip: real.proxy.ip().to_canonical().to_string(),
            proxy_port: real.proxy.port(),
            ip: real.told.map(|(told, _)| told.ip.to_string()),
            port: real.told.and_then(|(told, _)| told.port),
            by: real.told.map(|(_, way)| way.word()),
            header_bytes: real.header_bytes,
        }),
        http1: info.http1.as_ref().map(part),
        end: match ending {
            Ending::Finished => "finished",
            Ending::Reset(_, ResetCause::Abort) => "reset",
            Ending::Reset(_, ResetCause::Died) => "died",
            Ending::Reset(_, ResetCause::Undecoded) => "undecoded",
            Ending::Reset(_, ResetCause::Untold) => "agent-ended",
            Ending::Open if info.agent.is_some() => "collector-ended",
            Ending::Open => "agent-ended",
        },
        reset_by: match ending {
            Ending::Reset(Side::Client, ResetCause::Abort) => Some("client"),
            Ending::Reset(Side::Server, ResetCause::Abort) => Some("server"),
            _ => None,
        },
    })
}

fn part(part: &Http1Part) -> Part {
    let (kind, lane, raw) = match part.kind {
        PartKind::Lane(number) => ("lane", Some(number), None),
        PartKind::Push(number) => ("push", Some(number), None),
        PartKind::Raw {
            client,
            server,
            why,
        } => ("raw", None, Some((client, server, why))),
    };
    Part {
        session_id: part.session.to_string(),
        kind,
        lane,
        reason: raw.map(|(_, _, why)| why.word()),
        offset_toserver: raw.map(|(client, _, _)| client),
        offset_toclient: raw.map(|(_, server, _)| server),
    }
}

/// The line in whose place these sessions would stand.
pub(super) fn lost(sessions: u64, at: WallTime) -> Vec<u8> {
    line(&Lost {
        event_type: "lost",
        ts: timestamp(at),
        lost_sessions: sessions,
    })
}

fn tls(info: &FlowInfo) -> Tls<'_> {
    Tls {
        sni: info.sni.as_deref(),
        alpn: info.alpn.as_deref(),
        version: info.tls_version.map(version),
        version_number: info.tls_version,
        cipher: info.cipher.map(|it| CipherName(it).to_string()),
        cipher_number: info.cipher,
        resumed: info.resumed,
        early_data: info.early_word(),
        ja4: info.ja4.as_deref(),
    }
}

/// As Suricata has it.
fn version(number: u16) -> String {
    match number {
        0x0300 => "SSLv3".into(),
        0x0301..=0x0304 => format!("TLS 1.{}", number - 0x0301),
        other => format!("{other:#06x}"),
    }
}

fn line(record: &impl Serialize) -> Vec<u8> {
    let mut line = Vec::with_capacity(1024);
    let mut serializer = Serializer::with_formatter(&mut line, Ascii);
    // Texts and numbers into memory: there is nothing that could fail.
    if record.serialize(&mut serializer).is_err() {
        line.clear();
    }
    line.push(b'\n');
    line
}

/// Names come from strangers, and the log is read on terminals: all that isn't ASCII, and its DEL, is escaped
/// (RFC 8259, section 7), as controls are anyway.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut plain = fragment;
        while let Some(at) = plain.find(|it: char| !it.is_ascii() || it == '\x7f') {
            let (before, rest) = plain.split_at(at);
            CompactFormatter.write_string_fragment(writer, before)?;
            let mut rest = rest.chars();
            if let Some(character) = rest.next() {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
            plain = rest.as_str();
        }
        CompactFormatter.write_string_fragment(writer, plain)
    }
}

/// RFC 3339, UTC, with microseconds.
fn timestamp(at: WallTime) -> String {
    // Until 2554.
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0));
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.microsecond()
    )
}

/// With microseconds.
fn seconds(ns: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "exact for 285 years")]
    let us = (ns / 1000) as f64;
    us / 1e6
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mirror_hook::event::{Announcement, EarlyData};
    use serde_json::{Value, json};

    use super::*;
    use crate::event::{Binding, LeftOut, ProcessInfo, RealClient, RealClientWay, ToldAddress};
    use crate::forge::testing;
    use crate::transform::Stop;

    fn parsed(line: &[u8]) -> Value {
        assert_eq!(line.last(), Some(&b'\n'));
        let text = &line[..line.len() - 1];
        let is_plain = |byte: &u8| (0x20..0x7f).contains(byte);
        assert!(text.iter().all(is_plain), "{}", text.escape_ascii());
        serde_json::from_slice(text).unwrap()
    }

    #[test]
    fn each_field_has_its_place() {
        let mut info = testing::info("[::ffff:192.0.2.1]:50000", "[::ffff:198.51.100.1]:443");
        info.sni = Some("a.example".into());
        info.alpn = Some("h2".into());
        info.tls_version = Some(0x0304);
        info.cipher = Some(0x1302);
        info.resumed = true;
        info.early = EarlyData::Accepted;
        info.announcement = Announcement::Inherited;
        info.binding = Binding::Wire;
        info.proof = Some(Proof::Contradicted);
        info.clear_prefix = Some(42);
        info.continued = Some((7, 8));
        info.agent = Some("web1".into());
        info.ja4 = Some("t13d".into());
        let id = "0123456789abcdef".repeat(4);
        let cgroup = format!("/system.slice/docker-{id}.scope");
        info.process = Arc::new(ProcessInfo {
            executable: Some("/usr/bin/curl".into()),
            cgroup: Some(cgroup.clone()),
            network_namespace: Some(4_026_531_840),
            network_name: Some("blue".into()),
            ..ProcessInfo::clone(&info.process)
        });
        let counts = Counts {
            bytes: [1, 2],
            holes: [3, 4],
            missing: [5, 6],
        };
        let times = (
            WallTime(1_700_000_000_000_000_999),
            WallTime(1_700_000_001_500_001_000),
        );
        let ending = Ending::Reset(Side::Server, ResetCause::Abort);
        let expected = json!({
            "event_type": "session",
            "ts": "2023-11-14T22:13:20.000000Z",
            "ts_end": "2023-11-14T22:13:21.500001Z",
            "duration": 1.5,
            "session_id": "07070707070707070707070707070707",
            "community_id": "1:PdyKC+nLv5plb25nxNX77823Fj0=",
            "agent": "web1",
            "src_ip": "192.0.2.1", "src_port": 50000,
            "dest_ip": "198.51.100.1", "dest_port": 443,
            "proto": "TCP",
            "bound": "wire", "claim": "contradicted", "role": "client", "announced": "inherited",
            "process": {
                "pid": 4711, "uid": 1000, "name": "curl", "executable": "/usr/bin/curl",
                "cgroup": cgroup, "netns": 4_026_531_840_u64, "netns_name": "blue",
            },
            "container": { "id": id, "runtime": "docker" },
            "tls": {
                "sni": "a.example", "alpn": "h2", "version": "TLS 1.3", "version_number": 0x0304,
                "cipher": "TLS_AES_256_GCM_SHA384", "cipher_number": 0x1302,
                "resumed": true, "early_data": "accepted", "ja4": "t13d",
            },
            "bytes_toserver": 1, "bytes_toclient": 2,
            "holes_toserver": 3, "holes_toclient": 4,
            "missed_bytes_toserver": 5, "missed_bytes_toclient": 6,
            "clear_prefix": 42,
            "continued": { "offset_toserver": 7, "offset_toclient": 8 },
            "end": "reset", "reset_by": "server",
        });
        assert_eq!(parsed(&session(&info, times, &counts, ending)), expected);
    }

    #[test]
    fn who_is_behind_a_proxy_is_told() {
        let mut info = testing::info("203.0.113.7:50000", "198.51.100.1:443");
        let told = ToldAddress {
            ip: "203.0.113.7".parse().unwrap(),
            port: Some(50_000),
        };
        let mut real = RealClient {
            proxy: "10.0.0.5:34567".parse().unwrap(),
            told: Some((told, RealClientWay::ProxyProtocol)),
            header_bytes: 28,
        };
        info.real_client = Some(real);
        let now = WallTime(0);
        let record =
            |info: &FlowInfo| session(info, (now, now), &Counts::default(), Ending::Finished);
        let expected = json!({
            "xff": "203.0.113.7:50000<-10.0.0.5:34567",
            "proxy_ip": "10.0.0.5", "proxy_port": 34567, "header_bytes": 28,
            "ip": "203.0.113.7", "port": 50000, "by": "proxy-protocol",
        });
        assert_eq!(parsed(&record(&info))["real_client"], expected);
        (real.told, real.header_bytes) = (None, 0);
        info.real_client = Some(real);
        let expected = json!({
            "xff": "unknown<-10.0.0.5:34567",
            "proxy_ip": "10.0.0.5", "proxy_port": 34567, "header_bytes": 0,
        });
        assert_eq!(parsed(&record(&info))["real_client"], expected);
    }

    /// What was left out is counted with the rest.
    #[test]
    fn what_is_not_shown_is_told() {
        let mut info = testing::info("192.0.2.1:50000", "198.51.100.1:443");
        let left_out = LeftOut {
            bytes: [1, 2],
            holes: [3, 4],
            missing: [5, 6],
            shown: true,
        };
        info.left_out = Some(left_out);
        let now = WallTime(0);
        let counts = Counts::before(&info);
        let record = parsed(&session(&info, (now, now), &counts, Ending::Finished));
        let expected = json!({ "shown": true, "left_out_toserver": 1, "left_out_toclient": 2 });
        assert_eq!(record["midstream"], expected);
        assert_eq!(
            (&record["bytes_toserver"], &record["bytes_toclient"]),
            (&json!(1), &json!(2))
        );
        assert_eq!(
            (&record["holes_toserver"], &record["missed_bytes_toclient"]),
            (&json!(3), &json!(6))
        );
    }

    #[test]
    fn parts_of_a_session_of_http2_are_told() {
        let mut info = testing::info("192.0.2.1:50000", "198.51.100.1:443");
        let session = info.id;
        let now = WallTime(0);
        let mut told = |kind| {
            info.http1 = Some(Http1Part { session, kind });
            let line = super::session(&info, (now, now), &Counts::default(), Ending::Finished);
            parsed(&line)["http1"].clone()
        };
        let id = "07".repeat(16);
        assert_eq!(
            told(PartKind::Lane(2)),
            json!({ "session_id": id, "kind": "lane", "lane": 2 })
        );
        assert_eq!(
            told(PartKind::Push(3)),
            json!({ "session_id": id, "kind": "push", "lane": 3 })
        );
        let raw = PartKind::Raw {
            client: 7,
            server: 8,
            why: Stop::Hole,
        };
        let expected = json!({
            "session_id": id, "kind": "raw", "reason": "hole", "offset_toserver": 7, "offset_toclient": 8,
        });
        assert_eq!(told(raw), expected);
    }

    #[test]
    fn what_is_not_known_is_not_there() {
        let mut info = testing::info("192.0.2.1:50000", "198.51.100.1:443");
        Arc::make_mut(&mut info.process).name.clear();
        let now = WallTime(0);
        let record = parsed(&session(
            &info,
            (now, now),
            &Counts::default(),
            Ending::Open,
        ));
        assert_eq!(record["process"], json!({ "pid": 4711, "uid": 1000 }));
        assert_eq!(
            record["tls"],
            json!({ "resumed": false, "early_data": "none" })
        );
        for absent in [
            "agent",
            "claim",
            "container",
            "clear_prefix",
            "continued",
            "midstream",
            "real_client",
            "http1",
            "reset_by",
        ] {
            assert!(record.get(absent).is_none(), "{absent}");
        }
        assert_eq!(record["end"], "agent-ended");
        info.agent = Some("web1".into());
        let at_collector = session(&info, (now, now), &Counts::default(), Ending::Open);
        assert_eq!(parsed(&at_collector)["end"], "collector-ended");
    }

    #[test]
    fn names_of_strangers_come_back_and_break_nothing() {
        let bad = "\"},\n\r\0\u{1b}[31m\\\u{7f}\u{9b}\u{202e}\u{2028}é\u{1f600}\u{fffd}";
        let mut info = testing::info("192.0.2.1:50000", "198.51.100.1:443");
        info.sni = Some(bad.into());
        info.alpn = Some(bad.into());
        info.agent = Some(bad.into());
        let process = Arc::make_mut(&mut info.process);
        process.name = bad.into();
        process.executable = Some(bad.into());
        process.cgroup = Some(format!("/lxc/{bad}"));
        process.network_name = Some(bad.into());
        let now = WallTime(u64::MAX);
        let line = session(&info, (now, now), &Counts::default(), Ending::Finished);
        let record = parsed(&line);
        let places = [
            "/tls/sni",
            "/tls/alpn",
            "/agent",
            "/process/name",
            "/process/executable",
            "/container/id",
            "/process/netns_name",
        ];
        for place in places {
            assert_eq!(record.pointer(place).unwrap(), bad, "{place}");
        }
    }
}
