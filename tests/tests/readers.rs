//! Captures for readers who connect (PCAP-over-IP): tshark, readers that come late, stand still and come again, and
//! who may not read at all.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use mirror_tests::curl::Transfer;
use mirror_tests::network::{HOST, Network};
use mirror_tests::onwire::{Connection, Mirrored, assert_good_on_wire, by_direction};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, output_of, run, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sslcollector;
use mirror_tests::streams::flows;

const MIB: usize = 1 << 20;

/// Where readers connect, as sslcollector says.
fn place_to_read(mirrored: &Mirrored<'_>, host: &str) -> SocketAddr {
    until("a place to read", || {
        let said = mirrored.said();
        let places = said.split("readers of PCAP-over-IP connect to ").skip(1);
        let mut words = places.filter_map(|rest| rest.split(['\n', ' ']).next());
        let place = words.find(|word| word.starts_with(host))?;
        place.trim_end_matches(':').parse().ok()
    })
}

/// Reads to the end.
fn read_on(mut stream: TcpStream) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("a capture");
        bytes
    })
}

#[test]
fn tshark_reads_what_the_file_has() {
    let network = Network::new();
    let place = Place::new(&[0, 20_000, MIB]);
    let mirrored = Mirrored::start(&place, &["-I", "wire0", "--pcap-over-ip", ":0"]);
    let seen = ["127.0.0.1", "[::1]"].map(|host| {
        let address = place_to_read(&mirrored, host);
        let file = place.path(&format!("{}.pcapng", address.is_ipv6()));
        let mut tshark = Command::new("tshark");
        tshark
            .args(["-q", "-n", "-i", &format!("TCP@{address}"), "-w"])
            .arg(&file);
        tshark.stdout(Stdio::null()).stderr(Stdio::null());
        // wireshark 4.0 has no way to name an IPv6 address there.
        let process = match address.is_ipv6() {
            false => Ok(Process::start(&mut tshark)),
            true => Err(read_on(TcpStream::connect(address).expect("a reader"))),
        };
        (file, process)
    });
    mirrored.wait_for(" connected", 2);
    for (number, address) in HOST.into_iter().enumerate() {
        for transfer in [
            Transfer::get("get", 0),
            Transfer::get("get", MIB),
            Transfer::many(20_000, 5),
        ] {
            let name = format!("{}-{number}", transfer.name);
            mirrored.fetch(&network, &Transfer { name, ..transfer }, address);
        }
    }
    let file = mirrored.end();
    let said = place.text("said");
    rules::assert_good(&file, &said);
    assert!(
        said.contains(" packets to 2 readers") && !said.contains("holes for"),
        "{said}"
    );
    for (path, process) in seen {
        match process {
            // It ends with the capture.
            Ok(mut tshark) => assert!(tshark.wait().success()),
            Err(reader) => {
                let bytes = reader.join().expect("a reader");
                std::fs::write(place.path("stream.pcap"), bytes).expect("a file");
                let mut editcap = Command::new("editcap");
                output_of(
                    editcap
                        .args(["-F", "pcapng"])
                        .arg(place.path("stream.pcap"))
                        .arg(&path),
                );
            }
        }
        let seen = Capture::read(&path).expect("a capture");
        assert_good_on_wire(&seen, &path.display().to_string());
        assert!(
            by_direction(&seen) == by_direction(&file),
            "{}",
            path.display()
        );
    }
}

/// What is said on a connection, of which this capture has a part: compares what it has.
fn assert_true(capture: &Capture, file: &Capture) -> u64 {
    rules::assert_good(capture, "a reader's capture");
    let truths = flows(file).expect("flows");
    let mut missing = 0;
    for flow in flows(capture).expect("flows") {
        let truth = truths
            .iter()
            .find(|truth| truth.client == flow.client)
            .expect("its flow in the file");
        let from = |name: &str| {
            let word = flow
                .comment
                .split(' ')
                .find_map(|word| word.strip_prefix(name));
            word.map_or(0, |digits| digits.parse::<usize>().expect("an offset"))
        };
        let response = truth.response.whole().expect("no hole in the file");
        let response = &response[from("server_offset=").min(response.len())..];
        assert_eq!(
            flow.response.difference_at_beginning(response),
            None,
            "{}",
            flow.comment
        );
        let request = truth.request.whole().expect("no hole in the file");
        let request = &request[from("client_offset=").min(request.len())..];
        assert_eq!(
            flow.request.difference_at_beginning(request),
            None,
            "{}",
            flow.comment
        );
        missing += flow.response.missing() + (response.len() as u64 - flow.response.length());
    }
    missing
}

