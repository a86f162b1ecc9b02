//! A server on hyper 1 and tokio: HTTP/1.1 and HTTP/2, as ALPN chooses.
//!
//! ```text
//! GET /get/NAME    a file of the directory
//! POST, PUT        the body comes back
//! ```
//!
//! What was changed to have it mirrored:
//!
//! ```diff
//! -use tokio_rustls::TlsAcceptor;
//! +use rustls_mirror::tokio::TlsAcceptor;
//! ```

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use rustls_examples::{announce, arguments, ended, file, identity, told_to_end};
use rustls_mirror::tokio::TlsAcceptor;
use tokio::net::{TcpListener, TcpStream};

/// How long connections may take to end once the server is to.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    ended(run().await)
}

async fn run() -> anyhow::Result<()> {
    let words = arguments(3, "hyper-server CERTIFICATE KEY DIRECTORY [ADDRESS]")?;
    let (chain, key) = identity(&words[0], &words[1])?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));

    let directory: Arc<Path> = PathBuf::from(&words[2]).into();
    let listener = TcpListener::bind(words.get(3).map_or("127.0.0.1:0", String::as_str)).await?;
    announce(listener.local_addr()?)?;
    let connections = GracefulShutdown::new();
    let end = told_to_end();
    tokio::pin!(end);
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted?.0,
            told = &mut end => break told?,
        };
        let (acceptor, directory) = (acceptor.clone(), directory.clone());
        let watcher = connections.watcher();
        tokio::spawn(async move {
            if let Err(error) = serve(acceptor, stream, directory, watcher).await {
                eprintln!("hyper-server: {error}");
            }
        });
    }
    drop(listener);
    let ended = tokio::time::timeout(PATIENCE, connections.shutdown()).await;
    if ended.is_err() {
        eprintln!("hyper-server: connections are still open; ending all the same");
    }
    Ok(())
}

/// One connection, from the handshake to its end.
async fn serve(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    directory: Arc<Path>,
    watcher: hyper_util::server::graceful::Watcher,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let service = service_fn(move |request| answer(request, directory.clone()));
    let builder = Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    watcher.watch(connection).await
}

async fn answer(
    request: Request<Incoming>,
    directory: Arc<Path>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let asked = request
        .uri()
        .path()
        .strip_prefix("/get/")
        .map(str::to_owned);
    let (status, body) = match (request.method(), asked) {
        (&Method::GET, Some(name)) => match file(&directory, &name).await {
            Some(bytes) => (StatusCode::OK, bytes.into()),
            None => (StatusCode::NOT_FOUND, Bytes::new()),
        },
        (&Method::POST | &Method::PUT, _) => match request.into_body().collect().await {
            Ok(body) => (StatusCode::OK, body.to_bytes()),
            Err(_) => (StatusCode::BAD_REQUEST, Bytes::new()),
        },
        _ => (StatusCode::NOT_FOUND, Bytes::new()),
    };
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    Ok(response)
}
