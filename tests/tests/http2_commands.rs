//! HTTP/2 shown as HTTP/1.1 on an interface, by an agent and by a collector: monitors that listen there live see what
//! is in the file, and that is what nginx and curl exchanged at both ends.

use std::collections::HashSet;
use std::net::IpAddr;
use std::process::Command;

use mirror_tests::examples::sha256;
use mirror_tests::judges::HttpEvent;
use mirror_tests::lanes::{curl_to, event, further_flows, sum_count};
use mirror_tests::monitors::{Host, Output, Seen, at_a_collector, here};
use mirror_tests::network::{HOST, HOST_WORDS, PEER, PEER_WORDS};
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::onwire::clear_text;
use mirror_tests::place::{HOST as NAME, Place};
use mirror_tests::process::{output_of, until};
use rustix::process::Signal;

/// Two of them fit what a program may write before the agent has looked at it.
const PAGE: usize = 20_000;
const LARGE: usize = 90_000;
const SIZES: [usize; 3] = [0, PAGE, LARGE];
/// Requests at a time.
const COUNT: usize = 20;
/// The first one's, and for each family those of GETs and of POST, and of the host's own curl.
const CONNECTIONS: usize = 1 + 2 * 3;

/// What was said.
struct Told {
    /// Without ports, in order.
    http: Vec<HttpEvent>,
    /// Hashes of the files and how often each was sent, down and up.
    files: [(String, usize, usize); 2],
}

/// curl's words for all these paths at once.
fn at_once(place: &Place, server: (IpAddr, u16), paths: &[String]) -> Vec<String> {
    let mut words = curl_to(place, server);
    words.extend(["--fail", "--parallel", "--parallel-max", "50"].map(str::to_owned));
    for path in paths {
        words.push(format!("https://{NAME}:{}{path}", server.1));
        words.extend(["-o".to_owned(), "/dev/null".to_owned()]);
    }
    words
}

/// A stock curl at the peer asks the host's nginx, and the host's curl the peer's.
fn talk(host: &Host<'_>) -> Told {
    let Host {
        network,
        place,
        away,
        agent,
    } = *host;
    let nginx_at = |place, addresses| {
        let options = Options {
            addresses,
            http2: true,
            ..Options::default()
        };
        Nginx::with(place, options)
    };
    let nginx = nginx_at(place, HOST_WORDS);
    nginx.start_with(|command| agent.prepare(command));
    let stock = nginx_at(away, PEER_WORDS);
    let words = stock.command(true);
    output_of(network.in_peer(&words[0]).args(&words[1..]));

    let asked = |words: &[String]| {
        output_of(network.in_peer(&words[0]).args(&words[1..]));
    };
    let mut http = Vec::new();
    let mut gets = |paths: &[String]| {
        http.extend(paths.iter().map(|path| {
            let size = path[5..]
                .split('?')
                .next()
                .and_then(|size| size.parse().ok());
            event("GET", path, 200, size.expect("a size"))
        }));
    };
    // What a program says before the agent has looked at it is bounded.
    let first = ["/get/0".to_owned()];
    asked(&at_once(place, (HOST[0], nginx.port), &first));
    gets(&first);
    until("the agent has looked at nginx", || {
        agent.signal(Signal::USR1);
        clear_text(&agent.said()).filter(|count| *count > 0)
    });
    let upload = place.path(&format!("www/{LARGE}"));
    for (family, address) in HOST.into_iter().enumerate() {
        let server = (address, nginx.port);
        let numbers = 0..COUNT;
        let paths = numbers
            .flat_map(|number| [PAGE, LARGE].map(|size| format!("/get/{size}?{family}.{number}")));
        let paths: Vec<_> = paths.collect();
        asked(&at_once(place, server, &paths));
        gets(&paths);
        let mut post = at_once(place, server, &[format!("/post/{family}")]);
        post.extend(["--data-binary".into(), format!("@{}", upload.display())]);
        asked(&post);
    }
    for (family, address) in PEER.into_iter().enumerate() {
        let paths = [0, 1].map(|number| format!("/get/{PAGE}?away.{family}.{number}"));
        let words = at_once(away, (address, stock.port), &paths);
        let mut curl = Command::new(&words[0]);
        agent.prepare(&mut curl);
        output_of(curl.args(&words[1..]));
        gets(&paths);
    }
    nginx.quit();
    stock.quit();
    http.extend(
        [0, 1].map(|family| event("POST", &format!("/post/{family}"), 200, "stored".len())),
    );
    http.sort();
    let page = sha256(&place.path(&format!("www/{PAGE}")));
    let files = [(page, 2 * COUNT + 4, 0), (sha256(&upload), 2 * COUNT, 2)];
    Told { http, files }
}

fn assert_all_seen(seen: &Seen<Told>) {
    let Told { http, files } = &seen.told;
    let mut shown = seen.http.clone();
    shown.iter_mut().for_each(|event| event.port = 0);
    shown.sort();
    assert_eq!(shown, *http, "{}", seen.said);
    for (sum, down, up) in files {
        let count = |upload| sum_count(&seen.files, sum, upload);
        assert_eq!((count(false), count(true)), (*down, *up), "{}", seen.said);
    }
    // What was at the same time is on further ports, of which one session may use what another one has left.
    let further = further_flows(&seen.said, http.len());
    let ports: HashSet<_> = seen.http.iter().map(|event| event.port).collect();
    let beside = ports.len() - CONNECTIONS;
    assert!(
        beside <= further && (beside > 0) == (further > 0),
        "{beside}: {}",
        seen.said
    );
}

#[test]
fn an_agent_with_an_interface() {
    assert_all_seen(&here(Output::Alone, &["--http1"], &SIZES, talk));
}

#[test]
fn an_agent_beside_the_original_packets() {
    assert_all_seen(&here(Output::Beside, &["--http1"], &SIZES, talk));
}

#[test]
fn a_collector_with_an_interface() {
    assert_all_seen(&at_a_collector(Output::Alone, &["--http1"], &SIZES, talk));
}
