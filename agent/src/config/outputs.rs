//! Where packets go.

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use agent::forge::View;
use agent::output::{Access, CaptureFormat, ListenAddress, Pace, TlsFiles, Vni, VxlanAddress};
use anyhow::bail;

use super::broker::{BrokerChoice, broker};
use super::tunnel::{TunnelChoice, tunnel};
use crate::cli::{BrokerArgs, OutputArgs, TunnelArgs};
use crate::rotation::RotationChoice;

/// Where packets go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OutputChoice {
    /// A capture file, or several one after the other.
    File(PathBuf, RotationChoice),
    /// A capture on standard output.
    Stdout,
    /// An interface.
    Interface(InterfaceChoice),
    /// A broker, from which collectors take what they make packets of.
    Broker(BrokerChoice),
    /// Collectors, which make the packets.
    Tunnel(TunnelChoice),
    /// A machine, by VXLAN.
    Vxlan(VxlanChoice),
    /// Captures for readers who connect.
    Readers(ReadersChoice),
    /// No packets: a line for each session.
    Log(LogChoice),
    /// No packets: a summary for people on standard error.
    Summary,
}

/// Where the log of sessions goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogChoice {
    /// At the end of this file.
    File(PathBuf),
    /// To standard output.
    Stdout,
}

/// An interface for packets, and how they look there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InterfaceChoice {
    /// Its name.
    pub(crate) name: String,
    /// Make it if it isn't there.
    pub(crate) create: bool,
    /// Also where the default route leads.
    pub(crate) force: bool,
    /// How flows look.
    pub(crate) view: View,
    /// How fast packets go out.
    pub(crate) pace: Option<Pace>,
    /// The kernel is to cut them.
    pub(crate) wire_only: bool,
}

/// A machine that gets packets by VXLAN, and how these look.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct VxlanChoice {
    /// Who gets them.
    pub(crate) destination: VxlanAddress,
    /// In which virtual network.
    pub(crate) vni: Vni,
    /// How flows look.
    pub(crate) view: View,
    /// How fast packets go out.
    pub(crate) pace: Option<Pace>,
}

/// Readers who connect.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReadersChoice {
    /// Where.
    pub(crate) listen: Vec<ListenAddress>,
    /// Who may.
    pub(crate) access: Access,
    /// How many at once.
    pub(crate) readers: usize,
    /// What they get.
    pub(crate) format: CaptureFormat,
}

impl fmt::Display for OutputChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, _) => path.display().fmt(f),
            Self::Stdout => f.write_str("standard output"),
            Self::Interface(choice) => f.write_str(&choice.name),
            Self::Broker(choice) => choice.fmt(f),
            Self::Tunnel(choice) => choice.fmt(f),
            Self::Vxlan(choice) => choice.destination.fmt(f),
            Self::Readers(choice) => write!(f, "PCAP-over-IP at {}", list(&choice.listen)),
            Self::Log(LogChoice::File(path)) => path.display().fmt(f),
            Self::Log(LogChoice::Stdout) => f.write_str("standard output"),
            Self::Summary => f.write_str("standard error"),
        }
    }
}

impl OutputChoice {
    /// Sessions go there as they are; others make packets of them.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Broker(_) | Self::Tunnel(_))
    }

    /// The same, or for a file that exists already, another one beside it: `out.pcapng`, `out.2.pcapng` …
    pub(crate) fn unused(&self) -> Self {
        let Self::File(path, rotation) = self else {
            return self.clone();
        };
        if *rotation != RotationChoice::default() {
            // Their numbers go on.
            return self.clone();
        }
        let numbered = |number: u64| match path.extension() {
            _ if number == 1 => path.clone(),
            Some(extension) => {
                let mut end = OsString::from(format!("{number}."));
                end.push(extension);
                path.with_extension(end)
            }
            None => path.with_extension(number.to_string()),
        };
        // A device or a pipe isn't something to be kept.
        let taken = |path: &PathBuf| path.metadata().is_ok_and(|file| file.is_file());
        let free = (1..).map(numbered).find(|path| !taken(path));
        Self::File(free.unwrap_or_else(|| path.clone()), *rotation)
    }
}

fn list(names: &[impl fmt::Display]) -> String {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    names.join(", ")
}

