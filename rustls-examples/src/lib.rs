//! What the programs in `src/bin` have in common, none of which has to do with mirroring: certificates from
//! PEM files, files to be served, and when to end.
//!
//! | program | what it is built on | mirrored by |
//! |---|---|---|
//! | `hyper-server` | hyper 1, tokio | `rustls_mirror::tokio` in place of tokio-rustls |
//! | `blocking-client` | rustls over a `TcpStream` | `rustls_mirror` in place of rustls |
//! | `axum-service` | axum, axum-server | `rustls_mirror::install` |
//! | `tonic-service` | tonic (gRPC), server and client | `rustls_mirror::install` |
//! | `reqwest-client` | reqwest | `rustls_mirror::install` |
//! | `carried` | rustls over pipes, which others carry to a socket | each of these |
//!
//! A server prints the address that it listens on, and ends in good order at SIGTERM or SIGINT. Each program run without
//! arguments says which it takes.

pub mod hpke;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::signal::unix::{SignalKind, signal};

/// How a program ends: with status 1 and one line on standard error where something went wrong.
pub fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The program's arguments, without its name.
///
/// # Errors
/// Others than `usage` says: fewer than `least`, or one that isn't UTF-8.
pub fn arguments(least: usize, usage: &str) -> anyhow::Result<Vec<String>> {
    let words: Result<Vec<_>, _> = std::env::args_os()
        .skip(1)
        .map(|word| word.into_string())
        .collect();
    match words {
        Ok(words) if words.len() >= least => Ok(words),
        _ => bail!("usage: {usage}"),
    }
}

/// A certificate with its chain, and its key, from PEM files.
///
/// # Errors
/// A file can't be read, or has none.
pub fn identity(
    certificate: &str,
    key: &str,
) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| anyhow!("{key}: {error}"))?;
    Ok((certificates(certificate)?, key))
}

/// The certificates in a PEM file, each of which a server's may be signed by.
///
/// # Errors
/// It can't be read, has none, or one that is no root.
pub fn roots(path: &str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .with_context(|| format!("{path}: no root certificate"))?;
    }
    Ok(roots)
}

fn certificates(path: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    match read() {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => bail!("{path}: no certificate in it"),
        Err(error) => bail!("{path}: {error}"),
    }
}

/// The file `name` of `directory`, if it is there; a name that leads elsewhere is none.
pub async fn file(directory: &Path, name: &str) -> Option<Vec<u8>> {
    let plain = !name.starts_with('.') && !name.contains('/');
    let path: PathBuf = directory.join(name);
    if plain {
        tokio::fs::read(path).await.ok()
    } else {
        None
    }
}

/// Tells where a server listens, on standard output.
///
/// # Errors
/// Nobody reads it any more.
pub fn announce(address: SocketAddr) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "listening on {address}")?;
    out.flush().context("can't say where this listens")
}

/// Returns when SIGTERM or SIGINT asks for the end.
///
/// # Errors
/// The kernel's refusal to tell of signals.
pub async fn told_to_end() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
