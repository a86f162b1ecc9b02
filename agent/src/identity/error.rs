//! What goes wrong, with the next step.

use std::io;
use std::path::PathBuf;

use super::token::TokenError;
use crate::tunnel::frame::Reason;

/// An identity can't be made, found or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or directory of the state.
    #[error("can't {action} {path}: {source}", path = path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// With this one.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// There is an identity already, and it isn't overwritten.
    #[error("there is a collector's identity in {dir} already: agents that joined it trust its key. \
             `sslcollector -C --rotate` makes a new server key; to begin anew, move the directory away, and have every agent join again", dir = .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("no collector's identity in {dir}: make one with `sslcollector -C --init`", dir = .0.display())]
    NotInitialised(PathBuf),
    /// Others can read a private key.
    #[error("{path} can be read by others (mode {mode:o}): whoever did so knows the secret in it. Make a new one, or if you are sure, `chmod 600 {path}`", path = path.display())]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A file that can't be understood.
    #[error("{path} is damaged: {what}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The host doesn't know the collector that it shall send to.
    #[error(
        "this host hasn't joined the collector {collector}{known}. Two commands are missing:\n  \
             on the collector:  sslcollector enroll\n  on this host:      sslcollector join TOKEN"
    )]
    NotJoined {
        /// As the operator calls it.
        collector: String,
        /// Those that it knows, for people; may be empty.
        known: String,
    },
    /// No agent has this name.
    #[error("there is no agent {0}: `sslcollector agents` lists them")]
    NoAgent(String),
    /// Another agent has it.
    #[error(
        "there is an agent {0} already: revoke it first with `sslcollector agents revoke {0}`, or choose another name"
    )]
    NameTaken(String),
    /// A name that can't be one.
    #[error(
        "'{0}' is no name: 1 to 64 letters, digits, dots, dashes and underscores, with a letter or a digit first"
    )]
    BadName(String),
    /// A certificate that isn't the one that was asked for.
    #[error("the collector's certificate for this host isn't good: {0}")]
    BadCertificate(&'static str),
    /// Keys or certificates can't be made.
    #[error("can't make a key or certificate: {0}")]
    Crypto(String),
}

impl From<rcgen::Error> for IdentityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

impl From<rustls::Error> for IdentityError {
    fn from(error: rustls::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

/// A host couldn't join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token can't be read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// This collector is known here already.
    #[error(
        "this host has joined this collector already, as {name}: `sslcollector -t {address}` uses it. \
             `sslcollector join --again TOKEN` replaces the key"
    )]
    AlreadyJoined {
        /// The agent's name.
        name: String,
        /// The collector's first address.
        address: String,
    },
    /// None of the token's addresses answers.
    #[error(
        "can't reach the collector: {0}. Is `sslcollector -C` running there, and does a firewall let this host through? \
             `sslcollector enroll --address HOST:PORT` makes a token with other addresses"
    )]
    Unreachable(String),
    /// Who answers isn't the collector that made the token. Nothing was sent to it.
    #[error(
        "{address} isn't the collector that made this token: {why}. Nothing was sent to it. Is the address right? \
             If the collector was set up anew, make another token with `sslcollector enroll`"
    )]
    WrongCollector {
        /// Where it is.
        address: String,
        /// How it was noticed.
        why: String,
    },
    /// The collector says no.
    #[error("the collector refuses: {text}")]
    Refused {
        /// Why.
        reason: Reason,
        /// The same for people.
        text: String,
    },
    /// The conversation went wrong.
    #[error("the collector at {address} answers something else than expected: {what}")]
    Conversation {
        /// Where it is.
        address: String,
        /// What happened.
        what: String,
    },
    /// Keys or files of this host.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}
