//! Makes one system call of a program fail, by strace(1): the Nth of its name, as a run before has
//! shown it.

use std::path::Path;
use std::process::Command;

/// The calls that are looked at: all that the hook makes, but close(2), whose failure strace can only
/// play by not closing.
const CALLS: &str = "mmap,madvise,prctl,getrandom,socket,connect,getsockopt,prlimit64,memfd_create,\
                     ftruncate,fcntl,sendmsg,getsockname,getpeername,futex";

/// What the kernel gives as an error to each of them, or a filter does. The first is for the quick run.
const ERRORS: [(&str, &[&str]); 14] = [
    ("mmap", &["ENOMEM", "EPERM", "EAGAIN", "EACCES", "ENFILE"]),
    (
        "madvise",
        &["EINVAL", "EPERM", "ENOSYS", "ENOMEM", "EAGAIN"],
    ),
    ("prctl", &["EINVAL", "EPERM", "ENOSYS", "EFAULT"]),
    ("getrandom", &["EAGAIN", "EPERM", "ENOSYS", "EINTR"]),
    (
        "socket",
        &[
            "EMFILE",
            "EPERM",
            "EACCES",
            "ENFILE",
            "ENOMEM",
            "ENOBUFS",
            "ENOSYS",
            "EAFNOSUPPORT",
        ],
    ),
    (
        "connect",
        &[
            "EAGAIN",
            "EPERM",
            "EACCES",
            "ENOENT",
            "ECONNREFUSED",
            "EINTR",
            "EINPROGRESS",
            "EPROTOTYPE",
            "ENOSYS",
            "ENOMEM",
        ],
    ),
    (
        "getsockopt",
        &["EPERM", "ENOSYS", "ENOPROTOOPT", "ENOTSOCK", "EBADF"],
    ),
    ("prlimit64", &["EPERM", "ENOSYS", "EACCES", "EFAULT"]),
    (
        "memfd_create",
        &[
            "EMFILE", "EPERM", "EACCES", "ENFILE", "ENOMEM", "ENOSYS", "EINVAL", "EINTR",
        ],
    ),
    (
        "ftruncate",
        &[
            "EINTR", "EPERM", "EFBIG", "ENOSPC", "ENOMEM", "ENOSYS", "EINVAL",
        ],
    ),
    ("fcntl", &["EPERM", "EBUSY", "EINVAL", "ENOSYS", "EBADF"]),
    (
        "sendmsg",
        &[
            "EAGAIN",
            "EPERM",
            "EINTR",
            "EPIPE",
            "ECONNRESET",
            "ENOBUFS",
            "ENOMEM",
            "EMSGSIZE",
            "ETOOMANYREFS",
            "ENOSYS",
        ],
    ),
    (
        "getsockname",
        &["EPERM", "ENOTSOCK", "ENOBUFS", "ENOSYS", "EBADF"],
    ),
    (
        "getpeername",
        &["EPERM", "ENOTCONN", "ENOTSOCK", "ENOBUFS", "ENOSYS"],
    ),
];

/// A system call in a log of strace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Which call of this name it is, from 1.
    pub number: usize,
    /// As strace writes it, with its arguments.
    pub text: String,
}

/// A call of the hook that is to fail.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which.
    pub call: Call,
    /// With what.
    pub error: &'static str,
}

/// strace's words for a program of which all calls that matter are logged.
pub fn trace(log: &Path, words: &[String]) -> Vec<String> {
    strace(log, &["-e".to_owned(), format!("trace={CALLS}")], words)
}

/// strace's words for a program in which one call fails.
pub fn inject(log: &Path, fault: &Fault, words: &[String]) -> Vec<String> {
    let Fault { call, error } = fault;
    let (name, number) = (&call.name, call.number);
    let options = [
        "-e".to_owned(),
        format!("trace={name}"),
        "-e".to_owned(),
        format!("inject={name}:error={error}:when={number}"),
    ];
    strace(log, &options, words)
}

