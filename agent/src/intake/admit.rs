//! From a message with a descriptor to a ring that is read: every check on the way, and the budget.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use mirror_hook::attach::{AttachError, AttachMessage};
use mirror_hook::layout::{BOOTSTRAP_BYTES, CONTROL_BYTES, MAGIC, OWNER_LEFT, control};
use mirror_hook::ring::{Consumer, Memory};
use mirror_hook::shm::{MapError, Mapping};
use rustix::fs::{FallocateFlags, fallocate};

use crate::filter::Told;
use crate::keep::saved::Identity;

/// Why a process is not read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Its user isn't on the list.
    #[error("the user is not allowed")]
    User,
    /// It is another user's, and not a descendant of the agent's process.
    #[error("the process was not started by this agent")]
    Stranger,
    /// It can't be found out who it is.
    #[error("the peer's credentials can't be read")]
    Credentials,
    /// Not one message with one descriptor.
    #[error("not an attach message")]
    Message,
    /// A hook of another version.
    #[error("the hook has another version")]
    Version,
    /// The descriptor isn't a memfd sealed against every change of its size.
    #[error("the memory isn't sealed")]
    NotSealed,
    /// The memory hasn't the size that the message says.
    #[error("the memory has another size")]
    Size,
    /// It waited too long for an answer, and goes on with another ring or none.
    #[error("the process has given the ring up")]
    Abandoned,
    /// The kernel refused to map or to allocate it.
    #[error("the memory can't be mapped or allocated")]
    Memory,
    /// All rings together have as much as they may.
    #[error("the budget for rings is used up")]
    Budget,
    /// There are as many rings as there may be.
    #[error("there are too many rings")]
    TooMany,
    /// The operator's filters.
    #[error("the filters exclude the process")]
    Excluded,
    /// Its end couldn't be noticed.
    #[error("the process can't be watched")]
    NotWatched,
    /// Another agent, which lives, reads it.
    #[error("another agent reads it")]
    Owned,
    /// It was told other filters by another agent.
    #[error("it goes by other filters")]
    OtherFilters,
}

impl Refusal {
    /// How many reasons there are.
    pub const COUNT: usize = 15;

    /// All, in the order of their indices.
    pub const ALL: [Self; Self::COUNT] = [
        Self::User,
        Self::Stranger,
        Self::Credentials,
        Self::Message,
        Self::Version,
        Self::NotSealed,
        Self::Size,
        Self::Abandoned,
        Self::Memory,
        Self::Budget,
        Self::TooMany,
        Self::Excluded,
        Self::NotWatched,
        Self::Owned,
        Self::OtherFilters,
    ];

    /// The reason's place in the counters.
    pub fn index(self) -> usize {
        self as usize
    }
}

impl From<AttachError> for Refusal {
    fn from(error: AttachError) -> Self {
        match error {
            AttachError::OtherVersion(_) => Self::Version,
            AttachError::NotAMessage(_) | AttachError::BadField { .. } => Self::Message,
        }
    }
}

impl From<MapError> for Refusal {
    fn from(error: MapError) -> Self {
        match error {
            MapError::NotSealed => Self::NotSealed,
            MapError::BadSize(_) | MapError::SizeDiffers { .. } => Self::Size,
            MapError::Io(_) => Self::Memory,
        }
    }
}

/// Memory for all rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// Most for one ring, without its control pages.
    pub(super) ring_bytes: u64,
    /// Most for all, with them.
    pub(super) total_bytes: u64,
    pub(super) used_bytes: u64,
    /// All that is asked for has been promised, up to `ring_bytes`.
    pub(super) promised: bool,
    /// How long a call may wait where its ring is full, in milliseconds.
    pub(super) wait_ms: u32,
}

