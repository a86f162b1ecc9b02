//! What the commands do with a broker's secrets and certificates. How a fleet goes on is tested beside its code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use mirror_tests::nats::NatsServer;
use mirror_tests::place::{Place, write_secret};
use mirror_tests::process::{Process, output_of, run, stdout_of, until};
use mirror_tests::sslcollector::binary;
use rustix::process::Signal;

#[test]
fn secrets_are_in_files_and_authorities_are_the_systems() {
    let place = Place::new(&[1]);
    let path = |name: &str| place.path(name).display().to_string();
    let [fleet, own, certificate, key, password, socket] = [
        "fleet.key",
        "own.key",
        "broker.pem",
        "broker.key",
        "password",
        "agent.sock",
    ]
    .map(path);

    // Where others see it, a password isn't taken, nor is it said again.
    let send = ["-I", "none", "--socket", &socket, "--fleet-key", &own];
    let told = run(Command::new(binary())
        .args(send)
        .args(["-t", "nats://agents:geheim@127.0.0.1"]));
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        !told.status.success() && said.contains("--nats-password-file"),
        "{said}"
    );
    assert!(!said.contains("geheim"), "{said}");

    let mut openssl = Command::new("openssl");
    openssl.args([
        "req", "-x509", "-nodes", "-days", "2", "-newkey", "rsa:2048",
    ]);
    openssl.args([
        "-subj",
        "/CN=broker",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    output_of(openssl.args(["-keyout", &key, "-out", &certificate]));
    let broker = NatsServer::start_with(
        place.directory(),
        &format!(
            "authorization {{ user: agents, password: geheim }}\n\
             tls {{ cert_file: {certificate:?}, key_file: {key:?} }}\n"
        ),
    );
    let of = |words: &[&str]| stdout_of(Command::new(binary()).args(words));
    of(&["fleet-key", "--fleet-key", &fleet, "init"]);
    let agent_key = of(&["fleet-key", "--fleet-key", &fleet, "agent", "web"]);
    write_secret(Path::new(&own), &agent_key);
    write_secret(Path::new(&password), "geheim\n");
    let url = format!("tls://127.0.0.1:{}", broker.port());
    let begin = |said: &str, authorities: Option<&str>| {
        let file = fs::File::create(place.path(said)).expect("a file");
        let mut agent = Command::new(binary());
        agent.args(send).args(["-t", &url, "--nats-user", "agents"]);
        agent.args(["--nats-password-file", &password, "--linger", "1s"]);
        if let Some(authorities) = authorities {
            agent.env("SSL_CERT_FILE", authorities);
        }
        Process::start(agent.stdout(Stdio::null()).stderr(file))
    };
    for (said, authorities, words) in [
        ("stranger", None, "isn't good"),
        ("agent", Some(&*certificate), "connected to the broker"),
    ] {
        let mut agent = begin(said, authorities);
        until(words, || {
            assert!(!agent.ended(), "{}", place.text(said));
            place.text(said).contains(words).then_some(())
        });
        agent.signal(Signal::TERM);
        assert!(agent.wait().success(), "{}", place.text(said));
        assert!(!place.text(said).contains("geheim"), "{}", place.text(said));
    }
}

/// What the words about a missing key say can be pasted into a shell.
#[test]
fn the_command_for_a_missing_key_makes_it() {
    let place = Place::new(&[]);
    let key = place.path("the fleet's/fleet.key");
    let path = key.display().to_string();
    let capture = place.path("capture.pcapng").display().to_string();
    let collect = ["-C", "--from", "nats://127.0.0.1:1", "-w", &capture];
    let told = run(Command::new(binary())
        .args(collect)
        .args(["--fleet-key", &path]));
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("no key for the broker"), "{told}");
    let shell = |words: &str| {
        let programs = binary()
            .parent()
            .expect("a directory")
            .display()
            .to_string();
        let mut shell = Command::new("sh");
        shell
            .args(["-c", words])
            .env("PATH", format!("{programs}:/usr/bin:/bin"));
        stdout_of(&mut shell)
    };
    let command = |told: &str| told.split('`').nth(1).expect("a command").to_owned();
    let told = shell(&command(&told));
    assert!(key.exists(), "{told}");
    // And so does the next one, for an agent.
    let own = place.path("own.key").display().to_string();
    shell(&command(&told).replace("NAME", "web").replace("FILE", &own));
    let exposed = fs::metadata(&own).expect("a key").permissions().mode() & 0o077;
    assert_eq!(exposed, 0);
}
