//! Options that say where packets go.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use agent::forge::{NetworkMap, PortMap};
use agent::output::{CaptureFormat, ListenAddress, Pace, Vni, VxlanAddress};
use agent::wire::{MacAddr, VlanId};
use clap::{ArgGroup, Args};

use super::values::{parse_capture_format, parse_pace, parse_rotation_size, parse_time};

/// Packets in a capture file.
#[derive(Args, Debug)]
pub(crate) struct CaptureArgs {
    /// Write the packets to this capture file (pcapng); `-` is standard output. `run` without this and -o shows
    /// a readable summary of the exchange on standard error
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,

    /// Begin a new file when one has about so many bytes (K, M and G are known): FILE gets numbers,
    /// out.00001.pcapng, which go on where files that are there already end. Sessions that are open go on in
    /// the new file with a handshake of their own
    #[arg(long, value_name = "BYTES", requires = "write", value_parser = parse_rotation_size)]
    pub(crate) rotate_size: Option<u64>,

    /// Begin a new file after this time (90s, 15m, 24h, 7d)
    #[arg(long, value_name = "TIME", requires = "write", value_parser = parse_time)]
    pub(crate) rotate_time: Option<Duration>,

    /// Keep so many of the numbered files, the newest ones, and remove the others
    #[arg(long, value_name = "N", requires = "write")]
    pub(crate) keep: Option<NonZeroUsize>,
}

const LOG: &str = "A log of sessions";
const INTERFACE: &str = "Packets on an interface";
const VXLAN: &str = "Packets by VXLAN";
const VIEW: &str = "How packets look, and how fast they go, on an interface and by VXLAN";
const READERS: &str = "Packets for readers who connect (PCAP-over-IP)";

/// All that says where packets go.
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("sending").args(["output", "vxlan"]).multiple(true))]
pub(crate) struct OutputArgs {
    /// Capture files.
    #[command(flatten)]
    pub(crate) capture: CaptureArgs,

    /// Interfaces that get the packets.
    #[command(flatten)]
    pub(crate) interface: InterfaceArgs,

    /// Machines that get them.
    #[command(flatten)]
    pub(crate) vxlan: VxlanArgs,

    /// How they look to both.
    #[command(flatten)]
    pub(crate) view: ViewArgs,

    /// Readers who connect.
    #[command(flatten)]
    pub(crate) readers: ReadersArgs,

    /// A line for each session.
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// A line for each session.
#[derive(Args, Debug)]
pub(crate) struct LogArgs {
    /// Write a line of JSON for each session at its end (sessions.jsonl): who spoke with whom, by which program, in which
    /// container, with which TLS, how much of it was seen; `-` is standard output, unless -w has it. It is written at
    /// the file's end; SIGHUP opens it anew, as logrotate wants it
    #[arg(help_heading = LOG, long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
}

/// Packets on an interface.
#[derive(Args, Debug)]
pub(crate) struct InterfaceArgs {
    /// Send the packets on this Ethernet interface, for a monitor there or at its far end. May stand beside -w
    #[arg(help_heading = INTERFACE, short = 'o', long = "output", value_name = "IFACE")]
    pub(crate) output: Option<String>,

    /// Make the interface of -o if it isn't there: a pair of virtual ones, IFACE and IFACE-tap
    #[arg(help_heading = INTERFACE, long, requires = "output")]
    pub(crate) create: bool,

    /// Send even where the default route leads: the clear text leaves this machine
    #[arg(help_heading = INTERFACE, long, requires = "output")]
    pub(crate) force: bool,

    /// Have the kernel cut packets, at about three fifths of the cost: for an interface whose wire is all that counts. Where the
    /// interface cuts by itself, this is said, and nothing changes
    #[arg(help_heading = INTERFACE, long, requires = "output", conflicts_with = "pace")]
    pub(crate) wire_only: bool,
}

/// Packets by VXLAN.
#[derive(Args, Debug)]
pub(crate) struct VxlanArgs {
    /// Send the packets to a sensor in VXLAN, as clouds mirror traffic; port 4789 if none is named; may be repeated.
    /// They travel in clear: who is on the way reads them
    #[arg(help_heading = VXLAN, long, value_name = "ADDRESS[:PORT]", requires = "vni")]
    pub(crate) vxlan: Vec<VxlanAddress>,

