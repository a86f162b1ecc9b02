//! The command line, parsed and nothing more; `config` resolves it.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use agent::filter::{Condition, RuleError, UnknownFlow};
use agent::forge::{NetworkMap, PortMap};
use agent::output::Pace;
use agent::wire::{MacAddr, VlanId};
use clap::{Args, Parser, Subcommand};

/// What `--allow` and `--deny` take, for both helps.
macro_rules! rules {
    () => {
        "A RULE is conditions that must all hold, joined by commas:
  exe=/usr/sbin/nginx   the executable: its path, with * and ?; without / its file name
  uid=33                the user's number, as the process asks for the agent
  port=443              the TLS server's port, or a range: port=8000-8999
  net=10.0.0.0/8        the client's or the server's address; client-net=, server-net= one of them
  sni=*.example.com     the server name: one, all below a domain, or * for any
  role=server           which end of the connection the program is: client or server
or `all`. For example: --allow exe=nginx,port=443 --deny sni=*.bank.example --deny net=10.9.0.0/16
"
    };
}

/// Mirrors the clear text of TLS sessions, and shows it as packets.
#[derive(Debug, Parser)]
#[command(
    name = "sslcollector",
    version,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true,
    after_help = concat!("Examples:
  sslcollector run -- curl https://localhost/            show what curl says and hears
  sslcollector run -w out.pcapng -- curl https://…       the same as a capture
  sslcollector run -w - -- curl https://… | tshark -r -  live
  sslcollector -w out.pcapng                             serve every program that asks
  sslcollector -I eth0 -o mirror0 --create               … and send the packets where a sensor listens
  sslcollector -w out.pcapng --allow exe=nginx,port=443  … but mirror only this

", rules!(), "
Exit status: 0 good, 1 failure, 2 wrong usage; `run` passes the program's own on.
More: sslcollector run --help")
)]
pub(crate) struct Cli {
    /// What the agent does without a subcommand.
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
    /// The subcommand.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one program with the patched TLS library, and mirror just it and its children.
    #[command(after_help = concat!("Examples:
  sslcollector run -- curl https://localhost/
  sslcollector run -w out.pcapng -- curl -sk https://localhost/
  sslcollector run -w - -- curl -sk https://localhost/ | tshark -r - -Y http
  sslcollector run -w web.pcapng -- nginx -g 'daemon off;'
  sslcollector run --allow sni=*.example.com -- curl -sk https://www.example.com/ https://example.org/

", rules!(), "
The program's exit status is passed on (128 + N where signal N ended it), and its output is left
alone; with `-w -` its standard output goes to standard error. Signals are handed to it. No root is
needed; with the right to capture packets, sessions of programs whose library has no socket (curl,
httpd, HAProxy) carry their real addresses."))]
    Run(Box<RunArgs>),
    /// Print the directory of the patched library for a program, or for this machine's OpenSSL.
    #[command(after_help = "Example:
  SSLCOLLECTOR_ENABLE=1 LD_LIBRARY_PATH=$(sslcollector library-dir nginx) nginx")]
    LibraryDir {
        /// The program that shall load it
        program: Option<OsString>,
    },
}

/// Options that both ways of working have.
#[derive(Args, Debug)]
pub(crate) struct MirrorArgs {
    /// Interface on which to watch handshakes, to find the addresses of sessions without a socket;
    /// may be repeated; `any` is all, `none` is no watching
    #[arg(short = 'I', long = "interface", value_name = "IFACE")]
    pub(crate) interfaces: Vec<String>,

    /// Largest ring for one process, in bytes (a power of two, 64 KiB to 64 MiB; K and M are known)
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    pub(crate) ring_size: Option<u64>,

    /// Mirror only what RULE fits; may be repeated: one of them has to
    #[arg(long, value_name = "RULE", value_parser = parse_rule, help_heading = "Filters")]
    pub(crate) allow: Vec<Condition>,

    /// Don't mirror what RULE fits; may be repeated. Comes before every --allow
    #[arg(long, value_name = "RULE", value_parser = parse_rule, help_heading = "Filters")]
    pub(crate) deny: Vec<Condition>,

    /// What becomes of sessions whose library doesn't know their addresses (curl, httpd, HAProxy) where a
    /// rule asks for port or net: `exclude` them, so that nothing of them reaches sslcollector; or `mirror`
    /// them, and let sslcollector drop what the rules exclude once the wire has shown the addresses
    #[arg(long, value_name = "exclude|mirror", default_value = "exclude", help_heading = "Filters",
          value_parser = parse_unknown_flow)]
    pub(crate) unknown_flow: UnknownFlow,
}

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

