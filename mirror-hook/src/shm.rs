#![allow(
    unsafe_code,
    reason = "maps memory that another process shares, and reads and writes it"
)]
//! Mapped memory: the ring's memfd, as both ends map it, and private pages of the hook's own.

use std::fmt;
use std::io;
use std::mem::{align_of, size_of};
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence};

use rustix::fs::{SealFlags, fcntl_get_seals, fstat};
use rustix::mm::{self, Advice, MapFlags, ProtFlags};
use rustix::thread::futex;

use crate::layout::{BOOTSTRAP_BYTES, CONTROL_BYTES, MAX_DATA_BYTES};
use crate::ring::Memory;

/// Smallest page that a Linux system has; what is leaked here fits it.
const PAGE_BYTES: usize = 4096;

/// Shared memory of a ring, mapped readable and writable. Unmapped when dropped, so the hook never
/// drops one that has been in use: another thread may be in the middle of a copy.
pub struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to no thread; it is accessed by atomics and raw copies alone.
unsafe impl Send for Mapping {}
// SAFETY: as above; racing copies are part of the protocol, which orders them by atomics.
unsafe impl Sync for Mapping {}

/// A descriptor isn't what a hook sends.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// It says of itself what no hook asks for.
    #[error("a ring can't have {0} bytes")]
    BadSize(u64),
    /// Not a memfd, or one that its sender could still cut under our feet.
    #[error("the descriptor is no memfd that is sealed against a change of its size")]
    NotSealed,
    /// The file is larger or smaller than the message says.
    #[error("the memfd has {found} bytes where {expected} were announced")]
    SizeDiffers {
        /// By fstat(2).
        found: u64,
        /// By the message.
        expected: u64,
    },
    /// The kernel refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Mapping {
    /// Maps a ring that another process has sent; the file must be a memfd of exactly
    /// [`CONTROL_BYTES`] + `data_bytes` bytes, sealed against growing, shrinking and more seals, so
    /// that no access to it can ever raise SIGBUS for want of a page.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn of_sealed_memfd(fd: BorrowedFd<'_>, data_bytes: u64) -> Result<Self, MapError> {
        let valid = data_bytes.is_power_of_two()
            && (BOOTSTRAP_BYTES..=MAX_DATA_BYTES).contains(&data_bytes);
        if !valid {
            return Err(MapError::BadSize(data_bytes));
        }
        let needed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        // Files on disks, FUSE and pipes have no seals (EINVAL).
        let sealed = fcntl_get_seals(fd).is_ok_and(|seals| seals.contains(needed));
        if !sealed {
            return Err(MapError::NotSealed);
        }
        let expected = CONTROL_BYTES as u64 + data_bytes;
        let found = u64::try_from(fstat(fd).map_err(io::Error::from)?.st_size).unwrap_or(0);
        if found != expected {
            return Err(MapError::SizeDiffers { found, expected });
        }
        let length = usize::try_from(expected).map_err(|_| MapError::BadSize(data_bytes))?;
        Ok(Self::shared(fd, length)?)
    }

    /// Maps the first `length` bytes of `fd`.
    pub(crate) fn shared(fd: BorrowedFd<'_>, length: usize) -> io::Result<Self> {
        // SAFETY: no address is asked for, so no mapping of this process is touched.
        let base = unsafe {
            mm::mmap(
                ptr::null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, length })
    }

    /// Keeps the clear text out of core dumps.
    pub(crate) fn exclude_from_dumps(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping; the advice changes none of its bytes.
        unsafe {
            mm::madvise(
                self.base.as_ptr().cast(),
                self.length,
                Advice::LinuxDontDump,
            )
        }?;
        Ok(())
    }

    /// Puts private zeros in the place of the shared memory, in one step. Whoever is still writing
    /// here writes to nobody, and never into a hole. The address space stays taken.
    pub(crate) fn replace_by_private(&self) -> io::Result<()> {
        // SAFETY: exactly the range of this mapping, which stays readable and writable; what was in
        // it is read by this process only through `Memory`, which takes any bytes.
        unsafe {
            mm::mmap_anonymous(
                self.base.as_ptr().cast(),
                self.length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
            )
        }?;
        Ok(())
    }

    /// Frees the pages in the file itself: whoever has them charged is charged no longer, and whoever
    /// maps it sees zeros.
    pub(crate) fn free_pages(&self) -> io::Result<()> {
        // SAFETY: exactly the range of this mapping; what was in it is read through `Memory` only,
        // which takes any bytes.
        unsafe { mm::madvise(self.base.as_ptr().cast(), self.length, Advice::LinuxRemove) }?;
        Ok(())
    }

    /// Address of the u32 at `at` (a multiple of 4), for the kernel: futex_waitv(2),
    /// set_robust_list(2). Valid as long as this mapping.
    pub fn word_address(&self, at: usize) -> Option<*mut u32> {
        self.place(at, 4, 4).map(|place| place.cast().as_ptr())
    }

    /// The place of `count` bytes at `at`, if they lie inside and are aligned.
    fn place(&self, at: usize, count: usize, align: usize) -> Option<NonNull<u8>> {
        let inside = at
            .checked_add(count)
            .is_some_and(|end| end <= self.length && at.is_multiple_of(align));
        debug_assert!(inside, "{count} bytes at {at} of {}", self.length);
        // SAFETY: `at` is inside the mapping, which is one object of `length` bytes.
        inside.then(|| unsafe { self.base.add(at) })
    }

    fn u64_at(&self, at: usize) -> Option<&AtomicU64> {
        let place = self.place(at, 8, align_of::<AtomicU64>())?;
        // SAFETY: inside the mapping, which lives as long as the reference, and aligned. Words are
        // only ever accessed by atomics while they can race.
        Some(unsafe { AtomicU64::from_ptr(place.cast().as_ptr()) })
    }

    fn u32_at(&self, at: usize) -> Option<&AtomicU32> {
        let place = self.place(at, 4, align_of::<AtomicU32>())?;
        // SAFETY: as in `u64_at`.
        Some(unsafe { AtomicU32::from_ptr(place.cast().as_ptr()) })
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({} bytes)", self.length)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping, and nothing borrows from it any more.
        let _ = unsafe { mm::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

impl Memory for Mapping {
    fn length_bytes(&self) -> usize {
        self.length
    }

    fn load_u64(&self, at: usize, order: Ordering) -> u64 {
        self.u64_at(at).map_or(0, |word| word.load(order))
    }

    fn store_u64(&self, at: usize, value: u64, order: Ordering) {
        if let Some(word) = self.u64_at(at) {
            word.store(value, order);
        }
    }

    fn compare_exchange_u64(&self, at: usize, current: u64, new: u64) -> Result<u64, u64> {
        let word = self.u64_at(at).ok_or(!current)?;
        word.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }

    fn add_u64(&self, at: usize, value: u64) {
        if let Some(word) = self.u64_at(at) {
            word.fetch_add(value, Ordering::Release);
        }
    }

    fn load_u32(&self, at: usize, order: Ordering) -> u32 {
        self.u32_at(at).map_or(0, |word| word.load(order))
    }

    fn store_u32(&self, at: usize, value: u32, order: Ordering) {
        if let Some(word) = self.u32_at(at) {
            word.store(value, order);
        }
    }

    fn compare_exchange_u32(&self, at: usize, current: u32, new: u32) -> Result<u32, u32> {
        let word = self.u32_at(at).ok_or(!current)?;
        word.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let Some(place) = self.place(at, bytes.len(), 1) else {
            return;
        };
        // Each record has several words: one store each, in place of a call of memcpy.
        if let Ok(word) = <[u8; 8]>::try_from(bytes) {
            // SAFETY: 8 bytes inside the mapping; an array of bytes has no alignment.
            unsafe { place.cast::<[u8; 8]>().write(word) };
            return;
        }
        // SAFETY: the destination is inside the mapping; the source is ordinary memory, which the
        // mapping, known to nobody as anything else, can't overlap.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), place.as_ptr(), bytes.len()) };
    }

    fn read(&self, at: usize, out: &mut [u8]) {
        let Some(place) = self.place(at, out.len(), 1) else {
            return;
        };
        // SAFETY: as in `write`, the other way. The peer may change the bytes meanwhile: any bytes
        // are valid, and the fence keeps the compiler from reading a byte a second time later.
        unsafe { ptr::copy_nonoverlapping(place.as_ptr(), out.as_mut_ptr(), out.len()) };
        compiler_fence(Ordering::SeqCst);
    }

    fn zero(&self, at: usize, length: usize) {
        let Some(place) = self.place(at, length, 1) else {
            return;
        };
        // SAFETY: the range is inside the mapping; zeros are valid bytes.
        unsafe { ptr::write_bytes(place.as_ptr(), 0, length) };
    }

    fn wake(&self, at: usize) {
        if let Some(word) = self.u32_at(at) {
            // Without the PRIVATE flag: the waiter is another process.
            let _ = futex::wake(word, futex::Flags::empty(), 1);
        }
    }
}

/// Puts `value` somewhere for as long as the process lives. Without malloc, whose locks may be held
/// for ever in a child that was forked past its handlers.
pub(crate) fn leak<T: Send + Sync>(value: T) -> io::Result<&'static T> {
    let place = room::<T>()?;
    // SAFETY: the place is nobody else's, large enough and aligned for `T`.
    unsafe { place.write(value) };
    // SAFETY: initialised right above, and never unmapped.
    Ok(unsafe { place.as_ref() })
}

/// Where the next value goes that is leaked; a multiple of the page, or null: into a new page. A page
/// of its own for each would cost a process two, with that of the page table, for every agent that
/// it has ever had.
static ROOM: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
/// Alignment of leaked values: they share no cache line.
const LINE_BYTES: usize = 64;

/// A place for a `T` that nobody else has, nor will have.
fn room<T>() -> io::Result<NonNull<T>> {
    const { assert!(align_of::<T>() <= LINE_BYTES) };
    let bytes = size_of::<T>().next_multiple_of(LINE_BYTES);
    let next = ROOM.load(Ordering::Relaxed);
    let within = next.addr() % PAGE_BYTES;
    if let Some(place) = NonNull::new(next)
        && within != 0
        && within + bytes <= PAGE_BYTES
    {
        let behind = next.wrapping_add(bytes);
        // Addresses never come again, so whoever wins has it alone.
        let relaxed = Ordering::Relaxed;
        if ROOM
            .compare_exchange(next, behind, relaxed, relaxed)
            .is_ok()
        {
            return Ok(place.cast());
        }
    }
    let page = private_page::<T>()?;
    let behind = page.as_ptr().cast::<u8>().wrapping_add(bytes);
    ROOM.store(behind, Ordering::Relaxed);
    Ok(page)
}

/// A page that is zero again in every child process: by fork(2) and raw clone(2) alike. (A vfork
/// child shares the memory and sees it as it is.)
#[derive(Debug)]
pub(crate) struct ForkPage<T: 'static> {
    /// 1; 0 in a child that hasn't looked.
    pub(crate) alive: AtomicU32,
    /// 1: alive, and no ring is in use. One look answers both.
    pub(crate) idle: AtomicU32,
    /// 1: a thread is attaching.
    pub(crate) attaching: AtomicU32,
    /// A random number that stands for the process, once there is one.
    pub(crate) process: AtomicU64,
    /// Times that the process has forked.
    pub(crate) forks: AtomicU32,
    /// The ring in use.
    pub(crate) ring: Slot<T>,
}

