//! The command line, parsed and nothing more; `config` resolves it.

mod broker;
mod collector;
mod file;
mod http1;
mod identity;
mod midstream;
mod outputs;
mod real;
mod tunnel;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use agent::filter::{Condition, UnknownFlow};
use agent::helper::User;
use clap::{Args, Parser, Subcommand};

pub(crate) use self::broker::{BrokerArgs, FleetKeyArgs, FleetKeyCommand, FromArgs, Target};
pub(crate) use self::collector::CollectorArgs;
pub(crate) use self::file::{FileArgs, Misuse, read};
pub(crate) use self::http1::Http1Args;
pub(crate) use self::identity::{AgentsArgs, AgentsCommand, EnrollArgs, IdentityArgs, JoinArgs};
pub(crate) use self::midstream::MidstreamArgs;
pub(crate) use self::outputs::OutputArgs;
pub(crate) use self::real::RealClientArgs;
pub(crate) use self::tunnel::TunnelArgs;
use self::values::{OnFull, parse_on_full, parse_rule, parse_size, parse_unknown_flow, parse_user};

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
  sslcollector --pcap-over-ip :57012                     … or let Wireshark connect (-i TCP@127.0.0.1:57012)
  sslcollector --vxlan 10.0.0.5 --vni 7                  … or send them to a sensor in VXLAN
  sslcollector -I eth0 -t sensor                         … and let a collector make the packets
  sslcollector -w out.pcapng --allow exe=nginx,port=443  … but mirror only this
  sslcollector -I eth0 -o mirror0 --http1                … and show HTTP/2 as HTTP/1.1, for rules that know that
  sslcollector -I eth0 -o mirror0 --http1 --decompress   … without gzip, deflate, br and zstd
  sslcollector -w out.pcapng --real-client xff --trusted-proxy 10.0.0.5
                                                         … and show whom a proxy speaks for
  sslcollector -C -o mirror0 --create                    be the collector that -t sends to

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
    /// On a collector: make a token that lets one host join it.
    #[command(
        after_help = "The token goes to standard output, and is good once. For example:
  sslcollector enroll --name web1 --net 10.1.0.0/16
  sslcollector enroll | ssh web1 sslcollector join -"
    )]
    Enroll(EnrollArgs),
    /// On a host: join the collector whose `sslcollector enroll` printed the token.
    #[command(after_help = "The host's key is made here and stays here. For example:
  sslcollector join sslc1_AQdzZW5zb3KZPe…
  sslcollector -I eth0 -t sensor")]
    Join(JoinArgs),
    /// On a collector: list the agents that joined it; revoke one, or say what it may send.
    #[command(after_help = "Examples:
  sslcollector agents
  sslcollector agents revoke web1
  sslcollector agents allow web1 10.1.0.0/16 2001:db8::7
  sslcollector agents limit web1 200M
A collector that runs takes changes when it is told to reload: SIGHUP.")]
    Agents(AgentsArgs),
    /// Print the directory of the patched library for a program, or for this machine's OpenSSL.
    #[command(after_help = "Example:
  SSLCOLLECTOR_ENABLE=1 LD_LIBRARY_PATH=$(sslcollector library-dir nginx) nginx")]
    LibraryDir {
        /// The program that shall load it
        program: Option<OsString>,
    },
    /// Make the keys for what goes by a broker: one for a fleet of collectors, one for each agent.
    #[command(after_help = "Example:
  sslcollector fleet-key init                         # on one collector; copy the file to the others
  sslcollector fleet-key agent web-1 > web-1.key      # then to the host, as /var/lib/sslcollector/fleet.key
  sslcollector fleet-key rotate                       # a new key; the older one is read until it is retired")]
    FleetKey(FleetKeyArgs),
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