const INTERFACE: &str = "Packets on an interface";

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

    /// Tag the packets with this VLAN, so that a monitor which sees the encrypted ones, too, tells them apart
    #[arg(help_heading = INTERFACE, long, value_name = "ID", requires = "output")]
    pub(crate) vlan: Option<VlanId>,

    /// Ethernet address to send to, where a switch has to bring the packets to the monitor. Without it,
    /// they have addresses that no machine has
    #[arg(help_heading = INTERFACE, long, value_name = "ADDRESS", requires = "output")]
    pub(crate) mac: Option<MacAddr>,

    /// Show servers' port A as B (443:80 for a monitor that takes ports for protocols); may be repeated
    #[arg(help_heading = INTERFACE, long, value_name = "A:B", requires = "output")]
    pub(crate) port_map: Vec<PortMap>,

    /// Show addresses of one network as those of another (127.0.0.0/16=10.127.0.0/16); may be repeated. Sessions
    /// within this host are left out unless their addresses are mapped to others
    #[arg(help_heading = INTERFACE, long, value_name = "NET=NET", requires = "output")]
    pub(crate) net_map: Vec<NetworkMap>,

    /// Send at most so many bits a second (K, M and G are known). What programs say faster finds their rings full
    #[arg(help_heading = INTERFACE, long, value_name = "BITS", requires = "output", value_parser = parse_pace)]
    pub(crate) pace: Option<Pace>,
}

/// `sslcollector` without a subcommand.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Capture files.
    #[command(flatten)]
    pub(crate) capture: CaptureArgs,

    /// Interfaces that get the packets.
    #[command(flatten)]
    pub(crate) interface: InterfaceArgs,

    /// Socket at which programs ask for the agent
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Options that `run` has, too.
    #[command(flatten)]
    pub(crate) mirror: MirrorArgs,
}

/// `sslcollector run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Capture files.
    #[command(flatten)]
    pub(crate) capture: CaptureArgs,

    /// Interfaces that get the packets.
    #[command(flatten)]
    pub(crate) interface: InterfaceArgs,

    /// What the program does where its ring is full: `drop` the text, which leaves a hole; or, for
    /// debugging, `wait:MS` for room, MS milliseconds a call at most (1 to 10000). Waiting slows the
    /// program down to the speed of sslcollector, and changes the order in which its threads run
    #[arg(long, value_name = "drop|wait:MS", default_value = "drop", value_parser = parse_on_full)]
    pub(crate) on_full: OnFull,

    /// Directory with the patched libssl; without it, the one for the OpenSSL that the program loads
    #[arg(long, value_name = "DIR")]
    pub(crate) library_dir: Option<PathBuf>,

    /// Options that serving has, too.
    #[command(flatten)]
    pub(crate) mirror: MirrorArgs,

    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "PROGRAM")]
    pub(crate) program: Vec<OsString>,
}

/// What a mirrored program does where its ring is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnFull {
    /// Goes on; the text is missing.
    Drop,
    /// Waits for room, this many milliseconds a call at most.
    Wait(u32),
}

impl OnFull {
    /// As the hook is told: 0 is no waiting.
    pub(crate) fn wait_ms(self) -> u32 {
        match self {
            Self::Drop => 0,
            Self::Wait(ms) => ms,
        }
    }
}

fn parse_rule(text: &str) -> Result<Condition, RuleError> {
    Condition::parse(text)
}

fn parse_unknown_flow(text: &str) -> Result<UnknownFlow, String> {
    match text {
        "exclude" => Ok(UnknownFlow::Exclude),
        "mirror" => Ok(UnknownFlow::Mirror),
        _ => Err(format!("'{text}' is neither exclude nor mirror")),
    }
}

fn parse_on_full(text: &str) -> Result<OnFull, String> {
    if text == "drop" {
        return Ok(OnFull::Drop);
    }
    let ms = text
        .strip_prefix("wait:")
        .and_then(|ms| ms.parse().ok())
        .filter(|ms| (1..=mirror_hook::layout::MAX_WAIT_MS).contains(ms));
    ms.map(OnFull::Wait)
        .ok_or_else(|| format!("'{text}' is neither drop nor wait:MS with MS from 1 to 10000"))
}

