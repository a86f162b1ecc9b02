//! Who is who between agents and collectors: keys, certificates, enrolment.
//!
//! ```text
//! collector                                               host
//! -C --init   CA, server key
//! enroll      token: addresses, pin of the CA, secret ─── copied by a person ──> join TOKEN
//!             serve_enrolment <── TLS, the pin is checked ── secret, request for a certificate
//!             registry: used, then the agent ── certificate ──> stored with its key
//! -C          server_config, admit <══ TLS, both sides show certificates ══ client_config   -t
//! ```
//!
//! - A collector is its own certificate authority, for nothing else. Its public key is the **pin**: a host trusts
//!   the collector that it joined, and no other one, whatever name or address that has.
//! - An agent is its **key**: the registry knows the keys that were enrolled, what each may say, and which are revoked.
//!   A certificate whose key isn't there is refused, whoever signed it.
//! - What an agent's certificate is good for a collector's isn't, and the other way round (RFC 5280 4.2.1.12).
//! - Private keys never leave the machine that made them. These are the tunnel's own: no key of a mirrored
//!   application is ever asked for.
//!
//! Everything here is done rarely and may write to disk; see each function.

mod addresses;
mod administration;
mod certificate;
mod collector;
#[cfg(test)]
mod corpus_tests;
mod enrol;
mod error;
mod files;
mod join;
mod limits;
mod membership;
mod refusals;
mod registry;
mod server;
mod token;
mod verify;

use std::path::{Path, PathBuf};

pub use administration::{Administration, NewToken};
pub use certificate::KeyId;
#[cfg(any(test, fuzzing))]
pub use certificate::hostile_request;
pub use collector::{CollectorIdentity, Refusal};
pub use enrol::{EnrolAnswer, EnrolRequest, Granted, MAX_ENROL_BYTES, refusal_text};
pub use error::{IdentityError, JoinError};
pub use files::{read_given_secret, write as write_secret, write_new as write_new_secret};
pub use join::{Joined, join};
pub(crate) use limits::network_of;
pub use membership::{AgentIdentity, Membership};
pub use refusals::RefusalCounts;
pub use registry::{AgentName, AgentRecord, ListedAgent, network_text};
pub use token::{Address, Token, TokenError};
pub use verify::{WrongCollector, explain};

/// What a tunnel's connection says that it speaks (ALPN, RFC 7301).
pub const TUNNEL_ALPN: &[u8] = b"sslcollector/1";
/// The same of a connection that enrols.
pub const ENROL_ALPN: &[u8] = b"sslcollector-enrol/1";
/// Where collectors listen, for both; not assigned to anybody else.
pub const DEFAULT_PORT: u16 = 7833;
/// Where identities are kept, unless the operator says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/sslcollector";
/// How long a token is good, unless the operator says otherwise, in seconds.
pub const TOKEN_SECONDS: u64 = 15 * 60;

/// Where an agent's memberships are, which it writes to when a certificate was renewed.
pub fn agent_directory(state_dir: &Path) -> PathBuf {
    membership::directory(state_dir)
}

/// Where a collector's identity and its registry are, which it writes to when an agent enrols.
pub fn collector_directory(state_dir: &Path) -> PathBuf {
    collector::directory(state_dir)
}