#[test]
fn readers_come_late_stand_still_and_come_again() {
    let network = Network::new();
    let place = Place::new(&[20_000, 20 * MIB]);
    let options = [
        "-I",
        "wire0",
        "--pcap-over-ip",
        "127.0.0.1:0",
        "--pcap-over-ip-format",
        "pcapng",
    ];
    let mirrored = Mirrored::start(&place, &options);
    let address = place_to_read(&mirrored, "127.0.0.1");
    let connect = || TcpStream::connect(address).expect("a reader");
    let mut client = Connection::open(&network, mirrored.nginx.port);
    client.get(20_000);
    mirrored.wait_until_sent(20_000);
    let late = connect();
    mirrored.wait_for(" connected", 1);
    let late = read_on(late);
    // It takes what fits the sockets' buffers, and no more.
    let still = connect();
    mirrored.wait_for(" connected", 2);
    for number in 0..5 {
        let transfer = Transfer {
            name: format!("large-{number}"),
            ..Transfer::get("get", 20 * MIB)
        };
        mirrored.fetch(&network, &transfer, HOST[0]);
        // The next one finds its ring empty.
        mirrored.wait_until_sent((number + 1) * (20 << 20));
    }
    client.get(20_000);
    mirrored.wait_until_sent(100 << 20);
    // One that leaves makes room, and comes again.
    let passing = connect();
    mirrored.wait_for(" connected", 3);
    drop(passing);
    mirrored.wait_for("has left", 1);
    let again = connect();
    mirrored.wait_for(" connected", 4);
    let (still, again) = (read_on(still), read_on(again));
    client.get(20_000);
    mirrored.wait_until_sent((100 << 20) + 60_000);
    drop(client);
    let file = mirrored.end();
    let said = place.text("said");
    rules::assert_good(&file, &said);
    let capture = |reader: JoinHandle<Vec<u8>>| {
        let bytes = reader.join().expect("a reader");
        Capture::parse(&bytes).unwrap_or_else(|error| panic!("{error}: {said}"))
    };
    let [late, still, again] = [late, still, again].map(capture);
    assert_true(&late, &file);
    let flow = flows(&late)
        .expect("flows")
        .into_iter()
        .find(|flow| flow.comment.contains("restarted=1"));
    let flow = flow.expect("the connection that was live begins anew");
    assert!(
        flow.comment.contains("server_offset=20"),
        "{}",
        flow.comment
    );
    assert!(
        assert_true(&still, &file) > 0,
        "it has missed something: {said}"
    );
    assert!(
        said.contains("of clear text are holes for readers that fell behind"),
        "{said}"
    );
    let again = {
        assert_true(&again, &file);
        flows(&again).expect("flows")
    };
    let [flow] = &again[..] else {
        panic!("{again:?}")
    };
    assert!(
        flow.response.length() > 20_000 && flow.response.length() < 21_000,
        "{}",
        flow.comment
    );
}

/// A certificate by an issuer, or one's own.
fn certificate(place: &Place, name: &str, issuer: Option<&str>) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
    openssl.args([
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-subj",
        &format!("/CN={name}"),
    ]);
    if let Some(issuer) = issuer {
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.arg("-CA").arg(place.path(&format!("{issuer}.pem")));
        openssl
            .arg("-CAkey")
            .arg(place.path(&format!("{issuer}.key")));
    }
    openssl
        .arg("-keyout")
        .arg(place.path(&format!("{name}.key")));
    openssl.arg("-out").arg(place.path(&format!("{name}.pem")));
    output_of(&mut openssl);
}

/// A reader by TLS; its standard output is the capture.
fn s_client(place: &Place, address: SocketAddr, to: &Path, certificate: Option<&str>) -> Process {
    let mut client = Command::new("openssl");
    client.args([
        "s_client",
        "-quiet",
        "-verify_quiet",
        "-connect",
        &address.to_string(),
    ]);
    if let Some(name) = certificate {
        client.arg("-cert").arg(place.path(&format!("{name}.pem")));
        client.arg("-key").arg(place.path(&format!("{name}.key")));
    }
    client
        .stdout(File::create(to).expect("a file"))
        .stderr(Stdio::null());
    Process::start(&mut client)
}

