//! What a flow is: whose, between whom, and how that was found out.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mirror_hook::event::{Announcement, EarlyData, Role, Transport};
use serde::{Deserialize, Serialize};

use crate::transform::Http1Part;
use crate::tunnel::remote;

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

/// Names a TLS session the same way at both of its ends: a hash of both randoms, or, where these
/// aren't known, of the agent's own numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowId(pub [u8; 16]);

/// In 32 hexadecimal digits.
impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlowId({self})")
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
    /// The process has one connection only that has carried what the session did.
    Counters,
}

impl Binding {
    /// In one word, for comments and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Told => "told",
            Self::Wire => "wire",
            Self::WireAmbiguous => "wire-ambiguous",
            Self::Counters => "counters",
            Self::Placeholder => "placeholder",
        }
    }
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

/// `CLIENT<-PROXY`, and `unknown` in place of a client that wasn't told.
impl fmt::Display for RealClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.told {
            Some((told, _)) => write!(f, "{told}<-{}", self.proxy),
            None => write!(f, "unknown<-{}", self.proxy),
        }
    }
}

/// What was seen of a session in front of its flow, see [`crate::midstream`]. Each by who said it: client, server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Bytes of clear text.
    pub bytes: [u64; 2],
    /// Places where some is missing.
    pub holes: [u64; 2],
    /// Bytes that are missing there.
    pub missing: [u64; 2],
    /// The flow follows it. Else this is all there was, and nothing is forged.
    pub shown: bool,
}

impl LeftOut {
    /// Bytes of a side, those that are missing among them.
    pub fn offset(&self, side: usize) -> u64 {
        self.bytes[side].saturating_add(self.missing[side])
    }
}

/// What the kernel said of the addresses that a process named as its socket's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Proof {
    /// The process has this connection, or its user in its network namespace has.
    Proven,
    /// Nobody could say: the connection had ended already, or another user made its socket.
    Unproven,
    /// The connection is another process's, or another live session's: the flow goes without these addresses.
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
    /// Another flow began it, of an agent before, or under addresses that turned out to be another's: the stream offsets
    /// of client and server at which it goes on here.
    pub continued: Option<(u64, u64)>,
    /// The client's JA4 fingerprint.
    pub ja4: Option<String>,
    /// At a collector: the agent that told of it, by the name under which it was let in. No agent says it itself.
    #[serde(skip)]
    pub agent: Option<Arc<str>>,
    /// Its client is a trusted proxy, or was. That is found out where packets are forged: no agent says it.
    #[serde(skip)]
    pub real_client: Option<RealClient>,
    /// Its beginning wasn't seen: what isn't in this flow. That is found out where packets are forged: no agent says it.
    #[serde(skip)]
    pub left_out: Option<LeftOut>,
    /// It was made of a session of HTTP/2. That is done where packets are forged: no agent says it.
    #[serde(skip)]
    pub http1: Option<Http1Part>,
}

impl FlowInfo {
    /// Its [`FlowInfo::role`] in one word, for comments, logs and people.
    pub fn role_word(&self) -> &'static str {
        match self.role {
            Role::Client => "client",
            Role::Server => "server",
        }
    }

    /// The same of its [`FlowInfo::announcement`].
    pub fn announcement_word(&self) -> &'static str {
        match self.announcement {
            Announcement::New => "new",
            Announcement::Midstream => "midstream",
            Announcement::Inherited => "inherited",
        }
    }

    /// The same of its [`FlowInfo::early`].
    pub fn early_word(&self) -> &'static str {
        match self.early {
            EarlyData::None => "none",
            EarlyData::Pending => "pending",
            EarlyData::Accepted => "accepted",
            EarlyData::Rejected => "rejected",
        }
    }
}
