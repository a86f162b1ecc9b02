//! nginx under load while its agents are stopped, killed and replaced at random: no request fails, and
//! nothing is left behind in the workers. `make soak` does it at length.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mirror_tests::curl::{Transfer, Truth};
use mirror_tests::footprint::{Footprint, connections};
use mirror_tests::load::{Requests, Wrk};
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::Place;
use mirror_tests::process::until;
use mirror_tests::reader::Capture;
use mirror_tests::service::{Agent, Clients, open_to_others};
use mirror_tests::streams::flows;
use rustix::process::Signal;

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Amount {
    kills: u64,
    requests: u64,
    /// One of so many agents lives until it has been found: who has lost its agent looks for another
    /// at once, and then no more than once in a second.
    found: u64,
    /// The test has failed if it takes longer.
    at_most: Duration,
}

const QUICK: Amount = Amount {
    kills: 100,
    requests: 1,
    found: 10,
    at_most: Duration::from_secs(120),
};
const SOAK: Amount = Amount {
    kills: 1000,
    requests: 5_000_000,
    found: 3,
    at_most: Duration::from_secs(60 * 60),
};

/// How long one wrk runs.
const SLICE_SECONDS: u64 = 60;
/// Of the resident memory of a worker: its own buffers, and what a copy was in the middle of.
const MORE_RESIDENT_KB: u64 = 8 * 1024;
/// Of the address space, for each ring that the worker has had: what an application asks for.
const RING_KB: u64 = 16 * 1024 + 64;

/// Marsaglia's xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn sleep_below(&mut self, ms: u64) {
        sleep(Duration::from_millis(self.below(ms)));
    }
}

/// What has happened.
#[derive(Debug, Default)]
struct Happened {
    kills: u64,
    stops: u64,
    /// Agents that had written packets.
    wrote: u64,
}

/// wrk, one after another.
struct Load {
    url: String,
    wrk: Wrk,
    /// What those counted that have ended.
    requests: Requests,
    slices: usize,
}

impl Load {
    /// Starts another if one's time is over.
    fn go_on(&mut self) {
        if self.wrk.ended() {
            let next = Wrk::start(&self.url, SLICE_SECONDS);
            let slice = std::mem::replace(&mut self.wrk, next).stop();
            self.requests = self.requests.and(slice);
            self.slices += 1;
            assert_eq!(self.requests.failed, 0, "{:?}", self.requests);
        }
    }

    fn end(self) -> Requests {
        self.requests.and(self.wrk.stop())
    }
}

/// One agent: lives for a while, may stand still for a while, is killed.
fn one_agent(
    place: &Place,
    amount: Amount,
    load: &mut Load,
    random: &mut Random,
    happened: &mut Happened,
) {
    let capture = capture(place);
    let mut agent = Agent::start(place, &capture, &["-I", "none"]).process;
    // Headers alone are smaller.
    let has_written = || std::fs::metadata(&capture).is_ok_and(|file| file.len() > 1000);
    if happened.kills % amount.found == amount.found - 1 {
        until("packets of a new agent", || {
            load.go_on();
            has_written().then_some(())
        });
    }
    random.sleep_below(80);
    if random.below(5) == 0 {
        happened.stops += 1;
        agent.signal(Signal::STOP);
        random.sleep_below(80);
    }
    agent.signal(Signal::KILL);
    agent.wait();
    happened.kills += 1;
    happened.wrote += u64::from(has_written());
    random.sleep_below(20);
}

fn capture(place: &Place) -> PathBuf {
    place.path("capture.pcapng")
}

/// What the workers hold while nobody is connected.
fn idle(nginx: &Nginx<'_>, workers: &[u32]) -> Vec<Footprint> {
    until("idle workers", || {
        (connections(nginx.port) == 0).then_some(())
    });
    let of = |worker: &u32| Footprint::of(*worker).expect("a worker");
    workers.iter().map(of).collect()
}

