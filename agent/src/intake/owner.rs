#![allow(
    unsafe_code,
    reason = "a robust list is made of addresses, and read by the kernel"
)]
//! How an application learns that the agent was killed.
//!
//! Each ring's control page has an `owner` word, a robust futex (get_robust_list(2)): when the thread
//! ends whose id stands in it, for whatever reason, the kernel sets FUTEX_OWNER_DIED there. The
//! thread is one of its own, which does nothing but exist as long as the agent does.
//!
//! The kernel finds the words by walking a list in the thread's memory, each node of which lies at
//! one constant distance from its word. The nodes must not lie in shared memory, where an application
//! could bend the list. So each control page is mapped a second time, behind a private page:
//!
//! ```text
//!   slot 0            slot 1                     slot 2
//!   +------+------+   +----------+-----------+   +----------+-----------+
//!   | head | none |   | node     | ring's    |   | node     | ring's    |  ...
//!   |      |      |   | private  | control   |   | private  | control   |
//!   +------+------+   +----------+-----------+   +----------+-----------+
//!                      ^ node     ^ node + page + OWNER: the word
//! ```
//!
//! The kernel follows at most 2,048 nodes (ROBUST_LIST_LIMIT), so there is a thread for every
//! [`SLOTS`] rings. Where a ring can't be held so, its application learns of a clean exit only.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use mirror_hook::layout::control;
use rustix::mm::{self, MapFlags, MprotectFlags, ProtFlags};
use rustix::param::page_size;

/// Rings that one thread holds.
const SLOTS: usize = 2000;

/// What the kernel reads: `struct robust_list_head` (linux/futex.h). A node is a `struct robust_list`,
/// which is the pointer alone.
#[repr(C)]
struct Head {
    /// Address of the first node, or of this field: the end.
    first: AtomicUsize,
    /// From a node to its word.
    futex_offset: libc::c_long,
    /// Not used: nothing is ever half done.
    pending: usize,
}

/// Rings that are held, on as many threads as that takes.
#[derive(Debug, Default)]
pub(super) struct Owners(Vec<Owner>);

/// A ring that is held.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    owner: usize,
    slot: usize,
}

impl Owners {
    /// Holds the ring in `memfd`. The id that must stand in its `owner` word comes with it.
    pub(super) fn hold(&mut self, memfd: BorrowedFd<'_>) -> io::Result<(Held, u32)> {
        let with_room = self.0.iter().position(|owner| !owner.free.is_empty());
        let owner = match with_room {
            Some(owner) => owner,
            None => {
                self.0.push(Owner::new()?);
                self.0.len() - 1
            }
        };
        let slot = self.0[owner].hold(memfd)?;
        Ok((Held { owner, slot }, self.0[owner].thread_id))
    }

    /// The ring is no longer read.
    pub(super) fn let_go(&mut self, held: Held) {
        if let Some(owner) = self.0.get_mut(held.owner) {
            owner.let_go(held.slot);
        }
    }
}

/// A thread and its list.
#[derive(Debug)]
struct Owner {
    region: Region,
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    thread_id: u32,
    free: Vec<usize>,
    /// Slots in the order of the list, the last held first.
    chain: Vec<usize>,
}

