//! Both ends at work while a third keeps overwriting the memory that they share. Nothing may panic,
//! reach outside of the memory (`Mapping` asserts it), or go on for ever.
//!
//! `make hostile` runs it for long, under AddressSanitizer: MIRROR_HOSTILE_SECONDS says how long.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::*;
use crate::event::{Body, CloseReason};
use crate::layout::{
    BOOTSTRAP_BYTES, CLOSE_ENTRY_BYTES, CLOSE_TABLE, CONTROL_BYTES, MAX_PAYLOAD, RecordWord,
    STATE_READY, control, stamp,
};
use crate::shm::Mapping;

const DATA_BYTES: u64 = BOOTSTRAP_BYTES;
const CAPACITY: usize = 64 * 1024;
/// At least; more where a machine's scheduling hasn't let the test reach everything yet.
const ROUNDS: std::ops::Range<u64> = 8..400;
/// Writes of the one that corrupts, in one round.
const CORRUPTIONS: u64 = 20_000;
/// A round takes milliseconds; one that takes this long will never end.
const STUCK: Duration = Duration::from_secs(120);

/// Numbers that look random (xorshift64, Marsaglia 2003); the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % bound as u64).unwrap()
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// What happened, to see that the test reached all of it.
#[derive(Debug, Default)]
struct Seen {
    accepted: AtomicU64,
    full: AtomicU64,
    detached: AtomicU64,
    hostile: AtomicU64,
    records: AtomicU64,
    parsed: AtomicU64,
    closes: AtomicU64,
    quarantined: AtomicU64,
    resumed: AtomicU64,
}