#[test]
fn by_tls_for_those_with_a_certificate() {
    let network = Network::new();
    let place = Place::new(&[20_000]);
    certificate(&place, "readers", None);
    certificate(&place, "ann", Some("readers"));
    certificate(&place, "others", None);
    certificate(&place, "eve", Some("others"));
    let file = |name: &str| place.path(name).display().to_string();
    let [cert, key, ca] = ["cert.pem", "key.pem", "readers.pem"].map(file);
    let options = [
        "-I",
        "wire0",
        "--pcap-over-ip",
        "10.7.0.1:0",
        "--pcap-over-ip-format",
        "pcapng",
    ];
    let tls = [
        "--pcap-over-ip-cert",
        &cert,
        "--pcap-over-ip-key",
        &key,
        "--pcap-over-ip-client-ca",
        &ca,
    ];
    let mirrored = Mirrored::start(&place, &[&options[..], &tls].concat());
    let address = place_to_read(&mirrored, "10.7.0.1");
    for name in [None, Some("eve")] {
        let capture = place.path("nothing");
        s_client(&place, address, &capture, name).wait();
        assert_eq!(place.read("nothing"), b"", "{name:?}");
    }
    // In clear is no TLS.
    let mut clear = TcpStream::connect(address).expect("a connection");
    clear
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect("a request");
    let mut answer = Vec::new();
    let _ = clear.read_to_end(&mut answer);
    assert!(answer.len() < 100, "{answer:?}");
    let mut ann = s_client(&place, address, &place.path("ann.pcapng"), Some("ann"));
    mirrored.wait_for(" connected", 1);
    mirrored.fetch(&network, &Transfer::get("get", 20_000), HOST[0]);
    let file = mirrored.end();
    ann.wait();
    let said = place.text("said");
    let seen = Capture::read(&place.path("ann.pcapng")).expect("a capture");
    assert_eq!(seen.packets, file.packets, "{said}");
    assert!(
        said.contains("refused: TLS failed") && said.contains("TLS failed (3)"),
        "{said}"
    );
}

#[test]
fn nobody_reads_by_accident() {
    let _network = Network::new();
    let place = Place::new(&[]);
    let attempt = |options: &[&str]| {
        let mut command = Command::new(sslcollector::binary());
        command
            .args(options)
            .args(["-I", "none", "--socket"])
            .arg(place.path("agent.sock"));
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(1), "{options:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let missing = place.path("missing").display().to_string();
    let key = place.path("key.pem").display().to_string();
    let cert = place.path("cert.pem").display().to_string();
    for (options, words) in [
        (
            &["--pcap-over-ip", "10.7.0.1:0"][..],
            "can be reached from other machines",
        ),
        (&["--pcap-over-ip", "[::]:0"], "--pcap-over-ip-anybody"),
        // That nobody on the way reads isn't that nobody else connects.
        (
            &[
                "--pcap-over-ip",
                "0.0.0.0:0",
                "--pcap-over-ip-cert",
                &cert,
                "--pcap-over-ip-key",
                &key,
            ],
            "can be reached from other machines",
        ),
        (
            &["--pcap-over-ip", "10.99.0.1:0", "--pcap-over-ip-anybody"],
            "can't listen for readers at 10.99.0.1:0",
        ),
        (
            &[
                "--pcap-over-ip",
                ":0",
                "--pcap-over-ip-cert",
                &missing,
                "--pcap-over-ip-key",
                &key,
            ],
            "can't use",
        ),
    ] {
        let said = attempt(options);
        assert!(said.contains(words), "{options:?}: {said}");
    }

    // Of this machine's users root and who has started it: nobody else.
    let mirrored = Mirrored::start(
        &place,
        &[
            "-I",
            "none",
            "--pcap-over-ip",
            ":0",
            "--pcap-over-ip-readers",
            "1",
        ],
    );
    let address = place_to_read(&mirrored, "127.0.0.1");
    let read = format!(
        "import socket, sys; s = socket.create_connection(('127.0.0.1', {})); sys.exit(len(s.recv(9)))",
        address.port()
    );
    let mut other = Command::new("setpriv");
    other.args([
        "--reuid=65534",
        "--clear-groups",
        "/usr/bin/python3",
        "-c",
        &read,
    ]);
    assert_eq!(
        run(&mut other).status.code(),
        Some(0),
        "{}",
        mirrored.said()
    );
    mirrored.wait_for("neither root nor the user", 1);
    let mut header = [0; 24];
    let mut first = TcpStream::connect(address).expect("a connection");
    first
        .read_exact(&mut header)
        .expect("the header of a capture");
    let mut second = TcpStream::connect(address).expect("a connection");
    assert_eq!(second.read(&mut header).unwrap_or(0), 0);
    mirrored.wait_for("1 are there already", 1);
    drop(mirrored.end());
    let said = place.text("said");
    assert!(
        said.contains(
            "2 readers refused: too many at once (1), not one who may read (1), TLS failed (0)"
        ),
        "{said}"
    );
}
