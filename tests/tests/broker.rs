//! What the commands do with a broker's secrets and certificates. How a fleet goes on is tested beside its code.

use std::fs;
use std::process::{Command, Stdio};

use mirror_tests::nats::NatsServer;
use mirror_tests::place::Place;
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
    fs::write(&own, agent_key).expect("a key");
    fs::write(&password, "geheim\n").expect("a password");
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
