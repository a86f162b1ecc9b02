//! What isn't plain TLS over TCP from its first byte is said to be what it is, and never forged wrong.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mirror_tests::client::PYTHON;
use mirror_tests::curl::{Tls, Transfer};
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, output_of, run, until, without_root};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sslcollector;
use mirror_tests::streams::flows;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data")
        .join(name)
}

#[test]
fn starttls_begins_after_the_upgrade_and_says_so() {
    let place = Place::new(&[]);
    let mut server = Command::new(PYTHON);
    server.arg(data("starttls.py")).arg("server");
    server
        .arg(place.path("cert.pem"))
        .arg(place.path("key.pem"));
    let mut server = Process::start(server.stdout(Stdio::piped()));
    let mut port = String::new();
    let stdout = server.stdout().expect("a pipe");
    BufReader::new(stdout)
        .read_line(&mut port)
        .expect("its port");

    let file = place.path("capture.pcapng");
    let mut command = sslcollector::run_to(&file, &[]);
    command.arg(PYTHON).arg(data("starttls.py"));
    let output = run(command.args(["client", port.trim()]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(server.wait().success());
    assert_eq!(output.stdout, b"you said: EHLO after the upgrade\n");

    let capture = Capture::read(&file).expect("a capture");
    rules::assert_good(&capture, "STARTTLS");
    let flows = flows(&capture).expect("flows");
    assert_eq!(flows.len(), 1);
    // The clear lines before aren't in the stream; how long the client's were is told.
    let flow = &flows[0];
    assert_eq!(flow.request.whole(), Some(&b"EHLO after the upgrade"[..]));
    assert_eq!(
        flow.response.whole(),
        Some(&b"you said: EHLO after the upgrade"[..])
    );
    let clear = "STARTTLS\r\n".len();
    let told = format!("clear_prefix={clear}");
    assert!(
        flow.comment.contains(&told),
        "{told} isn't in: {}",
        flow.comment
    );
}

#[test]
fn dtls_is_counted_and_never_forged() {
    let place = Place::new(&[]);
    let port = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let port = port.expect("a port").port();
    let dir = place.directory().display().to_string();
    output_of(Command::new("mkfifo").args([place.path("in"), place.path("idle")]));
    // Both ends read from pipes that never end: opened for writing as well.
    let server = format!(
        "exec openssl s_server -dtls -quiet -accept 127.0.0.1:{port} -cert {dir}/cert.pem \
         -key {dir}/key.pem <>{dir}/idle >{dir}/heard 2>{dir}/server.log"
    );
    let _server = Process::start(Command::new("sh").args(["-c", &server]));
    // A datagram socket has no connection to wait for: the kernel tells when it is taken.
    until("the DTLS server listens", || {
        UdpSocket::bind(("127.0.0.1", port)).is_err().then_some(())
    });

    let file = place.path("capture.pcapng");
    let mut command = sslcollector::run_to(&file, &[]);
    let client = format!(
        "openssl s_client -dtls -quiet -connect 127.0.0.1:{port} <>{dir}/in >/dev/null 2>&1 & \
         echo 'hello there' >{dir}/in; \
         while ! grep -q 'hello there' {dir}/heard; do sleep 0.02; done; kill $!; wait"
    );
    let output = run(command.args(["sh", "-c", &client]));
    let said = String::from_utf8_lossy(&output.stderr);
    let capture = Capture::read(&file).expect("a capture");
    assert_eq!(capture.packets, [], "DTLS forged");
    assert!(said.contains("DTLS"), "not a word of DTLS: {said}");
}

/// As distributions start nginx: its workers, which hold the connections, have become another user.
#[test]
fn workers_of_another_user_are_mirrored() {
    if without_root("only root's children can become somebody else") {
        return;
    }
    let place = Place::new(&[20_000]);
    let nginx = Nginx::with(
        &place,
        Options {
            user: "www-data",
            ..Options::default()
        },
    );
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(place.directory(), open).expect("let others in");
    let file = place.path("capture.pcapng");
    let mut command = sslcollector::run_to(&file, &[]);
    let server = Process::start_piped(command.args(nginx.command(false)));
    nginx.wait_until_up();
    let transfer = Transfer::get("get", 20_000);
    let localhost = Ipv4Addr::LOCALHOST.into();
    let script = transfer.script(&place, (localhost, nginx.port), Tls::V1_3);
    output_of(Command::new("sh").args(["-c", &script]));
    nginx.quit();
    let output = server.output();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let capture = Capture::read(&file).expect("a capture");
    rules::assert_good(&capture, "another user");
    let flows = flows(&capture).expect("flows");
    assert_eq!(flows.len(), 1, "{said}");
    let truth = transfer.truth(&place);
    assert_eq!(flows[0].response.difference(&truth.response), None);
    assert!(
        flows[0].comment.contains(" uid=33 "),
        "{}",
        flows[0].comment
    );
}

/// Python's asyncio gives its library memory, not a socket.
#[test]
fn asyncio_has_no_socket_and_is_bound_by_the_wire() {
    let place = Place::new(&[20_000]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let program = "
import asyncio, ssl, sys
async def main(port):
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection('127.0.0.1', port, ssl=context, server_hostname='mirror.test')
    print(writer.get_extra_info('sockname')[1])
    writer.write(b'GET /close/20000 HTTP/1.1\\r\\nHost: mirror.test\\r\\n\\r\\n')
    print(len(await reader.read(-1)))
    writer.close()
asyncio.run(main(int(sys.argv[1])))
";
    let file = place.path("capture.pcapng");
    let mut command = sslcollector::run_to(&file, &[]);
    let output = run(command.args([PYTHON, "-c", program, &nginx.port.to_string()]));
    nginx.quit();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<u64> = stdout
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect();
    let capture = Capture::read(&file).expect("a capture");
    rules::assert_good(&capture, "asyncio");
    let flows = flows(&capture).expect("flows");
    assert_eq!(flows.len(), 1);
    let flow = &flows[0];
    assert_eq!(
        [u64::from(flow.client.port()), flow.response.length()],
        numbers[..]
    );
    assert!(
        flow.response
            .whole()
            .expect("no hole")
            .ends_with(&place.read("www/20000"))
    );
    assert!(flow.comment.contains("bound=wire"), "{}", flow.comment);
}
