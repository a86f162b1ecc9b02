//! Services behind real proxies: whose address their flows have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};

use mirror_tests::judges::{Profile, Suricata, complaints, follow, follow_with};
use mirror_tests::nginx::Nginx;
use mirror_tests::place::{Place, content, free_port};
use mirror_tests::process::{Process, find, output_of, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sensor::Sensor;
use mirror_tests::sslcollector;
use mirror_tests::streams::{Flow, flows};
use rustix::process::Signal;
use serde_json::Value;

/// Where the proxy listens, and from where it asks.
const PROXY: &str = "127.0.0.10";
const TRUST_XFF: [&str; 4] = ["--real-client", "xff", "--trusted-proxy", PROXY];

/// nginx as a proxy: one process, which keeps one connection to the service.
fn nginx(place: &Place, port: u16, service: u16) -> Vec<String> {
    let field = "X-Forwarded-For $proxy_add_x_forwarded_for";
    nginx_that_says(field, place, (PROXY, port), service)
}

/// The same at any address, with this field.
fn nginx_that_says(
    field: &str,
    place: &Place,
    (address, port): (&str, u16),
    service: u16,
) -> Vec<String> {
    let dir = place.directory().display();
    let proxied = "proxy_pass https://service; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_bind";
    let mut text = format!(
        "pid {dir}/proxy.pid;
error_log {dir}/proxy.log warn;
events {{ worker_connections 64; }}
http {{
  access_log off;
  proxy_ssl_session_reuse off;
"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        text += &format!("  {kind}_temp_path {dir}/temp-{kind};\n");
    }
    text += &format!(
        "  upstream service {{ server 127.0.0.1:{service}; keepalive 1; }}
  server {{
    listen {address}:{port};
    location / {{
      {proxied} {PROXY};
      proxy_set_header {field};
    }}
  }}
}}
"
    );
    let file = place.path("proxy.conf");
    fs::write(&file, text).expect("proxy.conf");
    let nginx = find("nginx").expect("nginx isn't installed (scripts/install-peers.sh test)");
    let words = [
        &nginx.display().to_string(),
        "-p",
        &dir.to_string(),
        "-e",
        &place.path("proxy.log").display().to_string(),
        "-c",
        &file.display().to_string(),
        "-g",
        "daemon off; master_process off;",
    ];
    words.map(str::to_owned).to_vec()
}

/// HAProxy as one.
fn haproxy(place: &Place, port: u16, service: u16) -> Vec<String> {
    let text = format!(
        "global
  nbthread 1
  maxconn 64
defaults
  mode http
  timeout connect 60s
  timeout client 60s
  timeout server 60s
frontend clear
  bind {PROXY}:{port}
  option forwardfor
  default_backend service
backend service
  http-reuse always
  server one 127.0.0.1:{service} ssl verify none source {PROXY}
"
    );
    let file = place.path("proxy.cfg");
    fs::write(&file, text).expect("proxy.cfg");
    let haproxy = find("haproxy").expect("haproxy isn't installed (scripts/install-peers.sh test)");
    let words = [
        &haproxy.display().to_string(),
        "-db",
        "-f",
        &file.display().to_string(),
    ];
    words.map(str::to_owned).to_vec()
}

fn command(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

fn wait_for(address: &str, port: u16) {
    until("the proxy listens", || {
        std::net::TcpStream::connect((address, port)).ok()
    });
}

/// Asks from an address, with further options; the answer.
fn curl(from: &str, url: &str, options: &[&str]) -> Vec<u8> {
    let mut curl = Command::new("curl");
    curl.args(["-sSk", "--fail", "--noproxy", "*", "--interface", from, url]);
    let output = mirror_tests::process::run(curl.args(options));
    assert!(output.status.success(), "{url}: {output:?}");
    output.stdout
}

/// Several clients, by the proxy; then one that goes past it, and says that it were somebody else.
fn ask(proxy: u16, service: u16) {
    let by_proxy = format!("http://{PROXY}:{proxy}/get");
    let spoof = ["-H", "X-Forwarded-For: 6.6.6.6"];
    assert_eq!(curl("127.0.0.2", &format!("{by_proxy}/1"), &[]), content(1));
    let large = curl("127.0.0.3", &format!("{by_proxy}/200000"), &spoof);
    assert_eq!(large, content(200_000));
    let again = curl("127.0.0.2", &format!("{by_proxy}/20000"), &spoof);
    assert_eq!(again, content(20_000));
    let direct = format!("https://127.0.0.1:{service}/get/1");
    assert_eq!(curl("127.0.0.4", &direct, &spoof), content(1));
}

fn read(place: &Place, said: &str) -> Vec<Flow> {
    let capture = Capture::read(&place.path("capture.pcapng")).expect("a capture");
    rules::assert_good(&capture, said);
    flows(&capture).expect("flows")
}

/// Each client's flow has its requests and their answers, as the service itself counted them.
fn assert_told_apart(place: &Place, flows: &[Flow], said: &str) {
    let log = Nginx::read_log(place);
    assert_eq!(log.len(), 4, "{log:?}");
    let port = log[0].port;
    let kept = log[..3].iter().all(|entry| entry.port == port);
    assert!(kept, "the proxy keeps its connection: {log:?}");
    let by_client: BTreeMap<SocketAddr, &Flow> =
        flows.iter().map(|flow| (flow.client, flow)).collect();
    assert_eq!((by_client.len(), flows.len()), (3, 3), "{flows:?}\n{said}");
    for (client, port, entries, sizes) in [
        ("127.0.0.2", port, vec![0, 2], vec![1, 20_000]),
        ("127.0.0.3", port, vec![1], vec![200_000]),
        ("127.0.0.4", log[3].port, vec![3], vec![1]),
    ] {
        let address: SocketAddr = format!("{client}:{port}").parse().expect("an address");
        let flow = by_client
            .get(&address)
            .unwrap_or_else(|| panic!("{client}: {flows:?}"));
        let sum = |count: fn(&mirror_tests::nginx::LogEntry) -> u64| -> u64 {
            entries.iter().map(|entry| count(&log[*entry])).sum()
        };
        assert_eq!(
            flow.request.length(),
            sum(|entry| entry.request_length),
            "{client}"
        );
        assert_eq!(
            flow.response.length(),
            sum(|entry| entry.bytes_sent),
            "{client}"
        );
        let answered = flow.response.whole().expect("no hole");
        for size in sizes {
            let body = content(size);
            let found = answered.windows(size).any(|window| window == body);
            assert!(found, "{size} of {client}");
        }
        let mark = format!(" xff={client}<-{PROXY}:{port} xff_by=xff");
        assert_eq!(
            flow.comment.contains(&mark),
            client != "127.0.0.4",
            "{}",
            flow.comment
        );
        assert_eq!(flow.comment.contains(" xff="), client != "127.0.0.4");
    }
    let client = |host: &str, port: u16| format!("{host}:{port}");
    let (one, other) = (client("127.0.0.2", port), client("127.0.0.3", port));
    let direct = client("127.0.0.4", log[3].port);
    let asked = [(&one, 1), (&one, 20_000), (&other, 200_000), (&direct, 1)];
    ask_judges(place, &asked.map(|(client, size)| (&**client, size)));
    let told = lines(place).into_iter().map(|line| {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (word(&line["src_ip"]), word(&line["real_client"]["xff"]))
    });
    let mut expected = vec![("127.0.0.4".to_owned(), String::new())];
    expected.extend(["127.0.0.2", "127.0.0.3"].map(|client| {
        let xff = format!("{client}<-{PROXY}:{port}");
        (client.to_owned(), xff)
    }));
    assert_eq!(
        told.collect::<BTreeSet<_>>(),
        expected.into_iter().collect()
    );
}

/// The log of sessions.
fn lines(place: &Place) -> Vec<Value> {
    let text = place.text("sessions.jsonl");
    let lines = text.lines().map(serde_json::from_str);
    lines.map(|line| line.expect("JSON")).collect()
}

/// A service behind a proxy at `address`, as long as somebody asks at the ports of both. What sslcollector says.
fn mirror_behind(
    place: &Place,
    address: &str,
    proxy: impl FnOnce(u16, u16) -> Vec<String>,
    ask: impl FnOnce(u16, u16),
) -> String {
    let service = Nginx::new(place);
    let log = place.path("sessions.jsonl").display().to_string();
    let options = [&["--log", &log], &TRUST_XFF[..]].concat();
    let mut mirrored = sslcollector::run_to(&place.path("capture.pcapng"), &options);
    let server = Process::start_piped(mirrored.args(service.command(false)));
    service.wait_until_up();
    let port = free_port();
    let mut proxy = Process::start(&mut command(&proxy(port, service.port)));
    wait_for(address, port);
    ask(port, service.port);
    proxy.signal(Signal::TERM);
    proxy.wait();
    service.quit();
    String::from_utf8_lossy(&server.output().stderr).into_owned()
}

fn clients_are_told_apart(proxy: fn(&Place, u16, u16) -> Vec<String>) {
    let place = Place::new(&[1, 20_000, 200_000]);
    let proxy = |port, service| proxy(&place, port, service);
    let said = mirror_behind(&place, PROXY, proxy, ask);
    assert!(said.contains("2 clients by X-Forwarded-For"), "{said}");
    assert_told_apart(&place, &read(&place, &said), &said);
}

/// What other people's programs make of the packets: each request by its client, and nothing to object to. `asked`: both,
/// and the bytes of the answer.
fn ask_judges(place: &Place, asked: &[(&str, usize)]) {
    let capture = place.path("capture.pcapng");
    let verdict = Suricata.read(&capture, Profile::Sslcollector, &place.path("judge"));
    assert_eq!(verdict.complaints(), [""; 0], "Suricata objects");
    let clients: BTreeSet<&str> = asked.iter().map(|(client, _)| *client).collect();
    assert_eq!(verdict.flow_states, vec!["closed"; clients.len()]);
    let mut seen: Vec<_> = verdict.http.iter().collect();
    seen.sort_by_key(|event| event.length);
    let seen = seen
        .iter()
        .map(|event| (&*event.url, event.status, event.length));
    let mut sizes: Vec<_> = asked.iter().map(|(_, size)| *size).collect();
    sizes.sort_unstable();
    let urls: Vec<_> = sizes.iter().map(|size| format!("/get/{size}")).collect();
    let expected = urls.iter().zip(&sizes);
    assert!(
        seen.eq(expected.map(|(url, size)| (&**url, 200, *size as u64))),
        "{:?}",
        verdict.http
    );
    assert_eq!(complaints(&capture), [""; 0], "tshark objects");
    let fields = ["ip.src", "ipv6.src", "tcp.srcport", "http.request.uri"];
    let mut seen = follow(&capture, "http.request", &fields);
    let mut expected: Vec<_> = asked
        .iter()
        .map(|(client, size)| {
            let client: SocketAddr = client.parse().expect("an address");
            let (ip, port) = (client.ip(), client.port());
            let both = match client.is_ipv4() {
                true => format!("{ip}\t"),
                false => format!("\t{ip}"),
            };
            format!("{both}\t{port}\t/get/{size}")
        })
        .collect();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
}

#[test]
fn nginx_as_a_proxy() {
    clients_are_told_apart(nginx);
}

#[test]
fn haproxy_as_a_proxy() {
    clients_are_told_apart(haproxy);
}

/// Each connection to the proxy is told with its port; by the other family than that to the service.
#[test]
fn forwarded_by_a_proxy_for_ipv6() {
    let place = Place::new(&[1, 20_000]);
    let field = "Forwarded 'for=\"[$remote_addr]:$remote_port\";proto=http'";
    let proxy = |port, service| nginx_that_says(field, &place, ("[::1]", port), service);
    let ask = |port, _| {
        for size in [1, 20_000] {
            let url = format!("http://[::1]:{port}/get/{size}");
            assert_eq!(curl("::1", &url, &["-g"]), content(size));
        }
    };
    let said = mirror_behind(&place, "::1", proxy, ask);
    assert!(said.contains("2 clients by Forwarded"), "{said}");
    let log = Nginx::read_log(&place);
    let [one, other] = &log[..] else {
        panic!("{log:?}");
    };
    assert_eq!(one.port, other.port, "the proxy keeps its connection");
    let flows = read(&place, &said);
    assert_eq!(flows.len(), 2, "{flows:?}\n{said}");
    let syn = "tcp.flags.syn == 1 && tcp.flags.ack == 0";
    let fields = ["tcp.srcport", "communityid"];
    let ids = follow_with(&place.path("capture.pcapng"), syn, &fields, "communityid");
    let mut asked = Vec::new();
    for (flow, (entry, size)) in flows.iter().zip([(one, 1), (other, 20_000)]) {
        let client = flow.client;
        assert_eq!(client.ip(), Ipv6Addr::LOCALHOST);
        assert_eq!(flow.server.ip(), Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        let mark = format!(" xff={client}<-{PROXY}:{} xff_by=forwarded", entry.port);
        assert!(flow.comment.contains(&mark), "{}", flow.comment);
        let mut words = flow.comment.split(' ');
        let id = words.find_map(|word| word.strip_prefix("community_id="));
        let named = format!("{}\t{}", client.port(), id.expect("an id"));
        assert!(ids.contains(&named), "{named}: {ids:?}");
        assert_eq!(flow.request.length(), entry.request_length);
        assert_eq!(flow.response.length(), entry.bytes_sent);
        let answered = flow.response.whole().expect("no hole");
        assert!(answered.ends_with(&content(size)));
        asked.push((client.to_string(), size));
    }
    let asked: Vec<_> = asked
        .iter()
        .map(|(client, size)| (&**client, *size))
        .collect();
    ask_judges(&place, &asked);
}

/// Both ends of the proxy's connection are mirrored, on their way to one collector: this brings the copies together,
/// and tells the clients of the whole apart.
#[test]
fn at_a_collector() {
    let place = Place::new(&[1, 20_000, 200_000]);
    let service = Nginx::new(&place);
    let capture = place.path("capture.pcapng").display().to_string();
    let log = place.path("sessions.jsonl").display().to_string();
    let options = ["-w", &capture, "--log", &log, "--insecure-plaintext"];
    let options = [&options[..], &TRUST_XFF].concat();
    let sensor = Sensor::start(&place, "127.0.0.1:0".parse().expect("an address"), &options);
    let to = sensor.address.to_string();
    let tunnel = ["-t", &to, "--insecure-plaintext"];
    let server = Process::start_piped(sslcollector::run(&tunnel).args(service.command(false)));
    service.wait_until_up();
    let port = free_port();
    let words = nginx(&place, port, service.port);
    let proxy = Process::start_piped(sslcollector::run(&tunnel).args(words));
    wait_for(PROXY, port);
    ask(port, service.port);
    proxy.signal(Signal::TERM);
    proxy.output();
    service.quit();
    server.output();
    let said = sensor.end();
    assert!(said.contains("1 session mirrored at both ends"), "{said}");
    assert!(said.contains("2 clients by X-Forwarded-For"), "{said}");
    assert_told_apart(&place, &read(&place, &said), &said);
}

/// `openssl s_server` ignores lines that are no request, so a PROXY header too.
#[test]
fn a_proxy_header_within_tls() {
    let place = Place::new(&[1]);
    let port = free_port();
    let options = [
        "--real-client",
        "proxy-protocol",
        "--trusted-proxy",
        "127.0.0.10/32",
    ];
    let mut mirrored = sslcollector::run_to(&place.path("capture.pcapng"), &options);
    let accept = format!("127.0.0.1:{port}");
    let (cert, key) = (place.path("cert.pem"), place.path("key.pem"));
    mirrored.args([
        "openssl", "s_server", "-www", "-naccept", "3", "-accept", &accept,
    ]);
    mirrored.arg("-cert").arg(cert).arg("-key").arg(key);
    let printed = place.path("printed");
    mirrored.stdout(fs::File::create(&printed).expect("a file"));
    let server = Process::start(mirrored.stderr(Stdio::piped()));
    until("the server accepts", || {
        place.text("printed").contains("ACCEPT").then_some(())
    });
    let request = b"GET / HTTP/1.0\r\n\r\n";
    let text = b"PROXY TCP4 203.0.113.7 10.0.0.2 56324 443\r\n";
    // 203.0.113.8:56325 to 10.0.0.2:443; behind it a TLV that means nothing, whose text ends the line.
    let binary =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xcb\0\x71\x08\x0a\0\0\x02\xdc\x05\x01\xbb\x04\0\x01\n";
    let cases = [
        (PROXY, &text[..], "203.0.113.7:56324"),
        (PROXY, &binary[..], "203.0.113.8:56325"),
        ("127.0.0.4", &text[..], "127.0.0.4"),
    ];
    for (from, header, _) in cases {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-quiet", "-connect", &accept]);
        client.args(["-bind", &format!("{from}:0")]);
        client.stdout(Stdio::null()).stderr(Stdio::null());
        let (mut client, mut stdin) = Process::start_fed(&mut client);
        stdin.write_all(header).expect("a client");
        stdin.write_all(request).expect("a client");
        client.wait();
    }
    let said = String::from_utf8_lossy(&server.output().stderr).into_owned();
    let flows = read(&place, &said);
    assert_eq!(flows.len(), 3, "{flows:?}\n{said}");
    for (flow, (from, header, client)) in flows.iter().zip(cases) {
        let told = flow.request.whole().expect("no hole");
        if from == PROXY {
            assert_eq!(flow.client.to_string(), client);
            assert_eq!(told, request);
            let mark = format!(" xff={client}<-{PROXY}:");
            assert!(flow.comment.contains(&mark), "{}", flow.comment);
            let taken = format!(" xff_by=proxy-protocol proxy_header={}", header.len());
            assert!(flow.comment.ends_with(&taken), "{}", flow.comment);
        } else {
            assert_eq!(flow.client.ip().to_string(), client);
            assert_eq!(told, [header, request].concat());
            assert!(!flow.comment.contains(" xff="), "{}", flow.comment);
        }
        let answered = flow.response.whole().expect("no hole");
        assert!(
            answered.starts_with(b"HTTP/1.0 200 ok"),
            "{}",
            answered.escape_ascii()
        );
    }
}

/// What is wrong with a configuration is told with its place.
#[test]
fn faults_have_a_line() {
    let place = Place::new(&[]);
    let check = |text: &str| {
        let file = place.path("x.toml");
        fs::write(&file, text).expect("a file");
        let mut command = Command::new(sslcollector::binary());
        command.arg("--check").arg("--config").arg(&file);
        let output = mirror_tests::process::run(command.args(["--socket", "x"]));
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.success(), said)
    };
    let good = "write = 'x'\nreal-client = 'xff'\ntrusted-proxy = ['10.0.0.5', 'fd00::/8']\n";
    let (taken, said) = check(good);
    assert!(taken && said.contains("real-client = \"xff\""), "{said}");
    for (text, told) in [
        (
            "write = 'x'\nreal-client = 'xf'\n",
            "x.toml:2: real-client: ",
        ),
        ("write = 'x'\n\nreal-client = 'xff'\n", "real-client is in "),
        (
            "write = 'x'\nreal-client = 'xff'\ntrusted-proxy = ['10.0.0.5/8']\n",
            "x.toml:3: trusted-proxy: ",
        ),
    ] {
        let (taken, said) = check(text);
        assert!(!taken && said.contains(told), "{said}");
    }
    let help = output_of(Command::new(sslcollector::binary()).arg("--help"));
    assert!(help.contains("--real-client xff --trusted-proxy"), "{help}");
}
