//! Each system call that the hook makes fails once: the session goes on, nothing that a user or the
//! program can see differs, and what was mirrored nevertheless is right.
//!
//! By default each call at each place fails with one error; `MIRROR_ATTACH_FAULTS=all` (`make attach-faults`) takes
//! each error that the call can give.

use std::process::Command;

use mirror_tests::attach::{Run, Scenario, assert_no_wrong_byte};
use mirror_tests::faults::{
    Fault, calls, faults, for_the_program_only, has_hit, inject, of_the_hook, trace,
};
use mirror_tests::place::Place;
use mirror_tests::process::run;

/// Two requests, so that there is something to be said after each fault.
const STEPS: [&str; 5] = [
    "open",
    "get:/get/20000",
    "get:/get/1",
    "get:/get/1",
    "close",
];

/// Runs until a fault has hit.
const ATTEMPTS: usize = 20;

/// Without these nobody could have been shown anything.
const ESSENTIAL: [&str; 10] = [
    "madvise",
    "mmap",
    "socket",
    "connect",
    "prlimit64",
    "memfd_create",
    "ftruncate",
    "fcntl",
    "sendmsg",
    "getsockopt",
];

#[test]
fn each_call_of_the_hook_fails() {
    let quick = std::env::var("MIRROR_ATTACH_FAULTS").as_deref() != Ok("all");
    let place = Place::new(&[1, 20_000]);
    let scenario = Scenario::new(&place);
    let words = scenario.words(&STEPS);
    let stock = Run::of(run(&mut scenario.stock(&words)));
    assert_eq!(stock.code, Some(0), "{stock:?}");

    let agent = scenario.agent("capture.pcapng");
    let log = place.path("out/strace");
    let patched = scenario.patched(&words);
    let traced = |words: &[String]| {
        let words = for_the_program_only(words, &patched);
        Run::of(run(Command::new(&words[0]).args(&words[1..])))
    };
    let dry = traced(&trace(&log, &words));
    dry.assert_same(&stock, "without a fault");
    let hook = of_the_hook(&calls(&log));
    let names: std::collections::BTreeSet<_> = hook.iter().map(|call| &*call.name).collect();
    assert!(
        ESSENTIAL.iter().all(|name| names.contains(name)),
        "{names:?}"
    );
    let faults = faults(&hook, quick);
    let mut said = dry.connections;
    let mut unmirrored = Vec::new();
    let mut missed = 0;
    for fault in &faults {
        // How often the hook asks for the socket depends on when the agent answers.
        let hit = (0..ATTEMPTS).find_map(|_| {
            let run = traced(&inject(&log, fault, &words));
            run.assert_same(&stock, &format!("{fault:?}"));
            said.extend(run.connections.iter().cloned());
            let hit = has_hit(&log, fault);
            missed += usize::from(!hit);
            hit.then_some(run)
        });
        let run = hit.unwrap_or_else(|| panic!("{fault:?} has hit {:#?}", calls(&log)));
        unmirrored.extend(run.connections.iter().map(|one| (one.port, fault)));
    }

    // Wherever there is text it is that of a connection, and of no two.
    let mirrored = faults.iter().filter(|fault| !costs_the_mirror(fault));
    let mirrored = 1 + missed + mirrored.count();
    let flows = scenario.flows(agent, "capture.pcapng");
    for flow in &flows {
        let known = said.iter().find(|one| one.port == flow.client.port());
        match known {
            Some(connection) => {
                assert_no_wrong_byte(flow, connection);
                assert_eq!(flow.response.difference(&connection.received), None);
            }
            // Without addresses: an agent without capture rights can only say so.
            None => assert!(flow.comment.contains("bound=none"), "{}", flow.comment),
        }
        unmirrored.retain(|(port, _)| *port != flow.client.port());
    }
    for (_, fault) in &unmirrored {
        assert!(costs_the_mirror(fault), "not mirrored: {fault:?}");
    }
    assert_eq!(flows.len(), mirrored);
    scenario.nginx.quit();
}

/// Whether nobody can be shown anything after this; the hook has another way, or needs no answer, for
/// the rest.
fn costs_the_mirror(fault: &Fault) -> bool {
    let text = &fault.call.text;
    match (&*fault.call.name, fault.error) {
        // A smaller ring; kernels before 6.3; a root without the socket's path.
        ("mmap", _) => !text.contains("MAP_SHARED"),
        ("memfd_create", "EINVAL") | ("connect", "ENOENT") => false,
        ("getsockopt", _) => text.contains("SO_PEERCRED"),
        (name, _) => !["getrandom", "prctl", "getsockname", "getpeername"].contains(&name),
    }
}