    /// Number of the virtual network in which --vxlan sends (0 to 16777215)
    #[arg(help_heading = VXLAN, long, value_name = "N", requires = "vxlan")]
    pub(crate) vni: Option<Vni>,
}

/// How packets look.
#[derive(Args, Debug)]
pub(crate) struct ViewArgs {
    /// Tag the packets with this VLAN, so that a monitor which sees the encrypted ones, too, tells them apart
    #[arg(help_heading = VIEW, long, value_name = "ID", requires = "sending")]
    pub(crate) vlan: Option<VlanId>,

    /// Ethernet address to send to, where a switch has to bring the packets to the monitor. Without it,
    /// they have addresses that no machine has
    #[arg(help_heading = VIEW, long, value_name = "ADDRESS", requires = "sending")]
    pub(crate) mac: Option<MacAddr>,

    /// Show servers' port A as B (443:80 for a monitor that takes ports for protocols); may be repeated
    #[arg(help_heading = VIEW, long, value_name = "A:B", requires = "sending")]
    pub(crate) port_map: Vec<PortMap>,

    /// Show addresses of one network as those of another (127.0.0.0/16=10.127.0.0/16); may be repeated. Sessions
    /// within this host are left out unless their addresses are mapped to others
    #[arg(help_heading = VIEW, long, value_name = "NET=NET", requires = "sending")]
    pub(crate) net_map: Vec<NetworkMap>,

    /// Send at most so many bits a second (K, M and G are known), on the interface and to each sensor. What programs
    /// say faster finds their rings full
    #[arg(help_heading = VIEW, long, value_name = "BITS", requires = "sending", value_parser = parse_pace)]
    pub(crate) pace: Option<Pace>,
}

/// Readers who connect.
#[derive(Args, Debug)]
pub(crate) struct ReadersArgs {
    /// Give a capture to whoever connects here by TCP (wireshark -i TCP@HOST:PORT); may be repeated. Without an
    /// address only this machine can connect, and of its users root and who has started sslcollector
    #[arg(help_heading = READERS, long, value_name = "[ADDRESS]:PORT")]
    pub(crate) pcap_over_ip: Vec<ListenAddress>,

    /// Readers speak TLS, and see this certificate (PEM)
    #[arg(help_heading = READERS, long, value_name = "FILE", requires_all = ["pcap_over_ip", "pcap_over_ip_key"])]
    pub(crate) pcap_over_ip_cert: Option<PathBuf>,

    /// Its key (PEM)
    #[arg(help_heading = READERS, long, value_name = "FILE", requires = "pcap_over_ip_cert")]
    pub(crate) pcap_over_ip_key: Option<PathBuf>,

    /// Readers must have a certificate by one of these (PEM)
    #[arg(help_heading = READERS, long, value_name = "FILE", requires = "pcap_over_ip_cert")]
    pub(crate) pcap_over_ip_client_ca: Option<PathBuf>,

    /// Whoever can connect may read, any user here and, at an address of this machine, any other machine. Without
    /// --pcap-over-ip-cert, who listens on the way reads, too
    #[arg(help_heading = READERS, long, requires = "pcap_over_ip", conflicts_with = "pcap_over_ip_client_ca")]
    pub(crate) pcap_over_ip_anybody: bool,

    /// So many readers at once (1 to 256)
    #[arg(help_heading = READERS, long, value_name = "N", requires = "pcap_over_ip", default_value = "16",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) pcap_over_ip_readers: u16,

    /// `pcap`, which every reader knows, or `pcapng`, which has comments and nanoseconds
    #[arg(help_heading = READERS, long, value_name = "pcap|pcapng", requires = "pcap_over_ip",
          default_value = "pcap", value_parser = parse_capture_format)]
    pub(crate) pcap_over_ip_format: CaptureFormat,
}
