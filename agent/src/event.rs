//! The events that travel down the column: from `intake` to `flow`, and from `flow` to `forge`.
//!
//! ```text
//! RawRecord ──intake──> SessionEvent ──flow──> FlowEvent ──forge──> Segment ──wire──> Frame ──> output
//! (hostile)             (checked)              (has its tuple)
//! ```
//!
//! Both kinds borrow their clear text: who must keep it, copies it. Times are in nanoseconds.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mirror_hook::event::{Announcement, CloseReason, Direction, EarlyData, Meta, Role, Transport};
use serde::{Deserialize, Serialize};

use crate::filter::Policy;
use crate::tunnel::remote;

/// CLOCK_MONOTONIC in nanoseconds, as the hook stamps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonotonicTime(pub u64);

/// Nanoseconds since 1970-01-01 00:00 UTC, as a capture file has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);

/// A session: one connection of one process (one ring).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    /// The ring, numbered by the agent; never used again.
    pub ring: u64,
    /// The connection's number in that ring.
    pub connection: u64,
}

/// The process that a ring belongs to, as the kernel tells it when the process asks for the agent.
///
/// Names are the process's own choice: whoever shows them escapes them. Bytes that are no UTF-8 are U+FFFD.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Process id in the agent's namespace.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// File name of its executable without directories; empty: not to be found out.
    pub name: String,
    /// Path of its executable, as the process's own root has it.
    pub executable: Option<String>,
    /// Path of its cgroup, proc_pid_cgroup(5), seen from the agent's cgroup namespace.
    pub cgroup: Option<String>,
    /// Its network namespace: the inode of `/proc/PID/ns/net`, namespaces(7).
    pub network_namespace: Option<u64>,
    /// What that is called on the host, by ip-netns(8).
    pub network_name: Option<String>,
}

/// Most bytes of each name in a [`ProcessInfo`]; of longer ones there is the end, behind `…`.
pub const MAX_PROCESS_NAME_BYTES: usize = 1024;

impl ProcessInfo {
    /// All its names.
    pub fn names_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let optional = [
            &mut self.executable,
            &mut self.cgroup,
            &mut self.network_name,
        ];
        let known = optional.into_iter().filter_map(Option::as_mut);
        std::iter::once(&mut self.name).chain(known)
    }

    /// Bytes of all its names.
    pub fn name_bytes(&self) -> usize {
        let optional = [&self.executable, &self.cgroup, &self.network_name];
        let known = optional.into_iter().flatten().map(String::len);
        self.name.len() + known.sum::<usize>()
    }
}

/// Something happened in a mirrored session. Everything in it has been checked.
#[derive(Clone, Copy, Debug)]
pub struct SessionEvent<'a> {
    /// Which session.
    pub session: SessionKey,
    /// When, by the mirrored process.
    pub at: MonotonicTime,
    /// What.
    pub change: SessionChange<'a>,
}

/// What happened in a session.
///
/// For each direction of a session `Data` and `Lost` follow one another without gap or overlap,
/// beginning at the offset that `Open` or `Resumed` gives; intake makes sure of it.
#[derive(Clone, Copy, Debug)]
pub enum SessionChange<'a> {
    /// It begins, or is announced.
    Open {
        /// Whose it is.
        process: &'a Arc<ProcessInfo>,
        /// What is known of it.
        meta: &'a Meta<'a>,
        /// The filters, as far as they concern the process; `None`: there are none.
        policy: Option<&'a Arc<Policy>>,
    },
    /// It was open when the agent before this one ended, and goes on here.
    Resumed {
        /// Whose it is.
        process: &'a Arc<ProcessInfo>,
        /// What was known of it; its offsets are those at which it goes on.
        meta: &'a Meta<'a>,
        /// The filters, as for `Open`.
        policy: Option<&'a Arc<Policy>>,
        /// Where its flow goes on.
        continued: &'a Continued,
    },
    /// More is known of it. Where its early data turns out to be rejected, the offsets of what is
    /// sent begin again at 0, once: what was sent before was never read.
    Update {
        /// What is known now; replaces what was.
        meta: &'a Meta<'a>,
    },
    /// Clear text passed.
    Data {
        /// Seen from the process.
        direction: Direction,
        /// Offset of the first byte.
        offset: u64,
        /// 1 to 16,384 bytes.
        bytes: &'a [u8],
    },
    /// Clear text passed that nobody saw.
    Lost {
        /// Seen from the process.
        direction: Direction,
        /// First offset.
        from: u64,
        /// Offset behind the last.
        to: u64,
    },
    /// One direction, or the session, ends. A hole at the tail came before as `Lost`.
    Close {
        /// What ends, and how.
        reason: CloseReason,
    },
    /// The process is gone: the session ends where it stands.
    Died,
}

