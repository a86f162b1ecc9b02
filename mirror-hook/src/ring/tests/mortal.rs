#![cfg_attr(
    loom,
    allow(dead_code, reason = "loom's models see the outcome, not the stores")
)]
//! A memory whose user can be stopped at any access.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;
use crate::layout::{CONTROL_BYTES, RecordWord, control};
use crate::ring::cursor::next_lap;

/// A memory whose user dies at a given access. Copies are made, and can end, byte group by byte group.
pub(super) struct Mortal<'a> {
    capacity: u64,
    memory: &'a HeapMemory,
    /// Accesses left; the one behind the last isn't made.
    left: Cell<u64>,
    /// What was reserved through this memory, and how far each is.
    reserved: RefCell<Vec<Reservation>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Reservation {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Reserved,
    Marked,
    Committed,
}

/// What a death unwinds with.
struct Died;

impl<'a> Mortal<'a> {
    pub(super) fn new(memory: &'a HeapMemory, capacity: u64, accesses: u64) -> Self {
        Self {
            capacity,
            memory,
            left: Cell::new(accesses),
            reserved: RefCell::default(),
        }
    }

    pub(super) fn memory(&self) -> &'a HeapMemory {
        self.memory
    }

    pub(super) fn left(&self) -> u64 {
        self.left.get()
    }

    pub(super) fn reserved(&self) -> Vec<Reservation> {
        self.reserved.borrow().clone()
    }

    fn step(&self) {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            // Not a panic: nothing is to be printed.
            None => resume_unwind(Box::new(Died)),
        }
    }

    fn groups(at: usize, length: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut from = at;
        std::iter::from_fn(move || {
            let count = (at + length - from).min(8 - from % 8);
            let group = (from, count);
            from += count;
            (count > 0).then_some(group)
        })
    }
}

/// `false`: it died before its end.
pub(super) fn lives(work: impl FnOnce()) -> bool {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(()) => true,
        Err(payload) if payload.is::<Died>() => false,
        Err(payload) => resume_unwind(payload),
    }
}

impl Memory for Mortal<'_> {
    fn length_bytes(&self) -> usize {
        self.memory.length_bytes()
    }
    fn load_u64(&self, at: usize, order: Ordering) -> u64 {
        self.step();
        self.memory.load_u64(at, order)
    }
    fn store_u64(&self, at: usize, value: u64, order: Ordering) {
        self.step();
        self.memory.store_u64(at, value, order);
        let mut reserved = self.reserved.borrow_mut();
        if at == control::SKIPPED {
            let last = reserved.last_mut().expect("a skip is before a reservation");
            assert_eq!(value, last.from);
            last.from = next_lap(last.from, self.capacity);
        }
        if at >= CONTROL_BYTES {
            let last = reserved.last_mut().expect("a word is of a reservation");
            let begin = CONTROL_BYTES + usize::try_from(last.from % self.capacity).expect("small");
            assert_eq!(at, begin);
            last.stage = if RecordWord::unpack(value).busy {
                Stage::Marked
            } else {
                Stage::Committed
            };
        }
    }
    fn compare_exchange_u64(&self, at: usize, current: u64, new: u64) -> Result<u64, u64> {
        self.step();
        let result = self.memory.compare_exchange_u64(at, current, new);
        if at == control::HEAD && result.is_ok() {
            self.reserved.borrow_mut().push(Reservation {
                from: current,
                to: new,
                stage: Stage::Reserved,
            });
        }
        result
    }
    fn add_u64(&self, at: usize, value: u64) {
        self.step();
        self.memory.add_u64(at, value);
    }
    fn load_u32(&self, at: usize, order: Ordering) -> u32 {
        self.step();
        self.memory.load_u32(at, order)
    }
    fn store_u32(&self, at: usize, value: u32, order: Ordering) {
        self.step();
        self.memory.store_u32(at, value, order);
    }
    fn compare_exchange_u32(&self, at: usize, current: u32, new: u32) -> Result<u32, u32> {
        self.step();
        self.memory.compare_exchange_u32(at, current, new)
    }
    fn write(&self, at: usize, bytes: &[u8]) {
        let mut rest = bytes;
        for (at, count) in Self::groups(at, bytes.len()) {
            self.step();
            let (now, later) = rest.split_at(count);
            self.memory.write(at, now);
            rest = later;
        }
    }
    fn read(&self, at: usize, out: &mut [u8]) {
        self.step();
        self.memory.read(at, out);
    }
    fn zero(&self, at: usize, length: usize) {
        for (at, count) in Self::groups(at, length) {
            self.step();
            self.memory.zero(at, count);
        }
    }
    fn wake(&self, _at: usize) {}
}
