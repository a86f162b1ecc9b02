//! hyper under wrk, HTTP/1.1: bare, with this project's streams, and with a wrapped provider; both of those with an
//! agent that forges all of it.

use std::convert::Infallible;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mirror_benches::figures::Figures;
use mirror_benches::rounds::Rounds;
use mirror_benches::wrk::wrk;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::How;
use crate::contender::{Place, provider, server_config};

/// Sizes of the responses, which are also their paths, and their names in the figures.
const SIZES: [(usize, &str); 2] = [(1 << 10, "1k"), (16 << 10, "16k")];
const ROUND: &str = "1s";
const CONNECTIONS: u32 = 16;

/// Serves until it is killed. Its port is the first line that it prints.
pub(crate) fn serve(how: How, certificate: &str, key: &str) -> anyhow::Result<()> {
    let config = server_config(provider(how), certificate, key)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?.port());
        let bare = tokio_rustls::TlsAcceptor::from(config.clone());
        let wrapped = rustls_mirror::tokio::TlsAcceptor::from(config);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (bare, wrapped) = (bare.clone(), wrapped.clone());
            tokio::spawn(async move {
                // A probe of the port is no handshake; wrk tells of requests that fail.
                match how {
                    How::Wrapped => {
                        if let Ok(stream) = wrapped.accept(stream).await {
                            connection(stream).await;
                        }
                    }
                    How::Bare | How::Installed => {
                        if let Ok(stream) = bare.accept(stream).await {
                            connection(stream).await;
                        }
                    }
                }
            });
        }
    })
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    // The client goes away in the middle, at the end of a round.
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    static TEXT: [u8; 16 << 10] = [b'm'; 16 << 10];
    let size = request.uri().path().trim_start_matches('/').parse();
    let size = size.unwrap_or(0).min(TEXT.len());
    Ok(Response::new(Full::new(Bytes::from_static(&TEXT[..size]))))
}

/// A process that is killed, by its id, when this is dropped.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server, and what wrk saw of it round by round.
#[derive(Debug)]
struct Contender {
    how: How,
    port: u16,
    process: Running,
    speeds: Vec<f64>,
}

impl Contender {
    fn start(place: &Place, how: How, socket: &Path) -> anyhow::Result<Self> {
        let mut command = place.contender("server-as", how)?;
        if how != How::Bare {
            let user = rustix::process::geteuid().as_raw();
            command.env("SSLCOLLECTOR_SOCKET", socket);
            command.env("SSLCOLLECTOR_AGENT_UID", user.to_string());
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut process = Running(child);
        let stdout = process.0.stdout.take().context("a pipe")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Self {
            how,
            port: line.trim().parse().context("the server's port")?,
            process,
            speeds: Vec::new(),
        })
    }

    /// One round: the server's processor time for a request, in nanoseconds.
    fn round(&mut self, size: usize) -> anyhow::Result<f64> {
        let before = self.cpu_ns()?;
        let url = format!("https://127.0.0.1:{}/{size}", self.port);
        let counted = wrk(&url, CONNECTIONS, ROUND)?;
        self.speeds.push(counted.speed);
        Ok((self.cpu_ns()? - before) / counted.requests)
    }

    fn cpu_ns(&self) -> anyhow::Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.process.0.id()))?;
        let first = text.split(' ').next().context("schedstat")?;
        Ok(first.parse()?)
    }
}

/// Measures all three, by turns.
pub(crate) fn server(place: &Place, figures: &mut Figures, rounds: usize) -> anyhow::Result<()> {
    let socket = place.path("agent.sock");
    let _agent = agent(place, &socket)?;
    let mut contenders = Vec::new();
    for how in How::ALL {
        contenders.push(Contender::start(place, how, &socket)?);
    }
    for (size, name) in SIZES {
        let cpu = Rounds::run(rounds, &mut contenders, |contender| contender.round(size))?;
        let speeds = contenders
            .iter_mut()
            .map(|one| std::mem::take(&mut one.speeds));
        let speeds = Rounds::of(speeds.collect());
        println!(
            "hyper, responses of {size} bytes: requests a second, its processor time for each"
        );
        for (index, contender) in contenders.iter().enumerate() {
            println!(
                "  {:<9} {:>7.0}/s {:>7.1} us",
                contender.how.name(),
                speeds.median(index),
                cpu.median(index) / 1e3
            );
        }
        figures.add(&format!("server_ratio_{name}"), cpu.ratio(0, 1));
        figures.add(&format!("install_server_ratio_{name}"), cpu.ratio(0, 2));
        figures.add(&format!("server_speed_{name}"), speeds.ratio(1, 0));
        figures.add(&format!("install_server_speed_{name}"), speeds.ratio(2, 0));
        if name == "16k" {
            figures.add("server_ratio", cpu.ratio(0, 1));
        }
    }
    Ok(())
}

/// The agent, which forges and writes all that it reads, to nowhere.
fn agent(place: &Place, socket: &Path) -> anyhow::Result<Running> {
    let executable = std::env::current_exe()?;
    let directory = executable.parent().context("a path")?;
    let mut command = Command::new(directory.join("sslcollector"));
    command
        .args(["-I", "none", "-w", "/dev/null", "--socket"])
        .arg(socket);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(File::create(place.path("agent.log"))?);
    let agent = Running(command.spawn().context("sslcollector")?);
    let begin = Instant::now();
    while !socket.exists() {
        ensure!(
            begin.elapsed() < Duration::from_secs(20),
            "the agent doesn't listen"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(agent)
}
