//! A client without a runtime: rustls' `StreamOwned` over a `TcpStream`, one GET by HTTP/1.1. The body goes to
//! standard output.
//!
//! What was changed to have it mirrored:
//!
//! ```diff
//!  [dependencies]
//! -rustls = "0.23"
//! +rustls-mirror = { … }
//!
//! +use rustls_mirror as rustls;
//! ```

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_examples::{arguments, ended, roots};
use rustls_mirror as rustls;

fn main() -> ExitCode {
    ended(run())
}

fn run() -> anyhow::Result<()> {
    let words = arguments(2, "blocking-client ROOTS https://HOST:PORT/PATH [ADDRESS]")?;
    let url = words[1]
        .strip_prefix("https://")
        .context("the URL must begin with https://")?;
    let (host, path) = url.split_once('/').unwrap_or((url, ""));
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let mut address = words.get(2).map_or(host, String::as_str).to_owned();
    if !address.contains(':') {
        address += ":443";
    }

    let config = ClientConfig::builder()
        .with_root_certificates(roots(&words[0])?)
        .with_no_client_auth();
    let connection =
        ClientConnection::new(Arc::new(config), ServerName::try_from(name.to_owned())?)?;
    let socket =
        TcpStream::connect(&address).with_context(|| format!("can't connect to {address}"))?;
    let mut stream = StreamOwned::new(connection, socket);

    let request = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    // The end of file is close_notify's: a connection that was cut is an error.
    stream.read_to_end(&mut response)?;
    stream.conn.send_close_notify();
    stream.flush()?;

    let end = response.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = response.split_at(end.context("no HTTP response")? + 4);
    let status = String::from_utf8_lossy(head)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    if !status.starts_with("HTTP/1.1 200") {
        bail!("{status}");
    }
    std::io::stdout().write_all(body)?;
    Ok(())
}
