//! A client on reqwest: HTTP/1.1 or HTTP/2, as ALPN chooses.
//!
//! Bodies go to standard output; standard error has a line for each response.
//!
//! What was changed to have it mirrored, at the beginning of `run`. reqwest takes the provider that the
//! process has as its default; its own code is untouched.
//!
//! ```diff
//! -    rustls::crypto::ring::default_provider().install_default();
//! +    rustls_mirror::install(rustls::crypto::ring::default_provider())?;
//! ```

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, bail};
use reqwest::{Certificate, Client, Url};
use rustls_examples::{arguments, ended};

const USAGE: &str =
    "reqwest-client ROOTS URL [--connect ADDRESS] [--http1] [--post FILE] [--times COUNT]";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    ended(run().await)
}

async fn run() -> anyhow::Result<()> {
    rustls_mirror::install(rustls::crypto::ring::default_provider())?;

    let words = arguments(2, USAGE)?;
    let url: Url = words[1].parse().with_context(|| words[1].clone())?;
    let pem = tokio::fs::read(&words[0])
        .await
        .with_context(|| words[0].clone())?;
    let roots = Certificate::from_pem_bundle(&pem).with_context(|| words[0].clone())?;
    let mut builder = Client::builder().tls_certs_only(roots).no_proxy();
    let (mut body, mut times) = (None, 1);
    let mut options = words[2..].iter();
    while let Some(option) = options.next() {
        let mut value = || {
            options
                .next()
                .with_context(|| format!("{option} needs a value"))
        };
        match option.as_str() {
            "--http1" => builder = builder.http1_only(),
            "--connect" => {
                let address: SocketAddr = value()?.parse().context("--connect needs IP:PORT")?;
                builder = builder.resolve(url.host_str().unwrap_or_default(), address);
            }
            "--post" => body = Some(tokio::fs::read(value()?).await.context("--post")?),
            "--times" => times = value()?.parse().context("--times needs a number")?,
            _ => bail!("usage: {USAGE}"),
        }
    }
    let client = builder.build()?;

    for _ in 0..times {
        let request = match &body {
            Some(body) => client.post(url.clone()).body(body.clone()),
            None => client.get(url.clone()),
        };
        let response = request.send().await?;
        let said = format!("{:?} {}", response.version(), response.status());
        let bytes = response.error_for_status()?.bytes().await?;
        eprintln!("{said}, {} bytes", bytes.len());
        std::io::stdout().write_all(&bytes)?;
    }
    Ok(())
}