/// The calls in a log, in their order.
///
/// # Panics
/// If there is no log.
pub fn calls(log: &Path) -> Vec<Call> {
    let text = std::fs::read_to_string(log).expect("strace's log");
    let mut calls: Vec<Call> = Vec::new();
    for line in text.lines() {
        let Some((name, _)) = line.split_once('(') else {
            continue; // A signal, or the end.
        };
        let before = calls.iter().filter(|call| call.name == name).count();
        calls.push(Call {
            name: name.to_owned(),
            number: before + 1,
            text: line.to_owned(),
        });
    }
    calls
}

/// Those that the hook makes. The program makes none with such arguments itself.
///
/// # Panics
/// If the program wasn't mirrored.
pub fn of_the_hook(calls: &[Call]) -> Vec<Call> {
    let position = |what: &str| {
        let found = calls.iter().position(|call| call.text.contains(what));
        found.unwrap_or_else(|| panic!("{what} isn't in {calls:#?}"))
    };
    // In the library's constructor: the page that a fork wipes, and the process's name.
    let wipe = position("MADV_WIPEONFORK");
    let mut hook = calls[wipe - 1..=wipe + 1].to_vec();
    // Then from the random number to the page for the ring's state, without a gap.
    let begin = position("SOCK_SEQPACKET");
    let sent = position("SCM_RIGHTS");
    hook.extend(calls[begin - 1..=sent + 1].iter().cloned());
    // And what the socket tells, for each OPEN and UPDATE.
    let facts = ["getsockname", "getpeername", "getsockopt"];
    let later = calls[sent + 2..].iter();
    hook.extend(later.filter(|call| facts.contains(&&*call.name)).cloned());
    hook
}

/// Faults of these calls: each call with each error, or (`quick`) with one.
///
/// # Panics
/// If a call isn't known.
pub fn faults(calls: &[Call], quick: bool) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    for call in calls {
        let known = ERRORS.iter().find(|(name, _)| *name == call.name);
        let (_, errors) = known.unwrap_or_else(|| panic!("the hook makes a new call: {call:?}"));
        let count = if quick { 1 } else { errors.len() };
        faults.extend(errors[..count].iter().map(|&error| Fault {
            call: call.clone(),
            error,
        }));
    }
    faults
}

/// Whether the fault has hit the call that it was meant for, as the log of its run tells.
///
/// # Panics
/// If there is no log.
pub fn has_hit(log: &Path, fault: &Fault) -> bool {
    let calls = calls(log);
    let hit: Vec<_> = calls
        .iter()
        .filter(|call| call.text.ends_with("(INJECTED)"))
        .collect();
    // Addresses and numbers of bytes differ from run to run, constants don't.
    let constants = |text: &str| {
        let arguments = text.rsplit_once(" = ").map_or(text, |(call, _)| call);
        let words = arguments.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        // AF_UNIX, F_ADD_SEALS, …; the bytes of a message don't look like that.
        let constant = |word: &&str| {
            let upper = |c: char| c.is_ascii_uppercase() || c == '_';
            word.len() > 4 && word.contains('_') && word.chars().all(upper)
        };
        let constants: Vec<_> = words.filter(constant).map(str::to_owned).collect();
        constants
    };
    let [call] = hit[..] else {
        return false;
    };
    // What a call that failed would have answered isn't there.
    let as_meant = constants(&fault.call.text).starts_with(&constants(&call.text));
    call.number == fault.call.number && as_meant
}

fn strace(log: &Path, options: &[String], words: &[String]) -> Vec<String> {
    let mut all = vec![
        "strace".to_owned(),
        "-o".to_owned(),
        log.display().to_string(),
    ];
    all.extend(options.iter().cloned());
    all.extend(words.iter().cloned());
    all
}

/// A command's environment for the program alone: strace itself is to run with the system's library.
pub fn for_the_program_only(words: &[String], command: &Command) -> Vec<String> {
    let set = command.get_envs().filter_map(|(name, value)| {
        let value = value?.to_string_lossy().into_owned();
        Some(format!("{}={value}", name.to_string_lossy()))
    });
    let options = set.flat_map(|pair| ["-E".to_owned(), pair]);
    let mut all = vec![words[0].clone()];
    all.extend(options);
    all.extend(words[1..].iter().cloned());
    all
}
