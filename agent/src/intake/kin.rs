//! Who else has a process's memory: its children, and theirs, that have said nothing yet.
//!
//! A forked process maps the ring of the process that it comes from until it executes something,
//! ends, or has told the agent of a ring of its own; however it was forked, and in whichever pid
//! namespace. So it is found by the memfd's inode in `/proc/PID/maps` (proc_pid_maps(5)). That may take
//! milliseconds on a machine with many processes: a thread does it, one round of questions at a time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::event::MonotonicTime;
use crate::helper::Helper;

/// Generations to look at for a relation: processes may be made faster than they can be followed.
const MAX_ANCESTORS: usize = 64;

/// The process that a ring belongs to, as `/proc` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// In the agent's pid namespace; 0: it can't be seen from there.
    pub(crate) pid: u32,
    /// When it was started, in the kernel's ticks; 0: unknown.
    pub(crate) started: u64,
    /// Inode of its ring's memfd.
    pub(crate) inode: u64,
}

impl Owner {
    pub(super) fn new(pid: u32, started: u64, memfd: impl AsFd) -> Self {
        Self {
            pid,
            started,
            inode: rustix::fs::fstat(memfd).map_or(0, |stat| stat.st_ino),
        }
    }
}

/// What is asked of one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Question {
    /// Whether others than its process have it mapped.
    Shared,
    /// Whether its process still does: not behind an exec.
    Mapped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// Somebody else has the ring mapped.
    Shared,
    /// Nobody else has.
    NotShared,
    /// A relative may not be looked at; nobody else has.
    Unknown,
    /// The process has it mapped, as far as can be seen.
    Mapped,
    /// The process lives, and hasn't.
    Gone,
}

/// Questions about rings, by their instances.
pub(crate) type Questions = Vec<(u64, Owner, Question)>;

/// The answers, and how long they took.
#[derive(Debug)]
pub(crate) struct Answers {
    pub(crate) answers: Vec<(u64, Answer)>,
    pub(super) took: Duration,
}

impl Answers {
    /// Rings that nobody can write to any more.
    pub(super) fn gone(&self) -> impl Iterator<Item = u64> {
        let gone = self
            .answers
            .iter()
            .filter(|(_, answer)| *answer == Answer::Gone);
        gone.map(|(instance, _)| *instance)
    }
}

/// When to ask what.
#[derive(Debug)]
pub(super) struct Relations {
    /// Sees more than this process may.
    helper: Option<Helper>,
    /// From the first question on.
    scanner: Option<Scanner>,
    /// When to ask for all rings whether they are still mapped.
    rings_at: MonotonicTime,
}

impl Relations {
    /// How often rings are looked at; but it takes the thread a hundredth of its time at most.
    const RINGS_NS: u64 = 1_000_000_000;

    pub(super) fn new(helper: Option<Helper>) -> Self {
        Self {
            helper,
            scanner: None,
            rings_at: MonotonicTime::default(),
        }
    }

    /// The answers to the last questions, once.
    pub(super) fn answers(&mut self, now: MonotonicTime) -> Option<Answers> {
        let answers = self.scanner.as_mut()?.take()?;
        let took_ns = u64::try_from(answers.took.as_nanos()).unwrap_or(u64::MAX);
        let pause_ns = took_ns.saturating_mul(100).max(Self::RINGS_NS);
        if self.rings_at <= now {
            self.rings_at = MonotonicTime(now.0.saturating_add(pause_ns));
        }
        Some(answers)
    }

    /// Asks what there is to ask. Where no thread can be made, nothing is found out.
    pub(super) fn ask(
        &mut self,
        now: MonotonicTime,
        shared: impl FnOnce() -> Questions,
        rings: impl Iterator<Item = (u64, Owner)>,
    ) {
        if self.scanner.as_ref().is_some_and(Scanner::is_busy) {
            return;
        }
        let mut questions = shared();
        if self.rings_at <= now {
            questions.extend(rings.map(|(instance, owner)| (instance, owner, Question::Mapped)));
        }
        if questions.is_empty() {
            return;
        }
        if self.scanner.is_none() {
            self.scanner = Scanner::new(self.helper.clone()).ok();
        }
        if let Some(scanner) = &mut self.scanner {
            scanner.ask(questions);
        }
    }

    /// Looks at all rings at the next opportunity.
    pub(super) fn look_at_rings(&mut self) {
        self.rings_at = MonotonicTime::default();
    }
}

/// The thread that looks.
#[derive(Debug)]
pub(super) struct Scanner {
    questions: Option<Sender<Questions>>,
    answers: Receiver<Answers>,
    thread: Option<JoinHandle<()>>,
    busy: bool,
}