impl Owner {
    fn new() -> io::Result<Self> {
        let region = Region::new()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (sender, receiver) = sync_channel(1);
        let (head, stopped) = (region.address(0), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("owner".to_owned())
            .spawn(move || {
                let result = register(head);
                if sender.send(result).is_err() {
                    return;
                }
                while !stopped.load(Ordering::Relaxed) {
                    std::thread::park();
                }
            })?;
        let mut owner = Self {
            region,
            thread: Some(thread),
            stop,
            thread_id: 0,
            free: (1..=SLOTS).rev().collect(),
            chain: Vec::new(),
        };
        owner.thread_id = receiver
            .recv()
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
        Ok(owner)
    }

    fn hold(&mut self, memfd: BorrowedFd<'_>) -> io::Result<usize> {
        let slot = self.free.pop().ok_or(io::ErrorKind::OutOfMemory)?;
        if let Err(error) = self.region.fill(slot, memfd) {
            self.free.push(slot);
            return Err(error);
        }
        // The new node points to the rest before anything points to it: the kernel may look at any
        // moment, which is when this thread is killed.
        let first = self.region.link(0);
        let rest = first.load(Ordering::Relaxed);
        self.region.link(slot).store(rest, Ordering::Relaxed);
        first.store(self.region.address(slot), Ordering::Release);
        self.chain.push(slot);
        Ok(slot)
    }

    fn let_go(&mut self, slot: usize) {
        let Some(place) = self.chain.iter().position(|held| *held == slot) else {
            return;
        };
        self.chain.remove(place);
        // What was held next after it points to it; the head points to the last held.
        let before = self.chain.get(place).copied().unwrap_or(0);
        let next = self.region.link(slot).load(Ordering::Relaxed);
        self.region.link(before).store(next, Ordering::Release);
        // A slot that can't be emptied is not used again; its page stays mapped, which is safe.
        if self.region.empty(slot).is_ok() {
            self.free.push(slot);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The region, which the kernel reads at the thread's end, lives until this returns.
            let _ = thread.join();
        }
    }
}

/// Makes the list at `head` this thread's, and says which thread it is.
fn register(head: usize) -> io::Result<u32> {
    // SAFETY: the kernel reads `head` and what it points to when this thread ends. All of it lies in
    // the region, which is unmapped after the thread was joined. (The C library's own list of this
    // thread is replaced; it is for robust mutexes, of which this thread takes none.)
    let result = unsafe { libc::syscall(libc::SYS_set_robust_list, head, size_of::<Head>()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let thread_id = rustix::thread::gettid().as_raw_nonzero().get();
    u32::try_from(thread_id).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The address range of the slots.
#[derive(Debug)]
struct Region {
    base: NonNull<u8>,
    page: usize,
}

// SAFETY: the region is memory of the process, bound to no thread.
unsafe impl Send for Region {}

impl Region {
    fn new() -> io::Result<Self> {
        let page = page_size();
        // SAFETY: no address is asked for, so no mapping of this process is touched.
        let base = unsafe {
            mm::mmap_anonymous(
                ptr::null_mut(),
                (SLOTS + 1) * 2 * page,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let region = Self { base, page };
        region.open(0)?;
        let head = Head {
            first: AtomicUsize::new(region.address(0)),
            futex_offset: libc::c_long::try_from(page + control::OWNER)
                .map_err(|_| io::ErrorKind::InvalidInput)?,
            pending: 0,
        };
        // SAFETY: slot 0's first page has just been made writable, is aligned to a page and larger
        // than a head, and nobody else knows it yet.
        unsafe { region.base.cast::<Head>().write(head) };
        Ok(region)
    }

    fn address(&self, slot: usize) -> usize {
        self.node(slot).as_ptr().addr()
    }

    /// First byte of a slot's private page.
    fn node(&self, slot: usize) -> NonNull<u8> {
        assert!(slot <= SLOTS, "slots come from the list of free ones");
        // SAFETY: inside the region, which has SLOTS + 1 slots of two pages.
        unsafe { self.base.add(slot * 2 * self.page) }
    }

    /// The pointer of a node, or of the head, to the next node. The slot must have been filled.
    fn link(&self, slot: usize) -> &AtomicUsize {
        // SAFETY: the page was made readable and writable by `open` and stays so; both a node and the
        // head begin with this pointer, which only atomics access (the kernel does so when the
        // thread has ended).
        unsafe { self.node(slot).cast().as_ref() }
    }

    /// Makes a slot's private page usable.
    fn open(&self, slot: usize) -> io::Result<()> {
        let flags = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: exactly one page of the region, which this type alone uses.
        Ok(unsafe { mm::mprotect(self.node(slot).as_ptr().cast(), self.page, flags) }?)
    }

    fn shared_page(&self, slot: usize) -> *mut std::ffi::c_void {
        // SAFETY: a slot has two pages.
        unsafe { self.node(slot).add(self.page) }.as_ptr().cast()
    }

    /// Puts the ring's control page into the slot.
    fn fill(&self, slot: usize, memfd: BorrowedFd<'_>) -> io::Result<()> {
        self.open(slot)?;
        // SAFETY: replaces exactly one page of the region, to which no references exist. The file is
        // sealed against shrinking and longer than a page.
        unsafe {
            mm::mmap(
                self.shared_page(slot),
                self.page,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                memfd,
                0,
            )
        }?;
        Ok(())
    }

    fn empty(&self, slot: usize) -> io::Result<()> {
        // SAFETY: as in `fill`; afterwards the page can't be accessed.
        unsafe {
            mm::mmap_anonymous(
                self.shared_page(slot),
                self.page,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
            )
        }?;
        Ok(())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let length = (SLOTS + 1) * 2 * self.page;
        // SAFETY: the whole region, of which nothing is borrowed any more; the thread whose list lies
        // in it has been joined, or was never started.
        let _ = unsafe { mm::munmap(self.base.as_ptr().cast(), length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_hook::layout::{BOOTSTRAP_BYTES, CONTROL_BYTES, OWNER_DIED};
    use mirror_hook::ring::Memory;
    use mirror_hook::shm::Mapping;
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    use std::os::fd::{AsFd, OwnedFd};

    fn ring() -> (OwnedFd, Mapping) {
        let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
        let memfd = memfd_create("test", flags).unwrap();
        ftruncate(&memfd, CONTROL_BYTES as u64 + BOOTSTRAP_BYTES).unwrap();
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&memfd, seals).unwrap();
        let mapping = Mapping::of_sealed_memfd(memfd.as_fd(), BOOTSTRAP_BYTES).unwrap();
        (memfd, mapping)
    }

    fn hold(owners: &mut Owners, memfd: &OwnedFd, mapping: &Mapping) -> Held {
        let (held, thread_id) = owners.hold(memfd.as_fd()).unwrap();
        mapping.store_u32(control::OWNER, thread_id, Ordering::Relaxed);
        held
    }

    fn died(mapping: &Mapping) -> bool {
        mapping.load_u32(control::OWNER, Ordering::Relaxed) & OWNER_DIED != 0
    }

    #[test]
    fn the_end_of_the_thread_is_written_into_every_ring_still_held() {
        let mut owners = Owners::default();
        let rings: Vec<_> = (0..20).map(|_| ring()).collect();
        let mut held: Vec<_> = rings
            .iter()
            .map(|(memfd, mapping)| Some(hold(&mut owners, memfd, mapping)))
            .collect();
        // First, last, and in between; and one that is held again.
        for index in [0, 19, 7, 8, 3] {
            owners.let_go(held[index].take().unwrap());
        }
        held[7] = Some(hold(&mut owners, &rings[7].0, &rings[7].1));
        assert!(rings.iter().all(|(_, mapping)| !died(mapping)));
        drop(owners);
        for (index, (_, mapping)) in rings.iter().enumerate() {
            assert_eq!(died(mapping), held[index].is_some(), "ring {index}");
        }
    }

    #[test]
    fn another_thread_holds_what_one_cannot() {
        let mut owners = Owners::default();
        let (memfd, mapping) = ring();
        for _ in 0..SLOTS + 1 {
            hold(&mut owners, &memfd, &mapping);
        }
        assert_eq!(owners.0.len(), 2);
        drop(owners);
        assert!(died(&mapping));
    }
}