/// Bytes of a file: `100M`, `2G`.
fn parse_rotation_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1 << 10),
        Some((at, 'M' | 'm')) => (&text[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&text[..at], 1 << 30),
        _ => (text, 1_u64),
    };
    let bytes = digits
        .parse()
        .ok()
        .and_then(|number: u64| number.checked_mul(unit));
    bytes
        .filter(|bytes| *bytes >= 1 << 16)
        .ok_or_else(|| format!("'{text}' is no number of bytes from 64K on"))
}

/// `90s`, `15m`, `24h`, `7d`.
fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time like 90s, 15m, 24h or 7d");
    let (at, unit) = text.char_indices().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..at].parse().map_err(|_| wrong())?;
    let seconds = number.checked_mul(seconds).filter(|seconds| *seconds > 0);
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

/// Bits in a second: `500M`, `2.5G`.
fn parse_pace(text: &str) -> Result<Pace, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1e3),
        Some((at, 'M' | 'm')) => (&text[..at], 1e6),
        Some((at, 'G' | 'g')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let bits = number.parse::<f64>().ok().map(|number| number * unit);
    bits.and_then(Pace::bits_per_s)
        .ok_or_else(|| format!("'{text}' is no number of bits a second from 1M to 1000G"))
}

/// A number of bytes: `65536`, `64K`, `16M`.
fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1024),
        None => match text.strip_suffix(['M', 'm']) {
            Some(digits) => (digits, 1024 * 1024),
            None => (text, 1),
        },
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("'{text}' is no number of bytes"))?;
    let bytes = number
        .checked_mul(unit)
        .ok_or_else(|| format!("'{text}' is too large"))?;
    let range = mirror_hook::layout::BOOTSTRAP_BYTES..=mirror_hook::layout::MAX_DATA_BYTES;
    if !bytes.is_power_of_two() || !range.contains(&bytes) {
        return Err(format!("{bytes} isn't a power of two from 64K to 64M"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_program_keeps_its_own_options() {
        let cli = Cli::parse_from(["sslcollector", "run", "-w", "x", "--", "curl", "-w", "y"]);
        let Some(Command::Run(run)) = cli.command else {
            panic!("not run: {cli:?}")
        };
        assert_eq!(run.program, ["curl", "-w", "y"]);
        assert_eq!(run.capture.write, Some("x".into()));
    }

    #[test]
    fn waiting_has_a_bound() {
        assert_eq!(parse_on_full("drop"), Ok(OnFull::Drop));
        assert_eq!(parse_on_full("wait:250"), Ok(OnFull::Wait(250)));
        for bad in [
            "",
            "wait",
            "wait:",
            "wait:0",
            "wait:10001",
            "wait:-1",
            "block",
        ] {
            assert!(parse_on_full(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_run_can_make_a_program_wait() {
        let serve = ["sslcollector", "-w", "x", "--on-full", "wait:1"];
        assert!(Cli::try_parse_from(serve).is_err());
    }

    #[test]
    fn paces() {
        for good in ["1M", "1000K", "500M", "2.5G", "1000000"] {
            assert!(parse_pace(good).is_ok(), "{good}");
        }
        for bad in ["", "M", "0", "999K", "-1M", "nanM", "infG", "1001G", "1T"] {
            assert!(parse_pace(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_follow_by_size_and_time() {
        assert_eq!(parse_rotation_size("100M"), Ok(100 << 20));
        assert_eq!(parse_time("15m"), Ok(Duration::from_secs(900)));
        for bad in ["", "0", "1K", "x", "M", "1.5G", "99999999999999999999G"] {
            assert!(parse_rotation_size(bad).is_err(), "{bad}");
        }
        for bad in ["", "s", "0s", "90", "1w", "-1s", "1\u{e9}"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_about_an_interface_needs_one() {
        for option in [
            "--create",
            "--force",
            "--vlan=7",
            "--pace=1M",
            "--port-map=443:80",
        ] {
            assert!(
                Cli::try_parse_from(["sslcollector", "-w", "x", option]).is_err(),
                "{option}"
            );
            assert!(
                Cli::try_parse_from(["sslcollector", "-o", "x", option]).is_ok(),
                "{option}"
            );
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64K"), Ok(65536));
        assert_eq!(parse_size("16M"), Ok(16 << 20));
        for bad in ["", "x", "3M", "1K", "128M", "99999999999999999999M"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