impl Seen {
    fn all(&self) -> bool {
        let counters = [
            &self.accepted,
            &self.full,
            &self.detached,
            &self.hostile,
            &self.records,
            &self.parsed,
            &self.closes,
            &self.quarantined,
            &self.resumed,
        ];
        let counts = counters.map(|counter| counter.load(Ordering::Relaxed));
        counts.iter().all(|count| *count > 0)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn mapping() -> Mapping {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
    let memfd = memfd_create("hostile", flags).unwrap();
    ftruncate(&memfd, CONTROL_BYTES as u64 + DATA_BYTES).unwrap();
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&memfd, seals).unwrap();
    Mapping::of_sealed_memfd(memfd.as_fd(), DATA_BYTES).unwrap()
}

/// A thread of the application.
fn produce(memory: &Mapping, seed: u64, seen: &Seen, over: &AtomicBool) {
    let mut dice = Dice(seed);
    let producer = Producer::new(memory, DATA_BYTES).unwrap();
    let text = vec![0x55; 8 + MAX_PAYLOAD];
    let calls = (1..).take_while(|_| !over.load(Ordering::Relaxed));
    for connection in calls {
        let length = dice.one_of(&[1, 8, 100, 4000, MAX_PAYLOAD]);
        let result = producer.write(data(connection), &[&text[..8], &text[8..8 + length]]);
        if result.is_err() {
            thread::yield_now();
        }
        count(match result {
            Ok(()) => &seen.accepted,
            Err(Refused::Full) => &seen.full,
            Err(Refused::Detached) => &seen.detached,
            Err(Refused::Hostile) => &seen.hostile,
        });
        producer.fits_open(length);
        producer.detached();
        if dice.below(64) == 0 {
            producer.table_close(&ClosedConnection {
                connection,
                reason: CloseReason::Free,
                sent: 1,
                received: 2,
                at_ns: 3,
            });
        }
    }
}

/// The agent: gives a ring up when it is told to, and takes it over again.
fn consume(memory: &Mapping, seed: u64, seen: &Seen, over: &AtomicBool) {
    let mut dice = Dice(seed);
    let mut buffer = RecordBuffer::new();
    let mut consumer = Consumer::new(memory, DATA_BYTES).unwrap();
    consumer.grant();
    while !over.load(Ordering::Relaxed) {
        match consumer.poll(&mut buffer) {
            Ok(Next::Record(record)) => {
                count(&seen.records);
                assert!(record.body.len() <= MAX_RECORD_BYTES);
                if Body::parse(record.kind, record.flags, record.body).is_ok() {
                    count(&seen.parsed);
                }
            }
            Ok(Next::Empty | Next::Pending) => {
                consumer.rest();
                consumer.prepare_sleep();
                consumer.woke();
                thread::yield_now();
                // A header that was overwritten stays away for ever: so ends the application.
                if dice.below(16) == 0 {
                    consumer.producer_died();
                }
            }
            Ok(Next::Skipped { bytes, .. } | Next::TailUnknown { bytes }) => {
                assert!(bytes <= DATA_BYTES);
            }
            Err(error) => {
                count(&seen.quarantined);
                assert_eq!(consumer.poll(&mut buffer), Err(error), "it stays over");
                consumer = match Consumer::resume(memory, DATA_BYTES) {
                    Ok(consumer) => {
                        count(&seen.resumed);
                        consumer
                    }
                    Err(_) => Consumer::new(memory, DATA_BYTES).unwrap(),
                };
                let _ = consumer.own(77);
                consumer.grant_up_to(dice.one_of(&[0, BOOTSTRAP_BYTES, u64::MAX]));
                consumer.extend(u64::MAX);
            }
        }
        if consumer.next_closed().is_some() {
            count(&seen.closes);
        }
        consumer.counters();
    }
}

/// Whoever can write here and means no good.
fn corrupt(memory: &Mapping, seed: u64) {
    let mut dice = Dice(seed);
    let relaxed = Ordering::Relaxed;
    let words = [
        control::HEAD,
        control::TAIL,
        control::SKIPPED,
        control::RESTING_TAIL,
        control::RELEASING,
        control::STATE,
        control::GRANTED_BYTES,
        control::OWNER,
        control::USABLE_BYTES,
        control::CLOSES_TABLED,
    ];
    let at_position = |position: u64| {
        let within = usize::try_from(position % DATA_BYTES).unwrap();
        CONTROL_BYTES + within / 8 * 8
    };
    for _ in 0..CORRUPTIONS {
        let value = dice.roll();
        let head = memory.load_u64(control::HEAD, relaxed);
        let tail = memory.load_u64(control::TAIL, relaxed);
        match dice.below(12) {
            0 => memory.store_u64(
                dice.below((CONTROL_BYTES + CAPACITY) / 8) * 8,
                value,
                relaxed,
            ),
            1 => memory.store_u64(dice.one_of(&words), value, relaxed),
            // Counters that are nearly right.
            2 => {
                let near = (value % 4096).wrapping_sub(2048) & !7;
                let word = dice.one_of(&words[..4]);
                memory.store_u64(word, tail.wrapping_add(near), relaxed);
            }
            3 => memory.store_u64(control::GRANTED_BYTES, 1 << (value % 64), relaxed),
            4 => memory.store_u32(control::STATE, dice.one_of(&[0, 1, 2, 3]), relaxed),
            // Words that are nearly right, where the agent reads next or where a record may be.
            5 | 6 => {
                let position = dice.one_of(&[tail, tail, head, value & !7]);
                let word = RecordWord {
                    busy: dice.below(4) == 0,
                    stamp: stamp(position),
                    flags: dice.one_of(&[0, 0, 1, 2]),
                    kind: dice.one_of(&[0, 1, 2, 3, 3, 4, 5, 6]),
                    length: u32::try_from(dice.one_of(&[0, 24, 33, 48, 216, 16416, 70_000]))
                        .unwrap(),
                };
                memory.store_u64(at_position(position), word.pack(), relaxed);
            }
            7 => {
                let bytes = value.to_ne_bytes().repeat(8);
                let at = dice.below(CONTROL_BYTES + CAPACITY - bytes.len());
                memory.write(at, &bytes);
            }
            8 => {
                let entry = CLOSE_TABLE + dice.below(4) * CLOSE_ENTRY_BYTES;
                memory.store_u64(entry + dice.below(6) * 8, value % 5, relaxed);
            }
            9 => memory.zero(CONTROL_BYTES, CAPACITY),
            // A good ring again, so that more than errors is seen.
            _ => {
                memory.store_u64(control::HEAD, tail & !7, relaxed);
                memory.store_u64(control::TAIL, tail & !7, relaxed);
                memory.store_u64(control::GRANTED_BYTES, DATA_BYTES, relaxed);
                memory.store_u64(control::USABLE_BYTES, u64::MAX, relaxed);
                memory.store_u32(control::OWNER, 0, relaxed);
                memory.store_u32(control::STATE, STATE_READY, relaxed);
                for _ in 0..dice.below(2000) {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

/// Two producers, one consumer, one that corrupts; `Err` names the thread that failed.
fn round(seed: u64, seen: &Arc<Seen>) -> Result<(), String> {
    let memory = Arc::new(mapping());
    let over = Arc::new(AtomicBool::new(false));
    let (ended, results) = channel();
    let ended = Arc::new(Mutex::new(ended));
    let start = |name: &'static str, work: fn(&Mapping, u64, &Seen, &AtomicBool), seed: u64| {
        let (memory, seen, over) = (Arc::clone(&memory), Arc::clone(seen), Arc::clone(&over));
        let ended = Arc::clone(&ended);
        thread::spawn(move || {
            let result = std::panic::catch_unwind(|| work(&memory, seed, &seen, &over));
            let _ = ended.lock().unwrap().send((name, result.is_ok()));
        });
    };
    start("producer", produce, seed);
    start("producer", produce, !seed);
    start("consumer", consume, seed ^ 0x5555);
    start(
        "corrupter",
        |memory, seed, _, over| {
            corrupt(memory, seed);
            over.store(true, Ordering::Relaxed);
        },
        seed ^ 0xaaaa,
    );
    let mut running = vec!["producer", "producer", "consumer", "corrupter"];
    while !running.is_empty() {
        let (name, good) = results
            .recv_timeout(STUCK)
            .map_err(|_| format!("stuck: {running:?}, seed {seed:#x}"))?;
        if !good {
            return Err(format!("the {name} panicked, seed {seed:#x}"));
        }
        let index = running.iter().position(|other| *other == name).unwrap();
        running.remove(index);
    }
    Ok(())
}

#[test]
fn hostile_memory_stops_neither_end() {
    let seconds = std::env::var("MIRROR_HOSTILE_SECONDS");
    let until = seconds.ok().map(|seconds| {
        Instant::now() + Duration::from_secs(seconds.parse().expect("a number of seconds"))
    });
    let seen = Arc::new(Seen::default());
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut rounds = 0;
    let goes_on = |rounds: u64| match until {
        Some(until) => Instant::now() < until,
        None => rounds < ROUNDS.start || (!seen.all() && rounds < ROUNDS.end),
    };
    while goes_on(rounds) {
        round(dice.roll(), &seen).unwrap();
        rounds += 1;
    }
    println!("{rounds} rounds: {seen:?}");
    assert!(seen.all(), "something was never reached: {seen:?}");
}