/// `sslcollector` without a subcommand.
#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// Where packets go.
    #[command(flatten)]
    pub(crate) output: OutputArgs,

    /// Collectors that get the sessions.
    #[command(flatten)]
    pub(crate) tunnel: TunnelArgs,

    /// Whose address flows have.
    #[command(flatten)]
    pub(crate) real: RealClientArgs,

    /// Sessions whose beginning nobody saw.
    #[command(flatten)]
    pub(crate) midstream: MidstreamArgs,

    /// How HTTP/2 is shown.
    #[command(flatten)]
    pub(crate) http1: Http1Args,

    /// Collecting what others mirror.
    #[command(flatten)]
    pub(crate) collector: CollectorArgs,

    /// The collector's identity.
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,

    /// A broker in between.
    #[command(flatten)]
    pub(crate) broker: BrokerArgs,

    /// Collecting from a broker.
    #[command(flatten)]
    pub(crate) from: FromArgs,

    /// The configuration file.
    #[command(flatten)]
    pub(crate) file: FileArgs,

    /// Socket at which programs ask for the agent
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Who the agent becomes.
    #[command(flatten)]
    pub(crate) user: UserArgs,

    /// Options that `run` has, too.
    #[command(flatten)]
    pub(crate) mirror: MirrorArgs,
}

/// Who a command becomes that is started as root.
#[derive(Args, Debug)]
pub(crate) struct UserArgs {
    /// Started as root: become this user (a name, UID or UID:GID) once all is open, and keep no capability; a
    /// helper process keeps the few that are needed. Without it: sslcollector where there is such a user, else
    /// nobody. `root` stays root, in one process
    #[arg(long, value_name = "USER", value_parser = parse_user)]
    pub(crate) user: Option<User>,
}

/// `sslcollector run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Where packets go.
    #[command(flatten)]
    pub(crate) output: OutputArgs,

    /// Collectors that get the sessions.
    #[command(flatten)]
    pub(crate) tunnel: TunnelArgs,

    /// A broker in between.
    #[command(flatten)]
    pub(crate) broker: BrokerArgs,

    /// Whose address flows have.
    #[command(flatten)]
    pub(crate) real: RealClientArgs,

    /// Sessions whose beginning nobody saw.
    #[command(flatten)]
    pub(crate) midstream: MidstreamArgs,

    /// How HTTP/2 is shown.
    #[command(flatten)]
    pub(crate) http1: Http1Args,

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
        assert_eq!(run.output.capture.write, Some("x".into()));
    }

    #[test]
    fn only_run_can_make_a_program_wait() {
        let serve = ["sslcollector", "-w", "x", "--on-full", "wait:1"];
        assert!(Cli::try_parse_from(serve).is_err());
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
    fn how_packets_look_is_for_vxlan_too() {
        let parse =
            |words: &str| Cli::try_parse_from(format!("sslcollector {words}").split(' ')).map(drop);
        let good = "--vxlan 10.0.0.1 --vxlan [fd07::1]:8472 --vni 7";
        assert_eq!(parse(good).map_err(|error| error.to_string()), Ok(()));
        for option in ["--vlan 7", "--port-map 443:80", "--mac 52:54:00:12:34:56"] {
            assert!(parse(&format!("{good} {option}")).is_ok(), "{option}");
        }
        for bad in [
            "--vxlan 10.0.0.1",
            "--vni 7",
            "--vxlan 10.0.0.1 --vni 16777216",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&format!("{good} --create")).is_err());
        assert!(
            parse(&format!(
                "{good} --create -o mirror0 --mac 52:54:00:12:34:56"
            ))
            .is_ok()
        );
        assert!(parse(&format!("{good} --pace 1M")).is_ok());
    }

    #[test]
    fn readers_are_not_let_in_by_half() {
        let parse = |words: &str| {
            let words = format!("sslcollector --pcap-over-ip :0 {words}");
            Cli::try_parse_from(words.split_ascii_whitespace()).is_ok()
        };
        assert!(parse(""));
        assert!(parse(
            "--pcap-over-ip-cert c --pcap-over-ip-key k --pcap-over-ip-client-ca a"
        ));
        assert!(!parse("--pcap-over-ip-cert c"));
        assert!(!parse("--pcap-over-ip-key k"));
        assert!(!parse("--pcap-over-ip-client-ca a"));
        assert!(!parse("--pcap-over-ip-readers 0"));
    }
}