/// Where a flow goes on that another agent began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continued {
    /// Stream offsets, sent and received, from which on it hasn't been passed on. Not below the
    /// session's own.
    pub base: (u64, u64),
    /// Its addresses, if they had been found.
    pub found: Option<(Tuple, Binding)>,
}

/// What has become of a session: for the agent that may have to go on with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The flow that tells it; none where another copy is told.
    pub flow: Option<u64>,
    /// The addresses that it was told with, by the first session of the flow.
    pub found: Option<(Tuple, Binding)>,
}

/// An end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Side {
    /// The one that connected.
    Client,
    /// The one that accepted.
    Server,
}

impl Side {
    /// The other end.
    pub fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// Who speaks when a process of this role sends or receives.
    pub fn speaker(role: Role, direction: Direction) -> Self {
        match (role, direction) {
            (Role::Client, Direction::Sent) | (Role::Server, Direction::Received) => Self::Client,
            (Role::Client, Direction::Received) | (Role::Server, Direction::Sent) => Self::Server,
        }
    }
}

/// Names a TLS session the same way at both of its ends: a hash of both randoms, or, where these
/// aren't known, of the agent's own numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowId(pub [u8; 16]);

impl fmt::Debug for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlowId(")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, ")")
    }
}

/// The two ends of a flow. Both are of one address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tuple {
    /// Who connected.
    pub client: SocketAddr,
    /// Who accepted.
    pub server: SocketAddr,
}

impl Tuple {
    /// As packets can have it, whose addresses are of one family: IPv4 addresses are written as such, and as IPv6 ones
    /// (RFC 4291 section 2.5.5.2) where the other end can only be that.
    #[must_use]
    pub fn in_one_family(self) -> Self {
        let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        let (client, server) = (canonical(self.client), canonical(self.server));
        if client.is_ipv4() == server.is_ipv4() {
            return Self { client, server };
        }
        let mapped = |end: SocketAddr| match end.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
            IpAddr::V6(_) => end,
        };
        Self {
            client: mapped(client),
            server: mapped(server),
        }
    }
}

/// How the clear text found its tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Binding {
    /// The library's socket told it.
    Socket,
    /// The application said so itself.
    Told,
    /// The handshake's randoms were seen on the wire.
    Wire,
    /// They were seen on the wire under several tuples; this is the first.
    WireAmbiguous,
    /// Nobody knows: the addresses are from a range for documentation.
    Placeholder,
}

/// A client's address, as a proxy tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ToldAddress {
    /// Its address; never an IPv4 one in the form of IPv6.
    pub ip: IpAddr,
    /// Its port, if that is told.
    pub port: Option<u16>,
}

impl fmt::Display for ToldAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.ip, port).fmt(f),
            None => self.ip.fmt(f),
        }
    }
}

/// How a proxy tells whom it speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RealClientWay {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// The PROXY protocol.
    ProxyProtocol,
}

impl RealClientWay {
    /// In one word, for comments and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::XForwardedFor => "xff",
            Self::Forwarded => "forwarded",
            Self::ProxyProtocol => "proxy-protocol",
        }
    }
}

/// Who is behind a trusted proxy, see [`crate::real`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealClient {
    /// Who connected: the proxy. The flow's own client is whom it speaks for.
    pub proxy: SocketAddr,
    /// The client as it was told, and how. Nothing: it wasn't, and the flow's client is the proxy.
    pub told: Option<(ToldAddress, RealClientWay)>,
    /// Bytes of a PROXY header in front of what the client says in this flow, which aren't in it.
    pub header_bytes: u32,
}

/// What the kernel said of the addresses that a process named as its socket's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Proof {
    /// The process has this connection.
    Proven,
    /// Nobody could say: the connection had ended already, or another user made its socket.
    Unproven,
    /// The connection is another process's: the flow goes without these addresses.
    Contradicted,
}

impl Proof {
    /// In one word, for comments and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Unproven => "unproven",
            Self::Contradicted => "contradicted",
        }
    }
}

