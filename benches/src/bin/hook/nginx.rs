//! nginx under wrk: the stock library, the patched one with the agent, and the stock one with uprobes.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use mirror_benches::rounds::Rounds;
use mirror_benches::wrk::wrk;

use crate::figures::Figures;
use crate::programs::{Place, clean};

/// Responses, and how they are named.
const SIZES: [(usize, &str); 3] = [(1 << 10, "1k"), (16 << 10, "16k"), (256 << 10, "256k")];
/// How long each contender is asked in each round.
const ROUND: &str = "1s";
const CONNECTIONS: u32 = 32;

/// Copies as much of each call as bpftrace can: its strings end at 200 bytes.
const PROBES: &str = r#"
uprobe:LIB:SSL_write { printf("%d w %d %r\n", tid, arg2, buf(arg1, 200)); }
uprobe:LIB:SSL_read { @at[tid] = arg1; }
uretprobe:LIB:SSL_read /@at[tid]/ {
    if ((int32)retval > 0) { printf("%d r %d %r\n", tid, retval, buf(@at[tid], 200)); }
    delete(@at[tid]);
}
"#;

/// A process that is killed, by its id, when this is dropped.
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| {
            format!("{name} (scripts/install-peers.sh demo bench)")
        })?))
    }

    /// Nanoseconds of processor time that its threads have used.
    fn cpu_ns(&self) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for task in fs::read_dir(format!("/proc/{}/task", self.0.id()))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let first = text.split(' ').next().context("schedstat")?;
            sum += first.parse::<f64>()?;
        }
        Ok(sum)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An nginx, and what looks into it.
#[derive(Debug)]
struct Contender {
    name: &'static str,
    port: u16,
    nginx: Running,
    tool: Option<Running>,
    /// Of each round: requests a second, and the tool's processor time for a request.
    speeds: Vec<f64>,
    tool_ns: Vec<f64>,
}

impl Contender {
    /// Begins with what has to be there before nginx is.
    fn start(
        place: &Place,
        name: &'static str,
        library: &Path,
        tool: Option<Running>,
    ) -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let directory = place.path(name);
        fs::create_dir(&directory)?;
        let configuration = directory.join("nginx.conf");
        fs::write(&configuration, configure(place, &directory, port))?;
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(&directory)
            .arg("-c")
            .arg(&configuration);
        command.arg("-e").arg(directory.join("error.log"));
        clean(&mut command).env("LD_LIBRARY_PATH", library);
        if name == "mirrored" {
            command.env("SSLCOLLECTOR_SOCKET", socket(place));
            command.env(
                "SSLCOLLECTOR_AGENT_UID",
                rustix::process::geteuid().as_raw().to_string(),
            );
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let nginx = Running::start(command.env("PATH", path + ":/usr/sbin"))?;
        until("nginx listens", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        })?;
        Ok(Self {
            name,
            port,
            nginx,
            tool,
            speeds: Vec::new(),
            tool_ns: Vec::new(),
        })
    }

    /// One round: nginx's processor time for a request, in nanoseconds.
    fn round(&mut self, path: &str) -> anyhow::Result<f64> {
        let tool = |tool: &Option<Running>| tool.as_ref().map_or(Ok(0.0), Running::cpu_ns);
        let before = (self.nginx.cpu_ns()?, tool(&self.tool)?);
        let url = format!("https://127.0.0.1:{}/{path}", self.port);
        let counted = wrk(&url, CONNECTIONS, ROUND).with_context(|| self.name)?;
        self.speeds.push(counted.speed);
        self.tool_ns
            .push((tool(&self.tool)? - before.1) / counted.requests);
        Ok((self.nginx.cpu_ns()? - before.0) / counted.requests)
    }
}

