//! A program in a small memory cgroup lives, with its ring as large as it gets: the ring's pages are the
//! agent's, except for the first few.

use std::fs;
use std::path::{Path, PathBuf};

use mirror_tests::attach::{Scenario, assert_no_wrong_byte, flow_of};
use mirror_tests::place::Place;
use rustix::process::Signal;

const PAGE: usize = 1_500_000;
/// More than the ring's 16 MiB in all.
const SESSIONS: usize = 14;
/// What the client itself needs from here on is about 3 MiB.
const LIMIT: usize = 6 << 20;

/// A memory cgroup, which goes when this is dropped.
struct Group(PathBuf);

impl Group {
    /// `None`: this system lets us make none.
    fn new() -> Option<Self> {
        let name = format!("mirror-tests-{}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        // Version 1 has a hierarchy for memory; in version 2 children get what their parent passes on.
        let (parent, limit) = match root.join("memory/cgroup.procs").exists() {
            true => (root.join("memory"), "memory.limit_in_bytes"),
            false => (root.to_owned(), "memory.max"),
        };
        let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        let group = Self(parent.join(name));
        fs::create_dir(&group.0).ok()?;
        fs::write(group.0.join(limit), LIMIT.to_string()).ok()?;
        let _ = fs::write(group.0.join("memory.swap.max"), "0");
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_small_memory_cgroup() {
    let Some(group) = Group::new() else {
        println!("no memory cgroup can be made here: nothing was tested");
        return;
    };
    let place = Place::new(&[PAGE]);
    let scenario = Scenario::new(&place);
    let mut steps = vec![format!("cgroup:{}", group.0.display())];
    let get = format!("get:/get/{PAGE}");
    for _ in 0..SESSIONS {
        steps.extend(["open".to_owned(), get.clone(), "close".to_owned()]);
    }

    let agent = scenario.agent("capture.pcapng");
    let said = scenario.same(&steps);
    assert_eq!(said.len(), SESSIONS);
    let flows = scenario.flows(agent, "capture.pcapng");
    let seen: u64 = flows
        .iter()
        .map(|flow| flow.response.length() - flow.response.missing())
        .sum();
    assert!(
        seen > LIMIT as u64,
        "only {seen} bytes went through the ring"
    );
    for connection in &said {
        let flow = flow_of(&flows, connection);
        assert_eq!(flow.response.difference(&connection.received), None);
    }

    // An agent that never answers: the process has its first pages to fill, and no more.
    let agent = scenario.agent("second.pcapng");
    agent.signal(Signal::STOP);
    let said = scenario.same(&steps);
    agent.signal(Signal::CONT);
    let flows = scenario.flows(agent, "second.pcapng");
    for flow in &flows {
        let connection = said.iter().find(|one| one.port == flow.client.port());
        assert_no_wrong_byte(flow, connection.expect("a connection of the client's"));
    }
    scenario.nginx.quit();
}
