//! What processes do to themselves: fork, change the user and the root, close their descriptors, move
//! into namespaces, limit themselves. The session goes on as without a mirror, and what was mirrored is
//! right.

use mirror_tests::attach::{Connection, Run, Scenario, assert_whole, compile};
use mirror_tests::place::Place;
use mirror_tests::process::{run, without_root};
use mirror_tests::sslcollector::library_dir;
use mirror_tests::streams::Flow;

const PAGES: [usize; 2] = [1, 20_000];

/// Runs the steps with and without the mirror; every connection is mirrored whole.
fn whole<S: AsRef<str>>(scenario: &Scenario<'_>, steps: &[S], count: usize) -> Vec<Connection> {
    let agent = scenario.agent("capture.pcapng");
    let said = scenario.same(steps);
    assert_eq!(said.len(), count);
    let flows = scenario.flows(agent, "capture.pcapng");
    for connection in &said {
        assert_whole(&flows, connection);
    }
    said
}

#[test]
fn the_data_of_a_child_whose_parent_shook_hands() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    for way in ["fork", "clone"] {
        whole(
            &scenario,
            &["open", "get:/get/1", way, "get:/get/20000", "close"],
            1,
        );
        // Nothing was said before, and a connection of the child's own follows.
        let steps = [
            "open",
            way,
            "get:/get/20000",
            "close",
            "open",
            "get:/get/1",
            "close",
        ];
        whole(&scenario, &steps, 2);
        // A child of a child.
        let steps = [
            "open",
            "get:/get/1",
            way,
            "get:/get/1",
            way,
            "get:/get/20000",
            "close",
        ];
        whole(&scenario, &steps, 1);
    }
    scenario.nginx.quit();
}

#[test]
fn vfork_and_daemon() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let steps = [
        "open",
        "get:/get/1",
        "vfork",
        "get:/get/20000",
        "close",
        "vfork",
        "open",
        "get:/get/1",
        "close",
    ];
    whole(&scenario, &steps, 2);
    whole(&scenario, &["daemon", "open", "get:/get/20000", "close"], 1);
    scenario.nginx.quit();
}

#[test]
fn another_user_another_root() {
    if without_root("only root can give up being root") {
        return;
    }
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    whole(
        &scenario,
        &["uid:65534", "open", "get:/get/20000", "close"],
        1,
    );
    // The user changes in the middle of a session.
    whole(
        &scenario,
        &["open", "get:/get/1", "uid:65534", "get:/get/20000", "close"],
        1,
    );
    // The socket's path is gone; its abstract name isn't.
    let root = place.path("out");
    let steps = |user| {
        [
            "tcp".to_owned(),
            format!("chroot:{}", root.display()),
            user,
            "handshake".to_owned(),
            "get:/get/20000".to_owned(),
            "close".to_owned(),
        ]
    };
    whole(&scenario, &steps("uid:65534".to_owned()), 1);
    scenario.nginx.quit();
}

#[test]
fn other_namespaces() {
    if without_root("only root can make them without another user namespace") {
        return;
    }
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    whole(
        &scenario,
        &["tcp", "unshare:net", "handshake", "get:/get/20000", "close"],
        1,
    );
    whole(
        &scenario,
        &["unshare:pid", "fork", "open", "get:/get/20000", "close"],
        1,
    );
    let hide = format!("hide:{}", place.path("run").display());
    whole(&scenario, &[&hide, "open", "get:/get/20000", "close"], 1);
    scenario.nginx.quit();
}

#[test]
fn descriptors_closed_and_opened_again_hold_nothing_of_ours() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let files = place.path("out/file");
    let close = format!("closeall:{}", files.display());
    let steps = [
        "open",
        "get:/get/20000",
        &close,
        "open",
        "get:/get/20000",
        "close",
        "open",
        "get:/get/1",
        "close",
    ];
    whole(&scenario, &steps, 3);
    let before = [&close, "open", "get:/get/20000", "close"];
    whole(&scenario, &before, 1);
    for number in 0..4 {
        assert_eq!(place.text(&format!("out/file.{number}")), "mine\n");
    }
    scenario.nginx.quit();
}

