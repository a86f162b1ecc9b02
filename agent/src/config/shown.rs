//! How flows are shown: under the address of who is behind a proxy, HTTP/2 as HTTP/1.1.

use agent::real::Policy;
use anyhow::bail;

use super::OutputChoice;
use crate::cli::{Http1Args, RealClientArgs};

/// What `--real-client` asks for.
///
/// # Errors
/// Nobody is trusted, or no packets are made here.
pub(super) fn real_clients(
    args: RealClientArgs,
    outputs: &[OutputChoice],
) -> anyhow::Result<Option<Policy>> {
    let Some(way) = args.real_client.0 else {
        return Ok(None);
    };
    if args.trusted_proxy.is_empty() {
        bail!(
            "--real-client believes nobody without --trusted-proxy: say which proxies tell the truth, for example \
             `--trusted-proxy 10.0.0.5`"
        );
    }
    if outputs.iter().all(OutputChoice::is_away) {
        bail!(
            "--real-client is for who makes the packets, and -t sends sessions as they are: give it to the collector, \
             `sslcollector -C --real-client … --trusted-proxy …`"
        );
    }
    Ok(Some(Policy {
        way,
        trusted: args.trusted_proxy,
    }))
}

/// What HTTP/2 is shown as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Http2As {
    #[default]
    Itself,
    Http1,
    /// With content decoded.
    DecodedHttp1,
}

/// What `--http1` and `--decompress` ask for.
///
/// # Errors
/// No packets are made here.
pub(super) fn http1(args: &Http1Args, outputs: &[OutputChoice]) -> anyhow::Result<Http2As> {
    if args.http1 && outputs.iter().all(OutputChoice::is_away) {
        bail!(
            "--http1 is for who makes the packets, and -t sends sessions as they are: give it to the collector, \
             `sslcollector -C --http1 …`"
        );
    }
    Ok(match (args.http1, args.decompress) {
        (false, _) => Http2As::Itself,
        (true, false) => Http2As::Http1,
        (true, true) => Http2As::DecodedHttp1,
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;
    use crate::config::{Task, resolve};

    fn policy(words: &str) -> anyhow::Result<Option<Policy>> {
        let words = format!("sslcollector --socket x {words}");
        match resolve(Cli::try_parse_from(words.split_ascii_whitespace())?)? {
            Task::Mirror(settings) => Ok(settings.real_clients),
            other => bail!("{other:?}"),
        }
    }

    #[test]
    fn nobody_is_believed_by_accident() {
        let trusted = "--trusted-proxy 10.0.0.0/8 --trusted-proxy fd00::1,192.0.2.7";
        assert_eq!(policy("-w x").unwrap(), None);
        assert_eq!(policy("-w x --real-client off").unwrap(), None);
        let xff = policy(&format!("-w x --real-client xff {trusted}"));
        let xff = xff.unwrap().unwrap();
        assert_eq!(xff.trusted.len(), 3);
        assert!(xff.trusts("10.9.9.9".parse().unwrap()));
        assert!(!xff.trusts("11.0.0.1".parse().unwrap()));
        for (words, told) in [
            ("-w x --real-client xff".to_owned(), "--trusted-proxy"),
            (format!("-w x {trusted}"), "--real-client"),
            (format!("-w x --real-client x {trusted}"), "neither xff"),
            (
                "-w x --real-client xff --trusted-proxy 10.0.0.1/8".into(),
                "10.0.0.0/8?",
            ),
            (
                format!("-t sensor --real-client xff {trusted}"),
                "-C --real-client",
            ),
        ] {
            let error = policy(&words).unwrap_err().to_string();
            assert!(error.contains(told), "{words}: {error}");
        }
        assert!(policy(&format!("-t sensor -w x --real-client xff {trusted}")).is_ok());
    }

    #[test]
    fn http1_is_for_who_makes_the_packets() {
        let http1 = |words: &str| {
            let words = format!("sslcollector --socket x {words}");
            match resolve(Cli::try_parse_from(words.split_ascii_whitespace())?)? {
                Task::Mirror(settings) => Ok(settings.http1),
                Task::Collect(settings) => Ok(settings.http1),
                other => bail!("{other:?}"),
            }
        };
        assert_eq!(http1("-w x").unwrap(), Http2As::Itself);
        assert_eq!(http1("-w x --http1").unwrap(), Http2As::Http1);
        assert_eq!(http1("-t sensor -w x --http1").unwrap(), Http2As::Http1);
        let decoded = http1("-w x --http1 --decompress").unwrap();
        assert_eq!(decoded, Http2As::DecodedHttp1);
        assert!(http1("-w x --decompress").is_err());
        let error = http1("-t sensor --http1").unwrap_err().to_string();
        assert!(error.contains("-C --http1"), "{error}");
    }
}
