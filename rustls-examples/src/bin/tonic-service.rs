//! A gRPC service on tonic, and its client: one call with one answer, and one with a stream of messages both ways.
//!
//! ```text
//! /mirror.Echo/Once    a message, and the same message
//! /mirror.Echo/Each    messages, each of which comes back as soon as it is there
//! ```
//!
//! What was changed to have both mirrored, at the beginning of `run`:
//!
//! ```diff
//! -    rustls::crypto::ring::default_provider().install_default();
//! +    rustls_mirror::install(rustls::crypto::ring::default_provider())?;
//! ```
//!
//! The message is written by hand, and so is what protoc would generate for the service.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, bail};
use rustls_examples::{announce, arguments, ended, told_to_end};
use tokio_stream::StreamExt;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

const USAGE: &str = "tonic-service serve CERTIFICATE KEY [ADDRESS], or \
                     tonic-service call ROOTS NAME ADDRESS COUNT TEXT";

/// `message Line { string text = 1; }`
#[derive(Clone, PartialEq, prost::Message)]
struct Line {
    #[prost(string, tag = "1")]
    text: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    ended(run().await)
}

async fn run() -> anyhow::Result<()> {
    rustls_mirror::install(rustls::crypto::ring::default_provider())?;

    let words = arguments(3, USAGE)?;
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["serve", certificate, key] => serve(certificate, key, "127.0.0.1:0").await,
        ["serve", certificate, key, address] => serve(certificate, key, address).await,
        ["call", roots, name, address, count, text] => {
            call(roots, name, address, count, text).await
        }
        _ => bail!("usage: {USAGE}"),
    }
}

async fn serve(certificate: &str, key: &str, address: &str) -> anyhow::Result<()> {
    let identity = Identity::from_pem(read(certificate).await?, read(key).await?);
    let incoming = TcpIncoming::bind(address.parse().context("the address must be IP:PORT")?)?;
    announce(incoming.local_addr()?)?;
    let end = async {
        if let Err(error) = told_to_end().await {
            eprintln!("tonic-service: {error}");
        }
    };
    Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))?
        .serve_with_incoming_shutdown(service_fn(answer), incoming.with_nodelay(Some(true)), end)
        .await?;
    Ok(())
}

/// What protoc's code would do: finds the method, decodes, calls, encodes.
async fn answer(request: http::Request<Body>) -> Result<http::Response<Body>, Infallible> {
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<Line, Line>::default());
    Ok(match request.uri().path() {
        "/mirror.Echo/Once" => grpc.unary(service_fn(once), request).await,
        "/mirror.Echo/Each" => grpc.streaming(service_fn(each), request).await,
        _ => Status::unimplemented("there are Once and Each").into_http(),
    })
}

async fn once(request: Request<Line>) -> Result<Response<Line>, Status> {
    Ok(Response::new(request.into_inner()))
}

async fn each(request: Request<Streaming<Line>>) -> Result<Response<Streaming<Line>>, Status> {
    Ok(Response::new(request.into_inner()))
}

/// Sends `text` once, then `count` times as a stream; prints what comes back.
async fn call(
    roots: &str,
    name: &str,
    address: &str,
    count: &str,
    text: &str,
) -> anyhow::Result<()> {
    let address: SocketAddr = address.parse().context("the address must be IP:PORT")?;
    let count: usize = count.parse().context("COUNT must be a number")?;
    let roots = Certificate::from_pem(read(roots).await?);
    let channel = Channel::from_shared(format!("https://{address}"))?
        .tls_config(
            ClientTlsConfig::new()
                .ca_certificate(roots)
                .domain_name(name),
        )?
        .connect()
        .await
        .with_context(|| format!("can't connect to {address}"))?;

    let mut grpc = tonic::client::Grpc::new(channel);
    let line = Line {
        text: text.to_owned(),
    };
    let codec = ProstCodec::<Line, Line>::default();
    let path = http::uri::PathAndQuery::from_static("/mirror.Echo/Once");
    grpc.ready().await?;
    let answer = grpc
        .unary(Request::new(line.clone()), path, codec.clone())
        .await?;
    println!("{}", answer.into_inner().text);

    let path = http::uri::PathAndQuery::from_static("/mirror.Echo/Each");
    let lines = tokio_stream::iter(vec![line; count]);
    grpc.ready().await?;
    let mut answers = grpc
        .streaming(Request::new(lines), path, codec)
        .await?
        .into_inner();
    while let Some(answer) = answers.next().await {
        println!("{}", answer?.text);
    }
    Ok(())
}

async fn read(path: &str) -> anyhow::Result<Vec<u8>> {
    tokio::fs::read(path).await.with_context(|| path.to_owned())
}
