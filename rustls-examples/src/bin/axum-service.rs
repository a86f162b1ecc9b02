//! A service on axum and axum-server: HTTP/1.1 and HTTP/2, as ALPN chooses.
//!
//! ```text
//! GET /get/NAME    a file of the directory
//! POST /post       the body comes back
//! ```
//!
//! What was changed to have it mirrored, at the beginning of `run`:
//!
//! ```diff
//! -    rustls::crypto::ring::default_provider().install_default();
//! +    rustls_mirror::install(rustls::crypto::ring::default_provider())?;
//! ```

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use rustls_examples::{announce, arguments, ended, file, told_to_end};

/// How long connections may take to end once the service is to.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    ended(run().await)
}

async fn run() -> anyhow::Result<()> {
    rustls_mirror::install(rustls::crypto::ring::default_provider())?;

    let words = arguments(3, "axum-service CERTIFICATE KEY DIRECTORY [ADDRESS]")?;
    let config = RustlsConfig::from_pem_file(&words[0], &words[1]).await?;
    let directory: Arc<Path> = PathBuf::from(&words[2]).into();
    let app = Router::new()
        .route("/get/{name}", get(serve_file))
        .route("/post/{*any}", post(|body: Bytes| async { body }))
        .layer(DefaultBodyLimit::disable())
        .with_state(directory);

    let listener = TcpListener::bind(words.get(3).map_or("127.0.0.1:0", String::as_str))?;
    announce(listener.local_addr()?)?;
    let handle = Handle::new();
    let server = axum_server::from_tcp_rustls(listener, config)?.handle(handle.clone());
    tokio::spawn(async move {
        if let Err(error) = told_to_end().await {
            eprintln!("axum-service: {error}");
        }
        handle.graceful_shutdown(Some(PATIENCE));
    });
    server.serve(app.into_make_service()).await?;
    Ok(())
}

async fn serve_file(
    State(directory): State<Arc<Path>>,
    UrlPath(name): UrlPath<String>,
) -> Result<Vec<u8>, StatusCode> {
    file(&directory, &name).await.ok_or(StatusCode::NOT_FOUND)
}