impl<T: Sync> ForkPage<T> {
    /// What stands for a page where there is none: nothing is in it, in no process.
    pub(crate) const fn none() -> Self {
        Self {
            alive: AtomicU32::new(1),
            idle: AtomicU32::new(1),
            attaching: AtomicU32::new(0),
            process: AtomicU64::new(0),
            forks: AtomicU32::new(0),
            ring: Slot::empty(),
        }
    }

    /// A fresh page, all zeros.
    pub(crate) fn leak() -> io::Result<&'static Self> {
        let page = private_page::<Self>()?;
        // SAFETY: the range is the page just mapped, which nobody uses yet.
        unsafe { mm::madvise(page.as_ptr().cast(), PAGE_BYTES, Advice::LinuxWipeOnFork) }?;
        // SAFETY: every field is an atomic, for which zeros are valid and which may change under a
        // reference; the page is aligned, and never unmapped.
        Ok(unsafe { page.as_ref() })
    }
}

fn private_page<T>() -> io::Result<NonNull<T>> {
    const { assert!(size_of::<T>() <= PAGE_BYTES && align_of::<T>() <= PAGE_BYTES) };
    // SAFETY: no address is asked for, so no mapping of this process is touched.
    let page = unsafe {
        mm::mmap_anonymous(
            ptr::null_mut(),
            PAGE_BYTES,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::PRIVATE,
        )
    }?;
    Ok(NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?)
}