/// Measures all three, by turns.
pub(crate) fn nginx(place: &Place, figures: &mut Figures, rounds: usize) -> anyhow::Result<()> {
    for (bytes, name) in SIZES {
        let text: Vec<u8> = (0..bytes).map(|at| b"mirror\n"[at % 7]).collect();
        fs::create_dir_all(place.path("www"))?;
        fs::write(place.path("www").join(name), text)?;
    }
    let mut contenders = vec![
        Contender::start(place, "stock", &place.stock, None)?,
        Contender::start(place, "mirrored", &place.patched, Some(agent(place)?))?,
    ];
    // A file of its own: probes are of a file, whoever maps it.
    let probed = place.path("probed-lib");
    fs::create_dir(&probed)?;
    fs::copy(place.stock.join("libssl.so.3"), probed.join("libssl.so.3"))?;
    match probes(place, &probed.join("libssl.so.3")) {
        Ok(tool) => contenders.push(Contender::start(place, "probed", &probed, Some(tool))?),
        Err(error) => println!("no uprobes: {error:#}"),
    }
    for (_, name) in SIZES {
        let cpu = Rounds::run(rounds, &mut contenders, |contender| contender.round(name))?;
        let taken = |numbers: fn(&mut Contender) -> &mut Vec<f64>, all: &mut Vec<Contender>| {
            Rounds::of(
                all.iter_mut()
                    .map(|one| std::mem::take(numbers(one)))
                    .collect(),
            )
        };
        let speeds = taken(|one| &mut one.speeds, &mut contenders);
        let tools = taken(|one| &mut one.tool_ns, &mut contenders);
        println!("nginx, {name}: requests a second, CPU of nginx and of the tool a request");
        for (index, contender) in contenders.iter().enumerate() {
            println!(
                "  {:<9} {:>7.0}/s {:>7.1} us {:>7.1} us",
                contender.name,
                speeds.median(index),
                cpu.median(index) / 1e3,
                tools.median(index) / 1e3
            );
        }
        figures.add(&format!("nginx_ratio_{name}"), cpu.ratio(0, 1));
        figures.add(&format!("nginx_speed_{name}"), speeds.ratio(1, 0));
        if contenders.len() > 2 {
            figures.add(&format!("uprobe_ratio_{name}"), cpu.ratio(2, 1));
            figures.add(&format!("uprobe_speed_{name}"), speeds.ratio(1, 2));
        }
    }
    Ok(())
}

fn socket(place: &Place) -> PathBuf {
    place.path("agent.sock")
}

/// The agent, which forges and writes all that it reads, to nowhere.
fn agent(place: &Place) -> anyhow::Result<Running> {
    let mut command = Command::new(place.release("sslcollector"));
    command
        .args(["-I", "none", "-w", "/dev/null", "--socket"])
        .arg(socket(place));
    let agent = Running::start(command.stderr(File::create(place.path("agent.log"))?))?;
    until("the agent listens", || socket(place).exists())?;
    Ok(agent)
}

/// bpftrace, with its probes in place. It needs tracefs, which it gets in a mount namespace.
fn probes(place: &Place, library: &Path) -> anyhow::Result<Running> {
    let script = place.path("probes.bt");
    let log = place.path("probes.log");
    fs::write(
        &script,
        PROBES.replace("LIB", &library.display().to_string()),
    )?;
    let mount = "mountpoint -q /sys/kernel/tracing || mount -t tracefs none /sys/kernel/tracing; exec bpftrace \"$0\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", mount]).arg(&script);
    command
        .env("BPFTRACE_STRLEN", "200")
        .stderr(File::create(&log)?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(File::create(place.path("probes.out"))?)
        .spawn()?;
    let said = || fs::read_to_string(place.path("probes.out")).unwrap_or_default();
    let begin = Instant::now();
    // It says so on standard output, at once as that is no terminal but a file only at its end: so a look at the map of
    // the kernel's probes would be another way; a second more is enough here.
    while !said().contains("Attaching") {
        if let Some(status) = child.try_wait()? {
            bail!("bpftrace: {status}: {}", fs::read_to_string(&log)?);
        }
        if begin.elapsed() > Duration::from_secs(10) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(Running(child))
}

fn until(what: &str, condition: impl Fn() -> bool) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !condition() {
        ensure!(
            begin.elapsed() < Duration::from_secs(20),
            "waited for long: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// One process, TLS 1.3 with AES-256-GCM, nothing written to a log.
fn configure(place: &Place, directory: &Path, port: u16) -> String {
    let www = place.path("www").display().to_string();
    let (certificate, key) = (place.path("cert.pem"), place.path("key.pem"));
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let mut paths = String::new();
    for name in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        paths += &format!("{name}_temp_path {}/{name};\n", directory.display());
    }
    format!(
        "{user} daemon off; master_process off; worker_processes 1;
pid {}/nginx.pid;
events {{ worker_connections 256; }}
http {{
  access_log off; keepalive_requests 100000000; sendfile off; {paths}
  ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.3;
  ssl_conf_command Ciphersuites TLS_AES_256_GCM_SHA384;
  server {{ listen 127.0.0.1:{port} ssl; location / {{ root {www}; }} }}
}}",
        directory.display(),
        certificate.display(),
        key.display()
    )
}
