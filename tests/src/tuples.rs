//! Whose connections a mirrored program's sessions are, by everybody who knows: what its peers said and heard at each of
//! their ports, the real packets that passed, the log of sessions, the forged capture. All have to agree.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::curl::{Transfer, Truth};
use crate::decode::{SYN, Segment};
use crate::dialogue::Text;
use crate::network::Listener;
use crate::place::{Place, content};
use crate::process::find;
use crate::reader::Capture;
use crate::service::Seen;
use crate::sessions;
use crate::streams::Flow;

/// Files of a place that [`transfers`] ask for.
pub const SIZES: [usize; 4] = [0, 10_000, 16_385, 20_000];
/// Connections at a time.
pub const AT_ONCE: usize = 8;
/// Requests on a connection that is kept; and the connections that aren't, of each client.
pub const REQUESTS: usize = 4;

/// What curl asks a server for, eight clients at a time: first several requests on one connection of each, then the same
/// number on connections of their own. No request comes twice. What one of them is told fits the 64 KiB that a program may say
/// before its agent has looked.
pub fn transfers(server: IpAddr, upload: &str) -> Vec<Transfer> {
    let family = if server.is_ipv4() { "v4" } else { "v6" };
    let post = Transfer {
        url: format!("/{upload}/16385"),
        ..Transfer::post(16_385)
    };
    let kept = std::iter::once(Transfer::many(10_000, REQUESTS));
    let single = [
        Transfer::get("get", 20_000),
        post,
        Transfer::get("get", 0),
        Transfer::get("get", 16_385),
    ];
    let kinds = kept.chain(single.into_iter().cycle().take(REQUESTS));
    let each = kinds.flat_map(|kind| std::iter::repeat_n(kind, AT_ONCE));
    let numbered = each.enumerate().map(|(number, kind)| Transfer {
        name: format!("{family}-{number}"),
        url: format!("{}?{family}.{number}", kind.url),
        ..kind
    });
    numbered.collect()
}

/// What the log has to say of a session besides its addresses.
#[derive(Clone, Debug)]
pub struct Kind {
    /// The program: the name of its file.
    pub process: String,
    /// `client` or `server`; or where both ends are mirrored, and one copy is told, `client or server`.
    pub role: &'static str,
    /// How its addresses were found.
    pub bound: &'static str,
}

/// A connection as its unmirrored end knows it.
#[derive(Clone, Debug)]
pub struct Session {
    /// The TCP client.
    pub client: SocketAddr,
    /// The TCP server.
    pub server: SocketAddr,
    /// What was said on it.
    pub text: Text,
    /// What else is known.
    pub kind: Kind,
}

/// Who writes down what happens while a program is mirrored.
#[derive(Debug)]
pub struct Witness<'a> {
    place: &'a Place,
    listener: Listener,
    interface: &'static str,
}

impl<'a> Witness<'a> {
    /// Listens on `wire`; sslcollector is to watch `interface`.
    ///
    /// # Panics
    /// If it can't.
    pub fn new(place: &'a Place, wire: &str, interface: &'static str) -> Self {
        let listener = Listener::start(wire, &place.path("wire.pcapng"));
        Self {
            place,
            listener,
            interface,
        }
    }

    /// sslcollector's options besides its capture; a ring holds all that a process says.
    pub fn options(&self) -> Vec<String> {
        let log = self.place.path("sessions.jsonl").display().to_string();
        ["-I", self.interface, "--log", &log, "--ring-size", "4M"]
            .map(String::from)
            .into()
    }

    /// Compares all that was seen of a program that has ended: these sessions are in the log and in the capture, each once,
    /// whole and with its own addresses, and no other one is; and they are the TLS connections on the wire.
    ///
    /// # Panics
    /// If they aren't.
    pub fn judge(self, seen: &Seen, sessions: &[Session]) {
        let said = &seen.said;
        let log = sessions::read(&self.place.path("sessions.jsonl"));
        let logged: BTreeMap<_, _> = log.iter().map(|line| (ends_of(line), line)).collect();
        let flows = seen
            .flows
            .iter()
            .map(|flow| ((flow.client, flow.server), flow));
        let flows: BTreeMap<_, _> = flows.collect();
        let expected = sessions
            .iter()
            .map(|session| (session.client, session.server));
        let expected: BTreeSet<_> = expected.collect();
        assert_eq!(expected.len(), sessions.len(), "a port came twice");
        let on_wire = self
            .listener
            .end(|wire| connections(wire).len() >= expected.len());
        assert_same("on the wire", connections(&on_wire), &expected, said);
        assert_same(
            "in the log",
            logged.keys().copied().collect(),
            &expected,
            said,
        );
        assert_same(
            "in the capture",
            flows.keys().copied().collect(),
            &expected,
            said,
        );
        assert_eq!(
            (log.len(), seen.flows.len()),
            (sessions.len(), sessions.len()),
            "{said}"
        );
        for session in sessions {
            let ends = (session.client, session.server);
            session.compare(flows[&ends], logged[&ends]);
        }
    }
}

/// The sets are equal, else what is in one only.
fn assert_same(
    place: &str,
    seen: BTreeSet<(SocketAddr, SocketAddr)>,
    expected: &BTreeSet<(SocketAddr, SocketAddr)>,
    said: &str,
) {
    let foreign: Vec<_> = seen.difference(expected).collect();
    let missing: Vec<_> = expected.difference(&seen).collect();
    assert!(
        foreign.is_empty() && missing.is_empty(),
        "{place}: {foreign:?} are nobody's, {missing:?} aren't there\n{said}"
    );
}