impl Scanner {
    pub(super) fn new(helper: Option<Helper>) -> io::Result<Self> {
        let (questions, asked) = channel::<Questions>();
        let (answered, answers) = channel();
        let thread = std::thread::Builder::new()
            .name("kin".to_owned())
            .spawn(move || {
                for questions in asked {
                    if answered.send(answer(&questions, helper.as_ref())).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            questions: Some(questions),
            answers,
            thread: Some(thread),
            busy: false,
        })
    }

    /// The last questions haven't been answered yet.
    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    pub(super) fn ask(&mut self, questions: Questions) {
        if let Some(sender) = &self.questions {
            self.busy = sender.send(questions).is_ok();
        }
    }

    /// The answers to the last questions, once.
    pub(super) fn take(&mut self) -> Option<Answers> {
        match self.answers.try_recv() {
            Ok(answers) => {
                self.busy = false;
                Some(answers)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => {
                self.busy = false;
                None
            }
        }
    }
}

impl Drop for Scanner {
    fn drop(&mut self) {
        self.questions = None;
        if let Some(thread) = self.thread.take() {
            // It is done when it has looked at what it was asked last.
            let _ = thread.join();
        }
    }
}

/// Looks now, or has the helper look.
pub(super) fn answer(questions: &Questions, helper: Option<&Helper>) -> Answers {
    let begin = Instant::now();
    match helper.and_then(|helper| helper.relations(questions)) {
        Some(answers) => Answers {
            answers,
            took: begin.elapsed(),
        },
        None => answer_for(questions, std::process::id()),
    }
}

/// Looks now, on behalf of `agent`, which has all these rings mapped.
pub(crate) fn answer_for(questions: &Questions, agent: u32) -> Answers {
    let begin = Instant::now();
    let of = |wanted| move |(_, _, question): &&(u64, Owner, Question)| *question == wanted;
    let own = || memfds_of(agent).unwrap_or_default();
    let mapped = questions
        .iter()
        .any(|question| of(Question::Mapped)(&question));
    let seen = if mapped { own() } else { Maps::default() };
    let mut answers: Vec<_> = questions
        .iter()
        .filter(of(Question::Mapped))
        .map(|(number, owner, _)| (*number, is_mapped(owner, &seen)))
        .collect();
    let shared: Vec<_> = questions.iter().filter(of(Question::Shared)).collect();
    if !shared.is_empty() {
        let owners: Vec<_> = shared.iter().map(|(_, owner, _)| *owner).collect();
        let found = sharers(&owners, agent);
        answers.extend(
            shared
                .iter()
                .zip(found)
                .map(|(asked, found)| (asked.0, found)),
        );
    }
    Answers {
        answers,
        took: begin.elapsed(),
    }
}

/// `seen`: what the agent has mapped, each ring that it reads among it. Were a ring not to be found there
/// either, nothing could be said of it (a kernel that shows other numbers).
fn is_mapped(owner: &Owner, seen: &Maps) -> Answer {
    match memfds_of(owner.pid) {
        // Nothing at all is mapped where it has ended: its pidfd tells that.
        Ok(Maps { any: true, memfds })
            if !memfds.contains(&owner.inode) && seen.memfds.contains(&owner.inode) =>
        {
            Answer::Gone
        }
        Ok(_) | Err(_) => Answer::Mapped,
    }
}

/// For each owner, whether another process than the agent has its ring mapped.
fn sharers(owners: &[Owner], agent: u32) -> Vec<Answer> {
    let processes = processes(agent);
    let oldest = owners.iter().map(|owner| owner.started).min().unwrap_or(0);
    let mut holders: HashMap<u64, HashSet<u32>> = HashMap::new();
    let mut unreadable = Vec::new();
    for (&pid, process) in &processes {
        if process.started < oldest {
            continue;
        }
        match memfds_of(pid) {
            Ok(maps) => {
                for inode in maps.memfds {
                    holders.entry(inode).or_default().insert(pid);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => unreadable.push(pid),
            Err(_) => {} // it has ended
        }
    }
    let of_family = |pid: u32, owner: &Owner| {
        let parent = |pid: &u32| processes.get(pid).map(|process| process.parent);
        std::iter::successors(parent(&pid), parent)
            .take(MAX_ANCESTORS)
            // Orphans of what the agent of `run` has started are its own children.
            .any(|ancestor| ancestor == agent || (ancestor != 0 && ancestor == owner.pid))
    };
    let answer_for = |owner: &Owner| {
        let others = |pids: &HashSet<u32>| pids.iter().any(|pid| *pid != owner.pid);
        if holders.get(&owner.inode).is_some_and(others) {
            Answer::Shared
        } else if owner.pid == 0 || unreadable.iter().any(|pid| of_family(*pid, owner)) {
            Answer::Unknown
        } else {
            Answer::NotShared
        }
    };
    owners.iter().map(answer_for).collect()
}

struct Process {
    parent: u32,
    started: u64,
}

/// All processes but the agent, and the one that looks.
fn processes(agent: u32) -> BTreeMap<u32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|pid| ![agent, std::process::id()].contains(pid))
        .filter_map(|pid| Some((pid, stat(pid)?)))
        .collect()
}

/// When a process was started, in the kernel's ticks.
pub(crate) fn started(pid: u32) -> Option<u64> {
    stat(pid).map(|process| process.started)
}

/// Behind the command's closing parenthesis the second field is the parent's pid, the 20th the time
/// at which it was started, proc_pid_stat(5).
fn stat(pid: u32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let behind = stat.rsplit(|byte| *byte == b')').next()?;
    let fields: Vec<_> = behind.split(|byte| *byte == b' ').collect();
    let number = |at: usize| std::str::from_utf8(fields.get(at)?).ok()?.parse().ok();
    Some(Process {
        parent: u32::try_from(number(2)?).ok()?,
        started: number(20)?,
    })
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Maps {
    /// Something is mapped.
    any: bool,
    /// Inodes of memfds, whatever they are called.
    memfds: Vec<u64>,
}

fn memfds_of(pid: u32) -> io::Result<Maps> {
    if pid == 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(memfds_in(&fs::read(format!("/proc/{pid}/maps"))?))
}

/// `address perms offset dev inode path`, a line each.
fn memfds_in(maps: &[u8]) -> Maps {
    let inode = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        let mut fields = line.split_ascii_whitespace();
        let inode = fields.nth(4)?.parse().ok()?;
        fields.next()?.starts_with("/memfd:").then_some(inode)
    };
    let lines = maps.split(|byte| *byte == b'\n');
    Maps {
        any: !maps.is_empty(),
        memfds: lines.filter_map(inode).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use std::os::fd::OwnedFd;

    #[test]
    fn rings_are_found_by_their_inodes() {
        let maps = b"7f2a-7f2b r--p 00000000 fe:01 1234   /usr/lib/x y.so\n\
            7f2c-7f2d rw-s 00000000 00:01 77    /memfd:sslcollector (deleted)\n\
            7f2e-7f2f rw-s 00000000 00:01 78    /memfd:an other (deleted)\n\
            7f30-7f31 rw-s 00000000 00:01 79    /dev/zero (deleted)\n\
            7ffc-7ffd rw-p 00000000 00:00 0     [stack]\n";
        assert_eq!(
            memfds_in(maps),
            Maps {
                any: true,
                memfds: vec![77, 78]
            }
        );
        assert!(!memfds_in(b"").any);
    }

    /// A ring that this process has mapped.
    fn ring() -> (OwnedFd, mirror_hook::shm::Mapping) {
        use mirror_hook::layout::{BOOTSTRAP_BYTES, CONTROL_BYTES};
        use rustix::fs::{SealFlags, fcntl_add_seals};
        let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC;
        let memfd = memfd_create("sslcollector", flags).unwrap();
        ftruncate(&memfd, CONTROL_BYTES as u64 + BOOTSTRAP_BYTES).unwrap();
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&memfd, seals).unwrap();
        let fd = std::os::fd::AsFd::as_fd(&memfd);
        let mapping = mirror_hook::shm::Mapping::of_sealed_memfd(fd, BOOTSTRAP_BYTES).unwrap();
        (memfd, mapping)
    }

    fn of_this_process(memfd: &OwnedFd) -> Owner {
        let pid = std::process::id();
        Owner::new(pid, started(pid).unwrap(), memfd)
    }

    #[test]
    fn only_what_can_be_seen_at_all_can_be_gone() {
        let (memfd, mapping) = ring();
        let owner = of_this_process(&memfd);
        assert_ne!(owner.started, 0);
        let mut other = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let of_other = Owner {
            pid: other.id(),
            ..owner
        };
        let seen = || memfds_of(std::process::id()).unwrap();
        assert_eq!(is_mapped(&owner, &seen()), Answer::Mapped);
        assert_eq!(is_mapped(&of_other, &seen()), Answer::Gone);
        drop(mapping);
        assert_eq!(is_mapped(&of_other, &seen()), Answer::Mapped);
        // Of one that isn't there nothing is known.
        assert_eq!(
            is_mapped(&Owner { pid: 0, ..owner }, &seen()),
            Answer::Mapped
        );
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn who_executes_something_else_shares_nothing() {
        let (memfd, _mapping) = ring();
        let owner = of_this_process(&memfd);
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let mut scanner = Scanner::new(None).unwrap();
        scanner.ask(vec![
            (1, owner, Question::Shared),
            (2, owner, Question::Mapped),
        ]);
        assert!(scanner.is_busy());
        let begin = Instant::now();
        let answers = loop {
            if let Some(answers) = scanner.take() {
                break answers.answers;
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "no answer came");
            std::thread::yield_now();
        };
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(answers, [(2, Answer::Mapped), (1, Answer::NotShared)]);
        assert!(!scanner.is_busy());
    }
}