/// A place for a leaked value, or none; all zeros is none.
#[derive(Debug)]
pub(crate) struct Slot<T: 'static>(AtomicPtr<T>);

impl<T: Sync> Slot<T> {
    pub(crate) const fn empty() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// What is there. Pairs with the Release in `set`.
    #[inline]
    pub(crate) fn load(&self) -> Option<&'static T> {
        let pointer = self.0.load(Ordering::Acquire);
        // SAFETY: null, or made from a `&'static T` in `set`; a fork keeps its address valid.
        unsafe { pointer.as_ref() }
    }

    pub(crate) fn set(&self, value: Option<&'static T>) {
        let pointer = value.map_or(ptr::null_mut(), |value| ptr::from_ref(value).cast_mut());
        self.0.store(pointer, Ordering::Release);
    }
}

/// A place for one of several leaked values; never empty, so that a look at it is one load.
#[derive(Debug)]
pub(crate) struct Pointer<T: 'static>(AtomicPtr<T>);

impl<T: Sync> Pointer<T> {
    pub(crate) const fn new(value: &'static T) -> Self {
        Self(AtomicPtr::new(ptr::from_ref(value).cast_mut()))
    }

    /// What is there. Pairs with the Release in `set`.
    #[inline]
    pub(crate) fn load(&self) -> &'static T {
        let pointer = self.0.load(Ordering::Acquire);
        // SAFETY: made from a `&'static T` in `new` or `set`; a fork keeps its address valid.
        unsafe { &*pointer }
    }

    pub(crate) fn set(&self, value: &'static T) {
        self.0
            .store(ptr::from_ref(value).cast_mut(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, fcntl_add_seals, ftruncate, memfd_create};
    use std::os::fd::AsFd;

    fn memfd(bytes: u64, seals: SealFlags) -> std::os::fd::OwnedFd {
        let fd = memfd_create("test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, bytes).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    const SEALS: SealFlags = SealFlags::SHRINK
        .union(SealFlags::GROW)
        .union(SealFlags::SEAL);

    #[test]
    fn maps_only_what_is_sealed_and_of_its_size() {
        let whole = CONTROL_BYTES as u64 + BOOTSTRAP_BYTES;
        let good = memfd(whole, SEALS);
        assert!(Mapping::of_sealed_memfd(good.as_fd(), BOOTSTRAP_BYTES).is_ok());
        assert!(matches!(
            Mapping::of_sealed_memfd(good.as_fd(), 2 * BOOTSTRAP_BYTES),
            Err(MapError::SizeDiffers { .. })
        ));
        assert!(matches!(
            Mapping::of_sealed_memfd(good.as_fd(), 4096),
            Err(MapError::BadSize(4096))
        ));
        let loose = memfd(whole, SealFlags::SHRINK | SealFlags::GROW);
        assert!(matches!(
            Mapping::of_sealed_memfd(loose.as_fd(), BOOTSTRAP_BYTES),
            Err(MapError::NotSealed)
        ));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(
            Mapping::of_sealed_memfd(file.as_fd(), BOOTSTRAP_BYTES),
            Err(MapError::NotSealed)
        ));
    }

    #[test]
    fn leaked_values_share_pages_and_nothing_else() {
        let values: Vec<&'static [u64; 20]> = (0..100).map(|n| leak([n; 20]).unwrap()).collect();
        for (value, n) in values.iter().zip(0..) {
            assert_eq!(**value, [n; 20]);
        }
        let pages: std::collections::BTreeSet<_> = values
            .iter()
            .map(|value| ptr::from_ref(*value).addr() / PAGE_BYTES)
            .collect();
        assert!(pages.len() <= 6, "{pages:?}");
    }

    #[test]
    fn freed_pages_are_charged_to_nobody() {
        let whole = CONTROL_BYTES as u64 + BOOTSTRAP_BYTES;
        let fd = memfd(whole, SEALS);
        let ours = Mapping::of_sealed_memfd(fd.as_fd(), BOOTSTRAP_BYTES).unwrap();
        for at in (0..ours.length_bytes()).step_by(PAGE_BYTES) {
            ours.write(at, b"abc");
        }
        assert_ne!(fstat(&fd).unwrap().st_blocks, 0);
        ours.free_pages().unwrap();
        assert_eq!(fstat(&fd).unwrap().st_blocks, 0);
        assert_eq!(ours.load_u64(0, Ordering::Relaxed), 0);
    }

    #[test]
    fn replaced_memory_is_private_and_zero() {
        let whole = CONTROL_BYTES as u64 + BOOTSTRAP_BYTES;
        let fd = memfd(whole, SEALS);
        let ours = Mapping::of_sealed_memfd(fd.as_fd(), BOOTSTRAP_BYTES).unwrap();
        let theirs = Mapping::of_sealed_memfd(fd.as_fd(), BOOTSTRAP_BYTES).unwrap();
        ours.write(CONTROL_BYTES, b"abc");
        let mut seen = [0; 3];
        theirs.read(CONTROL_BYTES, &mut seen);
        assert_eq!(&seen, b"abc");
        ours.replace_by_private().unwrap();
        ours.write(CONTROL_BYTES, b"xyz");
        theirs.read(CONTROL_BYTES, &mut seen);
        assert_eq!(&seen, b"abc");
        assert_eq!(ours.load_u64(0, Ordering::Relaxed), 0);
    }
}
