//! Options for what is behind a proxy.

use agent::filter::network;
use agent::real::Way;
use clap::Args;
use mirror_hook::filter::Network;

const BEHIND: &str = "Behind a proxy";

/// Whose address a flow has that a proxy began.
#[derive(Args, Clone, Debug)]
pub(crate) struct RealClientArgs {
    /// Show sessions that come from a trusted proxy under the address of the client that it speaks for: `xff` as
    /// X-Forwarded-For or Forwarded say in each HTTP/1.1 request, `proxy-protocol` as the PROXY header within TLS says.
    /// For example: --real-client xff --trusted-proxy 10.0.0.5
    #[arg(help_heading = BEHIND, long, value_name = "xff|proxy-protocol|off", default_value = "off",
          value_parser = parse_real_client)]
    pub(crate) real_client: RealClientChoice,

    /// Believe the proxies of this network, or at this address, and nobody else; may be repeated
    #[arg(help_heading = BEHIND, long, value_name = "NET", value_delimiter = ',', requires = "real_client",
          value_parser = network)]
    pub(crate) trusted_proxy: Vec<Network>,
}

/// How the client's address is told; nothing: it isn't asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RealClientChoice(pub(crate) Option<Way>);

fn parse_real_client(text: &str) -> Result<RealClientChoice, String> {
    match text {
        "xff" => Ok(RealClientChoice(Some(Way::Xff))),
        "proxy-protocol" => Ok(RealClientChoice(Some(Way::ProxyProtocol))),
        "off" => Ok(RealClientChoice(None)),
        _ => Err(format!("'{text}' is neither xff, proxy-protocol nor off")),
    }
}