/// What a flow is, for its first packet's comment and for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowInfo {
    /// The same at both ends.
    pub id: FlowId,
    /// Its addresses.
    pub tuple: Tuple,
    /// How they were found.
    pub binding: Binding,
    /// What the process's word for them is worth, where it gave it.
    pub proof: Option<Proof>,
    /// The process that was mirrored.
    pub process: Arc<ProcessInfo>,
    /// Which end it is.
    #[serde(with = "remote::RoleForm")]
    pub role: Role,
    /// How it came to be announced.
    #[serde(with = "remote::AnnouncementForm")]
    pub announcement: Announcement,
    /// What the TLS records travelled on.
    #[serde(with = "remote::TransportForm")]
    pub transport: Transport,
    /// Server name.
    pub sni: Option<String>,
    /// ALPN protocol.
    pub alpn: Option<String>,
    /// TLS version as on the wire.
    pub tls_version: Option<u16>,
    /// IANA number of the cipher suite.
    pub cipher: Option<u16>,
    /// The session was resumed.
    pub resumed: bool,
    /// What became of 0-RTT data.
    #[serde(with = "remote::EarlyDataForm")]
    pub early: EarlyData,
    /// Clear bytes that the client sent before TLS began, where that is known: more than 0 is
    /// STARTTLS or a PROXY header, and this flow begins after it.
    pub clear_prefix: Option<u64>,
    /// Another agent began it: the stream offsets of client and server at which it goes on here.
    pub continued: Option<(u64, u64)>,
    /// The client's JA4 fingerprint.
    pub ja4: Option<String>,
    /// At a collector: the agent that told of it, by the name under which it was let in. No agent says it itself.
    #[serde(skip)]
    pub agent: Option<Arc<str>>,
    /// Its client is a trusted proxy, or was. That is found out where packets are forged: no agent says it.
    #[serde(skip)]
    pub real_client: Option<RealClient>,
}

/// Something to be forged.
#[derive(Clone, Copy, Debug)]
pub struct FlowEvent<'a> {
    /// Numbered by the agent; never used again.
    pub flow: u64,
    /// The event's time. Never goes back within a flow.
    pub at: WallTime,
    /// What is to be forged.
    pub change: FlowChange<'a>,
}

/// What is to be forged. `Begin` comes first and once, nothing follows the flow's end: a `Finish`
/// of each side, or a `Reset`.
#[derive(Clone, Copy, Debug)]
pub enum FlowChange<'a> {
    /// The flow begins.
    Begin(&'a FlowInfo),
    /// Clear text.
    Data {
        /// Who speaks.
        from: Side,
        /// Offset of the first byte in what this side says in this flow, from 0.
        offset: u64,
        /// 1 to 16,384 bytes.
        bytes: &'a [u8],
    },
    /// This much of what a side says is missing here.
    Hole {
        /// Who spoke.
        from: Side,
        /// Offset of the first byte that is missing.
        offset: u64,
        /// How many are missing; at least 1.
        bytes: u64,
    },
    /// A side says no more.
    Finish {
        /// Who.
        from: Side,
    },
    /// The flow ends abruptly.
    Reset {
        /// Who ended it.
        by: Side,
        /// Why.
        cause: ResetCause,
    },
}

/// Why a flow ends abruptly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResetCause {
    /// Its program gave the connection up before both sides had said that they end.
    Abort,
    /// Its process is gone, or not believed any more: it broke the rules of its ring.
    Died,
    /// Whoever told of it is gone, or knows nothing of it any more: an agent, at a collector.
    Untold,
}

/// Takes flow events: the forger, or a summary for people.
pub trait FlowSink {
    /// Takes one event, in the order of its flow.
    fn flow_event(&mut self, event: FlowEvent<'_>);
}

/// A frame on its way out.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// When.
    pub at: WallTime,
    /// A whole Ethernet frame without FCS.
    pub frame: &'a [u8],
    /// What a reader should be told about it: on the first packet of a flow, and on a reset that tells of a hole or
    /// that the session itself did not show.
    pub comment: Option<&'a str>,
}

/// Takes packets: a capture file, an interface.
pub trait PacketSink {
    /// Takes one packet.
    ///
    /// # Errors
    /// The output can't be written; the caller stops or counts.
    fn packet(&mut self, packet: Packet<'_>) -> std::io::Result<()>;

    /// Hands on what is kept in buffers.
    ///
    /// # Errors
    /// As above.
    fn flush(&mut self) -> std::io::Result<()>;
}
