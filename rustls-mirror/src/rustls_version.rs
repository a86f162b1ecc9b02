//! What depends on the version of rustls: here and nowhere else, as far as is practical.
//!
//! This is 0.23. Its connections are a struct for each side, around a [`rustls::ConnectionCommon`] that
//! is generic over the side's data; they buffer text and records themselves, and are driven by
//! `read_tls`, `process_new_packets`, `reader`, `writer` and `write_tls`. [`Side`] names the structs.
//!
//! 0.24 (seen as 0.24.0-dev.2) makes one struct of them, `Connection<Side, Transport>`, which buffers
//! nothing: `read_tls` takes the caller's input buffer and gives a handler whose `next_payload` hands
//! the text out, `write` appends records to the caller's vector, and `split` parts the directions.
//! `reader`, `writer`, `complete_io`, `Stream`, `StreamOwned`, the `CommonState` behind a mutable
//! reference and the unbuffered API are gone. What changes here then:
//!
//! - [`Side`] goes: `ClientSide` and `ServerSide` take the place of the connections' data.
//! - The wrapper keeps what [`crate::watch`] does, and calls it from `write` and around `next_payload`;
//!   `Reader`, `Writer` and the streams have nothing left to wrap.
//! - [`crate::tee`] gets the caller's buffers instead of a transport.
//! - [`agreed`] reads `ConnectionOutputs` instead of `CommonState`.

use std::io::Read;
use std::ops::DerefMut;

use mirror_hook::event::Role;
use rustls::client::ClientConnectionData;
use rustls::pki_types::ServerName;
use rustls::server::ServerConnectionData;
use rustls::{ClientConfig, CommonState, Error, ExtractedSecrets, HandshakeKind};

use crate::hello::Known;

/// Bytes of text that a connection takes at once while none of its records wait to be written, if
/// `set_buffer_limit` has said nothing else.
#[cfg(feature = "tokio")]
pub(crate) const BUFFER_LIMIT: usize = 64 * 1024;

/// Data specific to the peer's side, client or server; as [`rustls::SideData`], of the two sides that
/// are wrapped.
pub trait SideData: Side {}

impl<S: Side> SideData for S {}

/// Names what is wrapped of a side.
pub trait Side: rustls::SideData + Sized + 'static {
    /// rustls' connection.
    type Inner: DerefMut<Target = rustls::ConnectionCommon<Self>>;
    /// As the agent is told.
    const ROLE: Role;

    /// Whether the server reads the early data that this client has sent.
    fn early_data_accepted(inner: &Self::Inner) -> bool;
    /// Takes out the early data that this server has got and the application hasn't read.
    fn take_early_text(inner: &mut Self::Inner) -> Option<Vec<u8>>;
    /// As rustls does.
    ///
    /// # Errors
    /// As rustls'.
    fn extract_secrets(inner: Self::Inner) -> Result<ExtractedSecrets, Error>;
}

impl Side for ClientConnectionData {
    type Inner = rustls::ClientConnection;
    const ROLE: Role = Role::Client;

    fn early_data_accepted(inner: &Self::Inner) -> bool {
        inner.is_early_data_accepted()
    }

    fn take_early_text(_inner: &mut Self::Inner) -> Option<Vec<u8>> {
        None
    }

    fn extract_secrets(inner: Self::Inner) -> Result<ExtractedSecrets, Error> {
        inner.dangerous_extract_secrets()
    }
}

impl Side for ServerConnectionData {
    type Inner = rustls::ServerConnection;
    const ROLE: Role = Role::Server;

    fn early_data_accepted(_inner: &Self::Inner) -> bool {
        false
    }

    fn take_early_text(inner: &mut Self::Inner) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        // It is in memory: this can't fail.
        inner.early_data()?.read_to_end(&mut text).ok()?;
        Some(text)
    }

    fn extract_secrets(inner: Self::Inner) -> Result<ExtractedSecrets, Error> {
        inner.dangerous_extract_secrets()
    }
}

/// Adds what both sides have agreed on, once the handshake has ended.
pub(crate) fn agreed(common: &CommonState, known: &mut Known) {
    known.tls_version = common.protocol_version().map(u16::from);
    known.cipher = common
        .negotiated_cipher_suite()
        .map(|suite| u16::from(suite.suite()));
    known.alpn = common.alpn_protocol().unwrap_or_default().to_vec();
    known.resumed = common.handshake_kind() == Some(HandshakeKind::Resumed);
}

/// The server name that a client with this configuration is going to send; empty: none.
pub(crate) fn sni(config: &ClientConfig, name: &ServerName<'_>) -> Vec<u8> {
    match name {
        ServerName::DnsName(name) if config.enable_sni => name.as_ref().as_bytes().to_vec(),
        _ => Vec::new(),
    }
}
