//! Connections that cross forks, in every order in which parents and children speak, fall silent and end:
//! one flow each, with every byte, which ends when the last that holds it does.

use std::time::{Duration, Instant};

use mirror_tests::attach::{Connection, Run, Scenario, assert_whole};
use mirror_tests::client::server_words;
use mirror_tests::curl::Transfer;
use mirror_tests::place::{Place, free_port};
use mirror_tests::process::{run, send, until};
use mirror_tests::program::Program;
use mirror_tests::reader::Capture;
use mirror_tests::service::{Clients, How, Service};
use mirror_tests::streams::{End, Flow, flows};
use rustix::process::Signal;

const PAGES: [usize; 2] = [1, 20_000];
const CAPTURE: &str = "capture.pcapng";
/// As long as the agent needs to look several times whether anybody holds a connection.
const A_WHILE: Duration = Duration::from_millis(1500);

/// What is in the capture so far; nothing while its end is being written.
fn flows_now(scenario: &Scenario<'_>) -> Option<Vec<Flow>> {
    flows(&Capture::read(&scenario.place.path(CAPTURE)).ok()?).ok()
}

/// Other connections come and go, for a while. All that was said before has been written then.
fn a_while_passes(scenario: &Scenario<'_>) {
    let begin = Instant::now();
    let mut port = 0;
    while begin.elapsed() < A_WHILE {
        let words = scenario.words(&["open", "get:/get/1", "close"]);
        let other = Run::of(run(&mut scenario.patched(&words)));
        assert_eq!(other.code, Some(0), "{other:?}");
        port = other.connections[0].port;
    }
    until("the flow of another connection", || {
        flows_now(scenario)?
            .into_iter()
            .find(|flow| flow.client.port() == port)
    });
}

/// How the first flow of which `request` is the beginning has ended so far.
fn end_of(scenario: &Scenario<'_>, request: &str) -> Option<End> {
    let is_it = |flow: &Flow| {
        let text = flow.request.whole();
        text.is_some_and(|text| text.starts_with(request.as_bytes()))
    };
    let flow = flows_now(scenario)?.into_iter().find(is_it)?;
    Some(flow.end)
}

/// The request by which a test knows its flow among those of `a_while_passes`.
const MINE: &str = "GET /get/20000 ";

fn one_whole_flow(flows: &[Flow], connection: &Connection, end: End) {
    assert_whole(flows, connection);
    let flow = flows
        .iter()
        .find(|flow| flow.client.port() == connection.port);
    let flow = flow.expect("just found");
    assert_eq!(flow.end, end, "{}", flow.comment);
    assert!(!flow.comment.contains("announced="), "{}", flow.comment);
}

#[test]
fn the_child_speaks_long_after_its_parent_has_left() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let cases: [(&[&str], &str); 4] = [
        (
            &[
                "open",
                "get:/get/20000",
                "leave:a",
                "wait:b",
                "get:/get/1",
                "close",
            ],
            "a",
        ),
        // Nothing was said before.
        (
            &[
                "open",
                "leave:c",
                "wait:d",
                "get:/get/20000",
                "get:/get/1",
                "close",
            ],
            "c",
        ),
        // The child's child, and its child's.
        (
            &[
                "open",
                "get:/get/20000",
                "leave:e",
                "daemon",
                "wait:f",
                "get:/get/1",
                "close",
            ],
            "e",
        ),
        // A child that has spoken leaves to its own.
        (
            &[
                "open",
                "get:/get/20000",
                "leave:g",
                "get:/get/1",
                "leave:h",
                "wait:i",
                "get:/get/1",
                "close",
            ],
            "h",
        ),
    ];
    let agent = scenario.agent(CAPTURE);
    let programs = cases.map(|(steps, left)| {
        let program = Program::start(&scenario, steps);
        program.has_made(left, "left");
        let wait = steps.iter().find_map(|step| step.strip_prefix("wait:"));
        let wait = wait.expect("a step that waits");
        program.waits_at(wait);
        (program, wait)
    });
    a_while_passes(&scenario);
    let said: Vec<_> = programs
        .into_iter()
        .flat_map(|(program, wait)| {
            program.go_on(wait);
            program.end()
        })
        .collect();
    assert_eq!(said.len(), cases.len());
    let flows = scenario.flows(agent, CAPTURE);
    for connection in &said {
        one_whole_flow(&flows, connection, End::ClosedByClient);
    }
    scenario.nginx.quit();
}

#[test]
fn opened_and_then_a_daemon() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let agent = scenario.agent(CAPTURE);
    let steps = [
        "open",
        "get:/get/20000",
        "daemon",
        "wait:a",
        "get:/get/1",
        "close",
    ];
    let mut program = Program::start(&scenario, &steps);
    program.waits_at("a");
    assert!(program.process.wait().success(), "the parent has ended");
    a_while_passes(&scenario);
    program.go_on("a");
    let said = program.end();
    let flows = scenario.flows(agent, CAPTURE);
    one_whole_flow(&flows, &said[0], End::ClosedByClient);
    scenario.nginx.quit();
}

