//! A gRPC service on tonic, and its client: calls of each kind.
//!
//! ```text
//! /mirror.Echo/Once     a message, and the same message
//! /mirror.Echo/Each     messages, each of which comes back as soon as it is there
//! /mirror.Echo/Repeat   a message, which comes back as often as it says
//! /mirror.Echo/Count    messages, the last of which comes back with their number
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
use http::uri::PathAndQuery;
use rustls_examples::{announce, arguments, ended, told_to_end};
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

const USAGE: &str = "tonic-service serve CERTIFICATE KEY [ADDRESS], or \
                     tonic-service call ROOTS NAME ADDRESS COUNT TEXT";

/// `message Line { string text = 1; uint32 times = 2; }`
#[derive(Clone, PartialEq, prost::Message)]
struct Line {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(uint32, tag = "2")]
    times: u32,
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
        "/mirror.Echo/Repeat" => grpc.server_streaming(service_fn(repeat), request).await,
        "/mirror.Echo/Count" => grpc.client_streaming(service_fn(count), request).await,
        _ => Status::unimplemented("there are Once, Each, Repeat and Count").into_http(),
    })
}

async fn once(request: Request<Line>) -> Result<Response<Line>, Status> {
    Ok(Response::new(request.into_inner()))
}

async fn each(request: Request<Streaming<Line>>) -> Result<Response<Streaming<Line>>, Status> {
    Ok(Response::new(request.into_inner()))
}

async fn repeat(
    request: Request<Line>,
) -> Result<Response<impl Stream<Item = Result<Line, Status>>>, Status> {
    let line = request.into_inner();
    let times = 0..line.times;
    let lines = times.map(move |_| Ok(line.clone()));
    Ok(Response::new(tokio_stream::iter(lines)))
}

async fn count(request: Request<Streaming<Line>>) -> Result<Response<Line>, Status> {
    let mut lines = request.into_inner();
    let mut last = Line::default();
    let mut times = 0;
    while let Some(line) = lines.next().await {
        last = line?;
        times += 1;
    }
    Ok(Response::new(Line { times, ..last }))
}

/// Sends `text` once, then `count` times as a stream; has it repeated, and counted; prints what comes back.
async fn call(
    roots: &str,
    name: &str,
    address: &str,
    count: &str,
    text: &str,
) -> anyhow::Result<()> {
    let address: SocketAddr = address.parse().context("the address must be IP:PORT")?;
    let count: u32 = count.parse().context("COUNT must be a number")?;
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
        times: count,
    };
    let lines = vec![line.clone(); usize::try_from(count)?];
    let codec = ProstCodec::<Line, Line>::default();
    let path = PathAndQuery::from_static;
    grpc.ready().await?;
    let answer = grpc
        .unary(
            Request::new(line.clone()),
            path("/mirror.Echo/Once"),
            codec.clone(),
        )
        .await?;
    println!("{}", answer.into_inner().text);

    let request = Request::new(tokio_stream::iter(lines.clone()));
    grpc.ready().await?;
    let answers = grpc
        .streaming(request, path("/mirror.Echo/Each"), codec.clone())
        .await?;
    print_all(answers.into_inner()).await?;

    let (request, codec_again) = (Request::new(line), codec.clone());
    grpc.ready().await?;
    let answers = grpc
        .server_streaming(request, path("/mirror.Echo/Repeat"), codec_again)
        .await?;
    print_all(answers.into_inner()).await?;

    let request = Request::new(tokio_stream::iter(lines));
    grpc.ready().await?;
    let answer = grpc
        .client_streaming(request, path("/mirror.Echo/Count"), codec)
        .await?;
    println!("{}", answer.into_inner().text);
    Ok(())
}

async fn print_all(mut answers: Streaming<Line>) -> anyhow::Result<()> {
    while let Some(answer) = answers.next().await {
        println!("{}", answer?.text);
    }
    Ok(())
}

async fn read(path: &str) -> anyhow::Result<Vec<u8>> {
    tokio::fs::read(path).await.with_context(|| path.to_owned())
}