pub(super) fn outputs(
    args: OutputArgs,
    (tunnel_args, broker_args): (TunnelArgs, BrokerArgs),
) -> anyhow::Result<Vec<OutputChoice>> {
    let OutputArgs {
        capture,
        interface,
        vxlan,
        view,
        readers,
        log,
    } = args;
    let rotation = RotationChoice {
        bytes: capture.rotate_size,
        time: capture.rotate_time,
        keep: capture.keep.map(NonZeroUsize::get),
    };
    let to_stdout = capture
        .write
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-");
    if to_stdout && rotation != RotationChoice::default() {
        bail!(
            "standard output is one file: give a name with -w for --rotate-size, --rotate-time or --keep"
        );
    }
    if rotation.keep.is_some() && rotation.bytes.is_none() && rotation.time.is_none() {
        bail!(
            "--keep has nothing to keep: say when a new file begins with --rotate-size or --rotate-time"
        );
    }
    let capture = capture.write.map(|path| match to_stdout {
        true => OutputChoice::Stdout,
        false => OutputChoice::File(path, rotation),
    });
    let log = log.log.map(|path| match path.as_os_str() == "-" {
        true => OutputChoice::Log(LogChoice::Stdout),
        false => OutputChoice::Log(LogChoice::File(path)),
    });
    if to_stdout && log == Some(OutputChoice::Log(LogChoice::Stdout)) {
        bail!("standard output is one thing: give a name with -w or with --log");
    }
    let pace = view.pace;
    let view = View {
        vlan: view.vlan,
        destination: view.mac,
        networks: view.net_map,
        ports: view.port_map,
        without_loopback: true,
    };
    let interface_view = view.clone();
    let interface_output = interface.output.map(|name| {
        OutputChoice::Interface(InterfaceChoice {
            name,
            create: interface.create,
            force: interface.force,
            view: interface_view,
            pace,
            wire_only: interface.wire_only,
        })
    });
    // Each gets all, and forges for itself.
    let sensors = vxlan.vxlan.into_iter().zip(std::iter::repeat(vxlan.vni));
    let sensors = sensors.filter_map(|(destination, vni)| {
        Some(OutputChoice::Vxlan(VxlanChoice {
            destination,
            vni: vni?,
            view: view.clone(),
            pace,
        }))
    });
    let files = readers.pcap_over_ip_cert.zip(readers.pcap_over_ip_key);
    let client_ca = readers.pcap_over_ip_client_ca;
    let access = Access {
        tls: files.map(|(certificate, key)| TlsFiles {
            certificate,
            key,
            client_ca,
        }),
        anybody: readers.pcap_over_ip_anybody,
    };
    let listen = Some(readers.pcap_over_ip).filter(|all| !all.is_empty());
    let readers = listen.map(|listen| {
        OutputChoice::Readers(ReadersChoice {
            listen,
            access,
            readers: readers.pcap_over_ip_readers.into(),
            format: readers.pcap_over_ip_format,
        })
    });
    let limits = (tunnel_args.window, tunnel_args.linger);
    let away = match broker(
        &tunnel_args.tunnel,
        (broker_args, &tunnel_args.state),
        limits,
    )? {
        Some(_)
            if tunnel_args.spread
                || tunnel_args.compress.is_some()
                || tunnel_args.spool.is_some()
                || tunnel_args.insecure_plaintext =>
        {
            bail!(
                "--spread, --spool, --compress and --insecure-plaintext are about -t to collectors, not to a broker"
            )
        }
        Some(broker) => Some(OutputChoice::Broker(broker)),
        None => tunnel(tunnel_args)?.map(OutputChoice::Tunnel),
    };
    let others = [capture, interface_output, readers, away, log]
        .into_iter()
        .flatten();
    Ok(others.chain(sensors).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_that_exists_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let file = |name| OutputChoice::File(path(name), RotationChoice::default());
        let next = |name| file(name).unused();
        assert_eq!(next("out.pcapng"), file("out.pcapng"));
        for name in ["out.pcapng", "out.2.pcapng", "bare"] {
            std::fs::write(path(name), "").unwrap();
        }
        assert_eq!(next("out.pcapng"), file("out.3.pcapng"));
        assert_eq!(next("bare"), file("bare.2"));
    }
}
