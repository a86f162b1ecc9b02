//! What becomes of sessions whose beginning nobody saw.

use agent::midstream::Midstream;
use clap::Args;

/// What becomes of them.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct MidstreamArgs {
    /// Sessions that had begun before sslcollector looked: `forge` them, from the next message of their client on, with
    /// a handshake of their own; or `skip` them, so that there is nothing of them in packets. The log and the report
    /// tell of them either way. For example: -I eth0 -o mirror0 --midstream skip
    #[arg(long, value_name = "forge|skip", default_value = "forge", value_parser = parse_midstream)]
    pub(crate) midstream: Midstream,
}

fn parse_midstream(text: &str) -> Result<Midstream, String> {
    match text {
        "forge" => Ok(Midstream::Forge),
        "skip" => Ok(Midstream::Skip),
        _ => Err(format!("'{text}' is neither forge nor skip")),
    }
}