#[test]
fn limits_of_the_process() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let agent = scenario.agent("capture.pcapng");
    let session = |limit: &str| {
        scenario.same(&[
            "tcp",
            limit,
            "handshake",
            "get:/get/20000",
            "get:/get/1",
            "close",
        ])
    };
    // No file of a ring's size may be made (or SIGXFSZ would follow); no descriptor left.
    let without = [
        "limit:fsize:0",
        "limit:fsize:4096",
        "limit:fsize:131071",
        "limit:nofile:4",
        "limit:nofile:5",
    ];
    let none: Vec<_> = without.iter().flat_map(|limit| session(limit)).collect();
    // Just enough for a small ring, of which more would find room; for two descriptors for a moment.
    let with = [
        "limit:fsize:131072",
        "limit:fsize:1000000",
        "limit:as:900000",
        "limit:as:3000000",
        "limit:nofile:6",
    ];
    let some: Vec<_> = with.iter().flat_map(|limit| session(limit)).collect();
    let flows = scenario.flows(agent, "capture.pcapng");
    assert_eq!(flows.len(), with.len());
    assert!(
        none.iter()
            .all(|one| flows.iter().all(|flow| flow.client.port() != one.port))
    );
    for connection in &some {
        assert_whole(&flows, connection);
    }
    scenario.nginx.quit();
}

/// A filter answers every call of one kind, not only one of them.
#[test]
fn a_seccomp_filter_that_answers_with_an_errno() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let agent = scenario.agent("capture.pcapng");
    let (eperm, enosys) = (1, 38);
    let mut mirrored = Vec::new();
    let mut not_mirrored = Vec::new();
    // `mmap` is left out: programs without it don't get as far as TLS.
    for (call, still_mirrored) in [
        ("socket", false),
        ("connect", false),
        ("getsockopt", false),
        ("prlimit64", false),
        ("memfd_create", false),
        ("ftruncate", false),
        ("madvise", false),
        ("fcntl", false),
        ("sendmsg", false),
        ("getsockname", true),
        ("getpeername", true),
        ("getrandom", true),
        ("clock_gettime", true),
    ] {
        for errno in [eperm, enosys] {
            let deny = format!("deny:{call}:{errno}");
            let said = scenario.same(&[
                "tcp",
                &deny,
                "handshake",
                "get:/get/20000",
                "get:/get/1",
                "close",
            ]);
            if still_mirrored {
                mirrored.extend(said);
            } else {
                not_mirrored.extend(said.into_iter().map(|one| (deny.clone(), one)));
            }
        }
    }
    let flows = scenario.flows(agent, "capture.pcapng");
    for (deny, one) in &not_mirrored {
        let flow = flows.iter().find(|flow| flow.client.port() == one.port);
        assert!(flow.is_none(), "{deny}: {flow:?}");
    }
    assert_eq!(flows.len(), mirrored.len());
    for connection in &mirrored {
        // Without addresses its flow has others; its text is known by itself.
        let text = |flow: &&Flow| flow.response.whole() == Some(&connection.received[..]);
        assert!(flows.iter().any(|flow| text(&flow)), "{}", connection.port);
    }
    scenario.nginx.quit();
}

/// AT_SECURE: its environment is somebody else's.
#[test]
fn a_setuid_program_ignores_the_settings() {
    if without_root("only root can make one that gains something") {
        return;
    }
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let library = library_dir();
    let program = place.path("attach");
    compile(&program, &[&format!("-Wl,-rpath,{}", library.display())]);
    // The same program, run by root, is mirrored: its library is the patched one.
    whole(&scenario, &["open", "get:/get/20000", "close"], 1);

    let agent = scenario.agent("second.pcapng");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4755);
    std::fs::set_permissions(&program, mode).expect("a setuid program");
    let mut words = vec![
        "setpriv".to_owned(),
        "--reuid=65534".to_owned(),
        "--regid=65534".to_owned(),
        "--clear-groups".to_owned(),
    ];
    words.extend(scenario.words(&["open", "get:/get/20000", "close"]));
    let privileged = Run::of(run(&mut scenario.patched(&words)));
    assert_eq!(privileged.code, Some(0), "{privileged:?}");
    assert_eq!(privileged.connections.len(), 1);
    assert_eq!(scenario.flows(agent, "second.pcapng").len(), 0);
    scenario.nginx.quit();
}