fn ends_of(line: &Value) -> (SocketAddr, SocketAddr) {
    let end = |ip: &str, port: &str| {
        let ip = line[ip].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
        let port = line[port].as_u64().and_then(|port| port.try_into().ok());
        SocketAddr::new(ip.expect("an address"), port.expect("a port"))
    };
    (end("src_ip", "src_port"), end("dest_ip", "dest_port"))
}

/// The TCP connections on which a ClientHello passed, with who opened them first.
fn connections(wire: &Capture) -> BTreeSet<(SocketAddr, SocketAddr)> {
    let (mut opened, mut tls) = (BTreeSet::new(), BTreeSet::new());
    // Others: what the interface's own hosts say (ARP, MLD).
    let segments = wire.packets.iter();
    for segment in segments.filter_map(|packet| Segment::decode(&packet.frame).ok()) {
        let ends = (segment.source, segment.destination);
        if segment.flags == SYN {
            opened.insert(ends);
        }
        // A record with a handshake (RFC 8446 5.1), in a segment of its own also where the connection began in clear.
        if opened.contains(&ends) && segment.payload.starts_with(&[22, 3]) {
            tls.insert(ends);
        }
    }
    tls
}

impl Kind {
    /// What a program has to be called that is started by this path.
    ///
    /// # Panics
    /// If it isn't there.
    pub fn new(program: &str, role: &'static str, bound: &'static str) -> Self {
        let program = find(program).expect("the program is installed");
        // Distributions have links to another name's file.
        let file = program.canonicalize().expect("the program's file");
        let process = file.file_name().expect("a name").to_string_lossy();
        Self::named(&process, role, bound)
    }

    /// The same where the program isn't found by its name alone.
    pub fn named(process: &str, role: &'static str, bound: &'static str) -> Self {
        Self {
            process: process.to_owned(),
            role,
            bound,
        }
    }
}

impl Session {
    fn compare(&self, flow: &Flow, line: &Value) {
        let Kind {
            process,
            role,
            bound,
        } = &self.kind;
        let (role, bound) = (*role, *bound);
        let name = format!("{process}, {} to {}", self.client, self.server);
        assert_eq!(self.text.difference(flow), None, "{name}");
        let told = line["role"].as_str().expect("a role");
        assert!(
            role.split(" or ").any(|role| role == told),
            "{name}: {line}"
        );
        for (field, value) in [("bound", bound), ("announced", "new"), ("proto", "TCP")] {
            assert_eq!(line[field], value, "{name}: {line}");
        }
        assert_eq!(line["process"]["name"], process.as_str(), "{line}");
        // Where the library has a socket the kernel is asked, too; that the connection has ended by then is no objection.
        let claim = line["claim"].as_str();
        match bound {
            "socket" => assert!(matches!(claim, Some("proven" | "unproven")), "{line}"),
            _ => assert_eq!(claim, None, "{line}"),
        }
        for word in [
            format!("process={process}"),
            format!("role={told}"),
            format!("bound={bound}"),
        ] {
            let there = flow.comment.split(' ').any(|there| there == word);
            assert!(there, "{name}: {word} isn't in: {}", flow.comment);
        }
        for (side, stream) in [("toserver", &flow.request), ("toclient", &flow.response)] {
            assert_eq!(line[format!("bytes_{side}")], stream.length(), "{line}");
            for nothing in ["holes", "missed_bytes"] {
                assert_eq!(line[format!("{nothing}_{side}")], 0, "{line}");
            }
        }
    }
}

/// Writes lines of text, of which none comes twice, to the place's file `table`.
///
/// # Panics
/// If it can't.
pub fn table(place: &Place) -> Vec<u8> {
    let bytes = content(8000);
    let lines: String = bytes.chunks(40).map(|line| hex(line) + "\n").collect();
    std::fs::write(place.path("table"), &lines).expect("a file");
    lines.into_bytes()
}

/// Bytes as text.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The sessions of curl's transfers from this address, each on its own connection.
///
/// # Panics
/// If curl doesn't know all of a request.
pub fn of_curl(
    truths: Vec<(Transfer, Truth)>,
    client: IpAddr,
    server: SocketAddr,
    kind: &Kind,
) -> impl Iterator<Item = Session> {
    truths.into_iter().map(move |(_, truth)| Session {
        client: SocketAddr::new(client, truth.port),
        server,
        text: Text::Whole {
            request: truth.request.expect("a request of known framing"),
            response: truth.response,
        },
        kind: kind.clone(),
    })
}

/// The sessions of a client that left what it said on `count` connections in the files `out/NAME.N.*`.
///
/// # Panics
/// If it hasn't.
pub fn recorded(
    place: &Place,
    (name, count): (&str, usize),
    client: IpAddr,
    server: SocketAddr,
    kind: &Kind,
) -> impl Iterator<Item = Session> {
    (0..count).map(move |number| {
        let file = |what: &str| place.read(&format!("out/{name}.{number}.{what}"));
        let port = String::from_utf8_lossy(&file("port")).parse();
        Session {
            client: SocketAddr::new(client, port.expect("a port")),
            server,
            text: Text::Whole {
                request: file("sent"),
                response: file("received"),
            },
            kind: kind.clone(),
        }
    })
}
