//! What becomes of sessions whose beginning nobody saw.

use agent::midstream::Midstream;
use anyhow::bail;

use super::OutputChoice;
use crate::cli::MidstreamArgs;

/// What `--midstream` asks for.
///
/// # Errors
/// No packets are made here.
pub(super) fn midstream(
    args: MidstreamArgs,
    outputs: &[OutputChoice],
) -> anyhow::Result<Midstream> {
    let away = !outputs.is_empty() && outputs.iter().all(OutputChoice::is_away);
    if args.midstream == Midstream::Skip && away {
        bail!(
            "--midstream is for who makes the packets, and -t sends sessions as they are: give it to the collector, \
             `sslcollector -C --midstream skip …`"
        );
    }
    Ok(args.midstream)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;
    use crate::config::{Task, resolve};

    fn choice(words: &str) -> anyhow::Result<Midstream> {
        let words = format!("sslcollector {words}");
        match resolve(Cli::try_parse_from(words.split_ascii_whitespace())?)? {
            Task::Mirror(settings) => Ok(settings.midstream),
            Task::Collect(settings) => Ok(settings.midstream),
            other => bail!("{other:?}"),
        }
    }

    #[test]
    fn it_is_for_who_makes_packets() {
        assert_eq!(choice("--socket x -w x").unwrap(), Midstream::Forge);
        assert_eq!(
            choice("--socket x -w x --midstream forge").unwrap(),
            Midstream::Forge
        );
        for words in ["--socket x -w x", "--socket x -t sensor -w x", "-C -w x"] {
            let words = format!("{words} --midstream skip");
            assert_eq!(choice(&words).unwrap(), Midstream::Skip, "{words}");
        }
        for (words, told) in [
            (
                "--socket x -t sensor --midstream skip",
                "-C --midstream skip",
            ),
            ("--socket x -w x --midstream x", "neither forge nor skip"),
        ] {
            let error = choice(words).unwrap_err().to_string();
            assert!(error.contains(told), "{words}: {error}");
        }
    }
}