/// Nobody tells when a child that never speaks ends, whether by itself or not.
#[test]
fn a_silent_child_holds_the_connection_until_it_ends() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    for (number, killed) in [("1", false), ("2", true)] {
        let agent = scenario.agent(CAPTURE);
        let (idle, wait) = (format!("idle{number}"), format!("wait{number}"));
        let steps = [
            "open",
            "get:/get/20000",
            &format!("idle:{idle}"),
            "drop",
            &format!("wait:{wait}"),
        ];
        let program = Program::start(&scenario, &steps);
        let child = program.has_made(&idle, "here");
        program.waits_at(&wait);
        a_while_passes(&scenario);
        assert_eq!(end_of(&scenario, MINE), Some(End::Open));
        if killed {
            send(child.trim().parse().expect("a pid"), Signal::KILL);
        } else {
            program.go_on(&idle);
        }
        until("the flow's end", || {
            (end_of(&scenario, MINE)? == End::ClosedByClient).then_some(())
        });
        program.go_on(&wait);
        let said = program.end();
        let flows = scenario.flows(agent, CAPTURE);
        one_whole_flow(&flows, &said[0], End::ClosedByClient);
    }
    scenario.nginx.quit();
}

#[test]
fn a_child_that_executes_something_holds_nothing() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let agent = scenario.agent(CAPTURE);
    let steps = ["open", "get:/get/20000", "spawn:a", "drop", "wait:b"];
    let program = Program::start(&scenario, &steps);
    let child = program.has_made("a", "here");
    program.waits_at("b");
    until("the flow's end", || {
        (end_of(&scenario, MINE)? == End::ClosedByClient).then_some(())
    });
    send(child.trim().parse().expect("a pid"), Signal::KILL);
    program.go_on("b");
    let said = program.end();
    let flows = scenario.flows(agent, CAPTURE);
    one_whole_flow(&flows, &said[0], End::ClosedByClient);
    scenario.nginx.quit();
}

/// What a process held before it became another program is over, though its pid lives.
#[test]
fn who_executes_something_gives_up_its_connections() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    // Another that is mirrored, and one that isn't.
    let then: [&[&str]; 2] = [&["open", "get:/get/1", "close"], &[]];
    for (number, then) in then.into_iter().enumerate() {
        let agent = scenario.agent(CAPTURE);
        let wait = format!("wait{number}");
        let step = format!("wait:{wait}");
        let steps = [&["open", "get:/get/20000", "exec"], then, &[&step]].concat();
        let program = Program::start(&scenario, &steps);
        program.waits_at(&wait);
        until("the flow's end", || {
            (end_of(&scenario, MINE)? == End::ResetByClient).then_some(())
        });
        program.go_on(&wait);
        let said = program.end();
        assert_eq!(said.len(), 1 + then.len() / 3);
        let flows = scenario.flows(agent, CAPTURE);
        one_whole_flow(&flows, &said[0], End::ResetByClient);
        for connection in &said[1..] {
            one_whole_flow(&flows, connection, End::ClosedByClient);
        }
    }
    scenario.nginx.quit();
}

/// They end before anybody can look who they were.
#[test]
fn short_lived_processes_have_names() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let agent = scenario.agent(CAPTURE);
    agent.signal(Signal::STOP);
    let said: Vec<_> = (0..3)
        .flat_map(|_| scenario.same(&["open", "get:/get/1", "close"]))
        .collect();
    agent.signal(Signal::CONT);
    let flows = scenario.flows(agent, CAPTURE);
    assert_eq!(flows.len(), said.len());
    for flow in &flows {
        assert!(
            flow.comment.contains(" process=attach pid="),
            "{}",
            flow.comment
        );
    }
    scenario.nginx.quit();
}

/// The parent shakes hands and lets go, its child speaks: many at a time.
#[test]
fn python_with_a_process_for_each_connection() {
    const SIZES: [usize; 5] = [0, 1, 16_385, 20_000, 300_000];
    for how in [How::Run("1M"), How::Serve] {
        let place = Place::new(&SIZES);
        let port = free_port();
        let words = server_words(&place, "forks", port);
        let service = Service {
            words,
            port,
            end: Signal::TERM,
            status: 0,
            log: None,
        };
        let mirrored = service.start(&place, how);
        let post = |size| Transfer {
            url: format!("/echo/{size}"),
            ..Transfer::post(size)
        };
        let transfers = [
            Transfer::get("get", 0),
            Transfer::get("get", 300_000),
            post(16_385),
            Transfer::get("get", 1),
            Transfer::many(20_000, 5),
            post(300_000),
        ];
        let clients = Clients::start(&place, port, &transfers, 8);
        let truths = clients.truths();
        let seen = mirrored.end();
        let words = ["role=server", "bound=socket"];
        match how {
            How::Run(_) => seen.assert_exact(&truths, &words),
            How::Serve => seen.assert_exact_or_declared(&truths, &words),
        }
        for flow in &seen.flows {
            assert!(!flow.comment.contains("announced="), "{}", flow.comment);
            // curl closes first, and says so.
            assert_eq!(
                flow.end,
                End::ClosedByClient,
                "{}: {}",
                flow.comment,
                seen.said
            );
        }
    }
}