impl Budget {
    /// How much of the `asked` bytes a new ring gets, a power of two: at most a quarter of what is
    /// left, so that rings get smaller before they are refused, but as much as makes a ring.
    pub(super) fn grant(&self, asked: u64) -> Option<u64> {
        if self.promised {
            return Some(asked.min(self.ring_bytes));
        }
        let left = self.total_bytes.checked_sub(self.used_bytes)?;
        let left = left.checked_sub(CONTROL_BYTES as u64)?;
        if left < BOOTSTRAP_BYTES {
            return None;
        }
        let most = asked
            .min(self.ring_bytes)
            .min(left / 4)
            .max(BOOTSTRAP_BYTES);
        Some(1 << most.ilog2())
    }

    /// What a ring with this grant takes from the budget.
    pub(super) fn cost(granted: u64) -> u64 {
        CONTROL_BYTES as u64 + granted
    }
}

/// A ring that may be read.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) message: AttachMessage,
    pub(super) consumer: Consumer<Mapping>,
    pub(super) pages: Pages,
}

/// Checks what a process has sent, and lets its ring be used. `own` makes a thread the ring's owner
/// (see [`super::owner`]) and tells its id; it is asked once the memory is known to be good. `told` are the
/// filters for this process.
///
/// # Errors
/// The reason; where the memory could be mapped, its process is told to write no more.
pub(super) fn admit(
    message: &[u8],
    memfd: OwnedFd,
    budget: &Budget,
    told: Option<&Told>,
    own: impl FnOnce(BorrowedFd<'_>) -> Option<u32>,
) -> Result<Admitted, Refusal> {
    let message = AttachMessage::parse(message)?;
    let mapping = Mapping::of_sealed_memfd(memfd.as_fd(), message.data_bytes)?;
    if mapping.load_u64(control::MAGIC, Ordering::Acquire) != MAGIC {
        return Err(Refusal::Abandoned);
    }
    let granted = budget.grant(message.data_bytes);
    let capacity = granted.unwrap_or(BOOTSTRAP_BYTES);
    let consumer = Consumer::new(mapping, capacity).map_err(|_| Refusal::Size)?;
    if granted.is_none() {
        consumer.detach();
        return Err(Refusal::Budget);
    }
    if let Some(told) = told {
        if told.excludes_all {
            consumer.exclude();
            forget_text(&memfd, message.data_bytes);
            return Err(Refusal::Excluded);
        }
        consumer.set_policy(&told.page);
    }
    // Before the grant: who may use the ring must be able to see its agent die.
    if let Some(thread_id) = own(memfd.as_fd())
        && !consumer.own(thread_id)
    {
        return Err(Refusal::Abandoned);
    }
    let memory = consumer.memory();
    memory.store_u32(control::WAIT_MS, budget.wait_ms, Ordering::Relaxed);
    let mut pages = Pages {
        // What was promised is in use already, and the pages are the process's own.
        memfd: (!budget.promised).then_some(memfd),
        allocated: 0,
        capacity,
    };
    match pages.allocate_some() {
        Ok(usable) => consumer.grant_up_to(usable),
        Err(_) => {
            consumer.detach();
            return Err(Refusal::Memory);
        }
    }
    Ok(Admitted {
        message,
        consumer,
        pages,
    })
}

/// Zeroes the ring of a process that isn't mirrored, and gives its pages back. What one of its threads is
/// in the middle of copying may come behind this, one record each.
fn forget_text(memfd: &OwnedFd, data_bytes: u64) {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    // Only a memfd that no hook makes can refuse it.
    let _ = fallocate(memfd, flags, CONTROL_BYTES as u64, data_bytes);
}

/// Goes on with a ring that another agent has admitted, as [`admit`].
///
/// # Errors
/// The reason. Its process leaves the ring, at once or after waiting for the next agent in vain; unless
/// another agent reads it.
pub(super) fn take_over(
    identity: &Identity,
    memfd: OwnedFd,
    told: Option<&Told>,
    own: impl FnOnce(BorrowedFd<'_>) -> Option<u32>,
) -> Result<Admitted, Refusal> {
    let mapping = Mapping::of_sealed_memfd(memfd.as_fd(), identity.message.data_bytes)?;
    let word = |at| mapping.load_u64(at, Ordering::Acquire);
    if word(control::MAGIC) != MAGIC || word(control::INSTANCE) != identity.message.instance {
        return Err(Refusal::Abandoned);
    }
    let usable = word(control::USABLE_BYTES);
    let owner = mapping.load_u32(control::OWNER, Ordering::Acquire);
    let thread_id = own(memfd.as_fd());
    // First of all, so that no agent that lives is disturbed.
    let mut consumer = Consumer::new(mapping, identity.granted_bytes).map_err(|_| Refusal::Size)?;
    let owned = thread_id.is_some_and(|thread_id| consumer.own(thread_id));
    if !owned && owner != OWNER_LEFT {
        return Err(Refusal::Owned);
    }
    // Its process goes by the filters that it was told. By others it asks anew.
    if !consumer.has_policy(told.map_or(&[], |told| &told.page)) {
        consumer.detach();
        return Err(Refusal::OtherFilters);
    }
    if consumer.go_on().is_err() {
        consumer.detach();
        return Err(Refusal::Abandoned);
    }
    consumer.woke();
    // Allocated so far, by the application's word: a false one makes the pages its own. What isn't
    // known to be is allocated once more, which changes nothing.
    let allocated = usable - usable % Pages::STEP_BYTES;
    let pages = Pages {
        memfd: (usable != u64::MAX).then_some(memfd),
        allocated: Some(allocated)
            .filter(|bytes| *bytes < identity.granted_bytes)
            .unwrap_or(0),
        capacity: identity.granted_bytes,
    };
    Ok(Admitted {
        message: identity.message,
        consumer,
        pages,
    })
}

/// The pages of a ring, which the agent allocates and not the application: they are charged to who
/// does it. Step by step: zeroing 16 MiB takes longer than a program needs to fill what it has.
#[derive(Debug)]
pub(super) struct Pages {
    /// Until all are allocated.
    memfd: Option<OwnedFd>,
    allocated: u64,
    capacity: u64,
}

impl Pages {
    const STEP_BYTES: u64 = 1 << 20;

    /// Whether there are more to come.
    pub(super) fn incomplete(&self) -> bool {
        self.memfd.is_some()
    }

    /// Allocates the next ones. Returns the positions that are usable now.
    ///
    /// # Errors
    /// The kernel has no memory for the agent. Nothing more will be allocated.
    pub(super) fn allocate_some(&mut self) -> io::Result<u64> {
        let Some(memfd) = self.memfd.take() else {
            return Ok(u64::MAX);
        };
        let step = Self::STEP_BYTES.min(self.capacity - self.allocated);
        let first = self.allocated == 0;
        let from = if first {
            0
        } else {
            CONTROL_BYTES as u64 + self.allocated
        };
        let length = if first {
            CONTROL_BYTES as u64 + step
        } else {
            step
        };
        fallocate(&memfd, FallocateFlags::empty(), from, length)?;
        self.allocated += step;
        if self.allocated == self.capacity {
            return Ok(u64::MAX);
        }
        self.memfd = Some(memfd);
        Ok(self.allocated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::{Condition, Filters, UnknownFlow};
    use mirror_hook::filter::Action;
    use mirror_hook::layout::{POLICY, STATE_DETACHED, STATE_EXCLUDED, STATE_READY};
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
    use rustix::io::{pread, pwrite};

    const MESSAGE: AttachMessage = AttachMessage {
        data_bytes: 1 << 20,
        instance: 7,
        parent_instance: None,
        parent_fork: 0,
        silent_forks: 0,
        name: [0; 16],
    };

    fn admit(
        message: &[u8],
        memfd: OwnedFd,
        budget: &Budget,
    ) -> Result<(Consumer<Mapping>, Pages), Refusal> {
        let admitted = super::admit(message, memfd, budget, None, |_| None)?;
        Ok((admitted.consumer, admitted.pages))
    }

    fn memfd(seals: SealFlags) -> OwnedFd {
        let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
        let memfd = memfd_create("test", flags).unwrap();
        ftruncate(&memfd, CONTROL_BYTES as u64 + MESSAGE.data_bytes).unwrap();
        pwrite(&memfd, &MAGIC.to_ne_bytes(), 0).unwrap();
        fcntl_add_seals(&memfd, seals).unwrap();
        memfd
    }

    fn sealed() -> OwnedFd {
        memfd(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
    }

    fn budget(total_bytes: u64) -> Budget {
        Budget {
            ring_bytes: 256 * 1024,
            total_bytes,
            used_bytes: 0,
            promised: false,
            wait_ms: 0,
        }
    }

    fn state(memfd: &OwnedFd) -> u32 {
        let seen = Mapping::of_sealed_memfd(memfd.as_fd(), MESSAGE.data_bytes).unwrap();
        seen.load_u32(control::STATE, Ordering::Acquire)
    }

    #[test]
    fn a_good_ring_is_allocated_and_granted() {
        let memfd = sealed();
        let sent = memfd.try_clone().unwrap();
        let (consumer, pages) = admit(&MESSAGE.encode(), sent, &budget(64 << 20)).unwrap();
        assert!(!pages.incomplete());
        assert_eq!(consumer.capacity(), 256 * 1024);
        assert_eq!(state(&memfd), STATE_READY);
        let blocks = u64::try_from(fstat(&memfd).unwrap().st_blocks).unwrap();
        assert_eq!(blocks * 512, Budget::cost(256 * 1024));
    }

    #[test]
    fn pages_come_in_steps() {
        let budget = Budget {
            ring_bytes: 4 << 20,
            total_bytes: 64 << 20,
            used_bytes: 0,
            promised: false,
            wait_ms: 0,
        };
        let message = AttachMessage {
            data_bytes: 4 << 20,
            ..MESSAGE
        };
        let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
        let large = memfd_create("test", flags).unwrap();
        ftruncate(&large, CONTROL_BYTES as u64 + message.data_bytes).unwrap();
        pwrite(&large, &MAGIC.to_ne_bytes(), 0).unwrap();
        fcntl_add_seals(
            &large,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
        )
        .unwrap();
        let sent = large.try_clone().unwrap();
        let (_consumer, mut pages) = admit(&message.encode(), sent, &budget).unwrap();
        let blocks = || u64::try_from(fstat(&large).unwrap().st_blocks).unwrap() * 512;
        for usable in [2 << 20, 3 << 20, u64::MAX] {
            assert!(pages.incomplete());
            assert_eq!(pages.allocate_some().unwrap(), usable);
            assert_eq!(blocks(), Budget::cost(usable.min(4 << 20)));
        }
        assert!(!pages.incomplete());
    }

    #[test]
    fn a_promised_ring_is_granted_as_a_whole_and_its_pages_are_the_processs() {
        let budget = Budget {
            ring_bytes: 1 << 20,
            promised: true,
            wait_ms: 0,
            ..budget(0)
        };
        let memfd = sealed();
        let sent = memfd.try_clone().unwrap();
        let (consumer, pages) = admit(&MESSAGE.encode(), sent, &budget).unwrap();
        assert_eq!(consumer.capacity(), 1 << 20);
        assert!(!pages.incomplete());
        assert_eq!(state(&memfd), STATE_READY);
        // The control page was touched; nothing of the ring.
        let blocks = u64::try_from(fstat(&memfd).unwrap().st_blocks).unwrap();
        assert!(blocks * 512 < CONTROL_BYTES as u64, "{blocks}");
    }

    #[test]
    fn each_defect_has_its_reason() {
        let budget = budget(64 << 20);
        let message = MESSAGE.encode();
        let loose = memfd(SealFlags::SHRINK | SealFlags::GROW);
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut other_version = message;
        other_version[8] ^= 64;
        let larger = AttachMessage {
            data_bytes: 2 << 20,
            ..MESSAGE
        };
        let given_up = sealed();
        pwrite(&given_up, &[0; 8], 0).unwrap();
        let cases = [
            (admit(&message, given_up, &budget), Refusal::Abandoned),
            (admit(&message, loose, &budget), Refusal::NotSealed),
            (admit(&message, file, &budget), Refusal::NotSealed),
            (admit(&message[1..], sealed(), &budget), Refusal::Message),
            (admit(&other_version, sealed(), &budget), Refusal::Version),
            (admit(&larger.encode(), sealed(), &budget), Refusal::Size),
        ];
        for (result, expected) in cases {
            assert_eq!(result.unwrap_err(), expected);
        }
    }

    #[test]
    fn without_budget_the_process_is_told() {
        let memfd = sealed();
        let sent = memfd.try_clone().unwrap();
        let refused = admit(&MESSAGE.encode(), sent, &budget(100 * 1024));
        assert_eq!(refused.unwrap_err(), Refusal::Budget);
        assert_eq!(state(&memfd), STATE_DETACHED);
    }

    fn told(rules: &[(Action, &str)]) -> Told {
        let rules = rules
            .iter()
            .map(|(action, text)| (*action, Condition::parse(text).unwrap()));
        let filters = Filters::new(rules.collect(), UnknownFlow::Exclude).unwrap();
        filters.for_process(0, Some(b"/usr/bin/curl")).unwrap()
    }

    #[test]
    fn an_excluded_process_is_told_and_its_text_is_gone() {
        let memfd = sealed();
        pwrite(&memfd, b"what it said", CONTROL_BYTES as u64 + 24).unwrap();
        let sent = memfd.try_clone().unwrap();
        let told = told(&[(Action::Deny, "exe=curl")]);
        let message = MESSAGE.encode();
        let refused = super::admit(&message, sent, &budget(64 << 20), Some(&told), |_| None);
        assert_eq!(refused.unwrap_err(), Refusal::Excluded);
        assert_eq!(state(&memfd), STATE_EXCLUDED);
        let mut left = [1; 64];
        pread(&memfd, &mut left, CONTROL_BYTES as u64).unwrap();
        assert_eq!(left, [0; 64]);
        let blocks = u64::try_from(fstat(&memfd).unwrap().st_blocks).unwrap();
        assert_eq!(blocks * 512, 4096, "the control page alone");
    }

    #[test]
    fn the_policy_stands_in_its_pages() {
        let memfd = sealed();
        let sent = memfd.try_clone().unwrap();
        let told = told(&[(Action::Deny, "port=25")]);
        let message = MESSAGE.encode();
        let admitted = super::admit(&message, sent, &budget(64 << 20), Some(&told), |_| None);
        assert!(admitted.is_ok());
        assert_eq!(state(&memfd), STATE_READY);
        let mut page = vec![0; told.page.len()];
        pread(&memfd, &mut page, POLICY as u64).unwrap();
        assert_eq!(page, told.page);
    }

    #[test]
    fn indices_are_places() {
        for (place, reason) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), place);
        }
    }

    proptest! {
        /// Rings shrink, then are refused; the budget is never passed.
        #[test]
        fn the_budget_holds(
            total_bytes in 0u64..1 << 30,
            asked in prop::collection::vec(16u32..27, 1..200),
        ) {
            let mut budget = Budget { ring_bytes: 16 << 20, total_bytes, used_bytes: 0, promised: false, wait_ms: 0 };
            let mut last = u64::MAX;
            for asked in asked {
                match budget.grant(1 << asked) {
                    Some(granted) => {
                        prop_assert!(granted.is_power_of_two());
                        prop_assert!(granted >= BOOTSTRAP_BYTES && granted <= 1 << asked);
                        budget.used_bytes += Budget::cost(granted);
                        prop_assert!(budget.used_bytes <= total_bytes);
                        last = last.min(granted);
                    }
                    None => {
                        let left = total_bytes - budget.used_bytes;
                        prop_assert!(left < Budget::cost(BOOTSTRAP_BYTES));
                    }
                }
            }
        }
    }
}
