//! `run --on-full wait:MS`: the program waits for room in its ring; not for an agent that is dead, and
//! for one that stands still only once.

use std::fs::metadata;
use std::path::PathBuf;

use mirror_tests::client;
use mirror_tests::nginx::Nginx;
use mirror_tests::place::Place;
use mirror_tests::process::{Process, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sslcollector;
use mirror_tests::streams::flows;
use rustix::process::Signal;

const BULK: usize = 20 << 20;
/// Looks at a file that doesn't grow until its program is taken for waiting.
const STILL: u32 = 5;

struct Scenario<'p> {
    place: &'p Place,
    nginx: Nginx<'p>,
    agent: Process,
}

impl<'p> Scenario<'p> {
    /// Runs the client with the smallest ring, which 20 MiB don't fit into.
    fn start(place: &'p Place, wait: &str, steps: &[&str]) -> Self {
        let nginx = Nginx::new(place);
        nginx.start();
        let options = ["--ring-size", "64K", "--on-full", wait];
        let mut command = sslcollector::run_to(&place.path("capture.pcapng"), &options);
        command.args(client::words(place, nginx.port, steps));
        let agent = Process::start_piped(&mut command);
        Self {
            place,
            nginx,
            agent,
        }
    }

    fn received_file(&self) -> PathBuf {
        self.place.path("out/received.1")
    }

    fn received(&self) -> usize {
        let length = metadata(self.received_file()).map_or(0, |file| file.len());
        usize::try_from(length).expect("a length")
    }

    fn until_received(&self, bytes: usize) {
        until(&format!("{bytes} bytes"), || {
            (self.received() >= bytes).then_some(())
        });
    }

    /// The program goes no further.
    fn until_still(&self) {
        let mut before = (self.received(), 0);
        until("a program that waits for room", || {
            let now = self.received();
            before = (now, if now == before.0 { before.1 + 1 } else { 0 });
            (before.1 >= STILL).then_some(())
        });
    }

    /// Ends it; what was said, and whether all of it is in the capture.
    fn end(self) -> (String, bool) {
        let output = self.agent.output();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {said}", output.status);
        self.nginx.quit();
        let capture = Capture::read(&self.place.path("capture.pcapng")).expect("a capture");
        rules::assert_good(&capture, "waiting");
        let flows = flows(&capture).expect("flows");
        assert_eq!(client::difference(self.place, 1, &flows[0]), None);
        let missing = flows[0].request.missing() + flows[0].response.missing();
        (said, missing == 0)
    }
}

#[test]
fn a_slow_agent_gets_all_of_it() {
    let place = Place::new(&[1, BULK]);
    let bulk = format!("get:/get/{BULK}");
    // As long as it may: this machine may be slow, too.
    let scenario = Scenario::start(&place, "wait:10000", &[&bulk, "get:/get/1", "close"]);
    for part in 1..8 {
        scenario.until_received(part * BULK / 10);
        scenario.agent.signal(Signal::STOP);
        scenario.until_still();
        assert!(scenario.received() < BULK, "the program hasn't waited");
        scenario.agent.signal(Signal::CONT);
    }
    let (said, whole) = scenario.end();
    assert!(whole, "{said}");
    assert!(!said.contains("LOST"), "{said}");
}

#[test]
fn an_agent_that_stands_still_is_waited_for_once() {
    let place = Place::new(&[1, BULK]);
    let bulk = format!("get:/get/{BULK}");
    // Each of some thousand calls waiting would take longer than any test may.
    let steps = ["get:/get/1", "stop", &bulk, "go", "slowly:/get/1", "close"];
    let (said, whole) = Scenario::start(&place, "wait:1000", &steps).end();
    assert!(!whole && said.contains("LOST"), "{said}");
}

#[test]
fn an_agent_that_is_killed_is_waited_for_no_more() {
    let place = Place::new(&[1, BULK]);
    let bulk = format!("get:/get/{BULK}");
    let mut scenario = Scenario::start(&place, "wait:10000", &[&bulk, "get:/get/1", "close"]);
    scenario.until_received(BULK / 10);
    scenario.agent.signal(Signal::STOP);
    scenario.until_still();
    scenario.agent.signal(Signal::KILL);
    scenario.agent.wait();
    // Its program has no parent any more, and goes on to its end, when this output ends.
    let output = scenario.agent.output();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout.matches("HTTP/1.1 200 OK").count(), 2, "{stdout}");
    scenario.nginx.quit();
}