#[test]
fn no_request_fails() {
    let is_soak = std::env::var_os("MIRROR_SOAK").is_some();
    let amount = if is_soak { SOAK } else { QUICK };
    let place = Place::new(&[1024, 20_000]);
    open_to_others(&place);
    let options = Options {
        user: "www-data",
        workers: 2,
        log: false,
        // New connections come all the time: they are what finds a new agent.
        requests: 200,
        ..Options::default()
    };
    let nginx = Nginx::with(&place, options);
    // No agent has been there yet; nginx only learns where one will be.
    let first = Agent::start(&place, &capture(&place), &["-I", "none"]);
    nginx.start_with(|command| first.prepare(command));
    drop(first);
    let workers = nginx.workers();
    let url = format!("https://127.0.0.1:{}/get/1024", nginx.port);

    // As it is once all that nginx allocates for so many connections is there.
    let warm = Wrk::start(&url, 1);
    let before_kills = warm_up(warm);
    let mut happened = Happened::default();
    let before = idle(&nginx, &workers);

    let begin = Instant::now();
    let mut random = Random(0x5eed_0000_0000_0001);
    let mut load = Load {
        wrk: Wrk::start(&url, SLICE_SECONDS),
        url,
        requests: before_kills,
        slices: 0,
    };
    let mut told = 0;
    while happened.kills < amount.kills || load.requests.good < amount.requests {
        assert!(begin.elapsed() < amount.at_most, "too slow: {happened:?}");
        load.go_on();
        one_agent(&place, amount, &mut load, &mut random, &mut happened);
        if is_soak && load.slices > told {
            told = load.slices;
            eprintln!(
                "soak: {:?}: {happened:?}, {:?}",
                begin.elapsed(),
                load.requests
            );
        }
    }
    let requests = load.end();
    assert_eq!(requests.failed, 0, "{happened:?}, {requests:?}");
    assert!(requests.good > amount.requests, "{requests:?}");
    // It wasn't for nothing: agents had been found.
    assert!(
        happened.wrote >= happened.kills / amount.found,
        "{happened:?}"
    );

    let after = idle(&nginx, &workers);
    for (after, before) in after.iter().zip(&before) {
        assert_eq!(after.descriptors, before.descriptors);
        assert_eq!(after.threads, before.threads);
        let resident = after.resident_kb.saturating_sub(before.resident_kb);
        assert!(resident < MORE_RESIDENT_KB, "{after:?}, not {before:?}");
        let address = after.address_kb.saturating_sub(before.address_kb);
        let most = RING_KB * (happened.kills + 2);
        assert!(address < most, "{after:?}, not {before:?}");
    }
    assert_eq!(nginx.workers(), workers, "a worker died");
    mirrored_as_ever(&place, &nginx);
    nginx.quit();
    eprintln!(
        "agents killed: {} (stopped before: {}, with packets: {}), requests: {}, failed: {}, {:?}; \
         memory of a worker: {} KB before, {} KB after; address space: {} KB, {} KB",
        happened.kills,
        happened.stops,
        happened.wrote,
        requests.good,
        requests.failed,
        begin.elapsed(),
        before[0].resident_kb,
        after[0].resident_kb,
        before[0].address_kb,
        after[0].address_kb,
    );
}

fn warm_up(mut wrk: Wrk) -> Requests {
    until("wrk's end", || wrk.ended().then_some(()));
    wrk.stop()
}

/// A last agent is found by all workers, and what it writes is right.
fn mirrored_as_ever(place: &Place, nginx: &Nginx<'_>) {
    let mut agent = Agent::start(place, &capture(place), &["-I", "none"]).process;
    until("a round of which all is mirrored", || {
        let clients = Clients::start(place, nginx.port, &[Transfer::get("get", 20_000)], 16);
        let truths = clients.truths();
        let capture = Capture::read(&capture(place)).ok()?;
        let flows = flows(&capture).expect("flows");
        let is_whole = |truth: &Truth| {
            let mut mine = flows.iter().rev();
            let flow = mine.find(|flow| flow.client.port() == truth.port);
            flow.is_some_and(|flow| flow.response.whole() == Some(&truth.response[..]))
        };
        truths
            .iter()
            .all(|(_, truth)| is_whole(truth))
            .then_some(())
    });
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
}
