//! What agents do while a program wants one: nobody listens, nobody answers, one comes late, goes, is
//! killed, and another comes. The program notices nothing; what an agent had of it is right.

use std::process::Command;

use mirror_tests::attach::{
    Connection, Run, Scenario, assert_no_wrong_byte, assert_whole, flow_of,
};
use mirror_tests::client::PYTHON;
use mirror_tests::place::Place;
use mirror_tests::process::{Process, run, until};
use mirror_tests::program::{Program, file};
use rustix::process::Signal;

const PAGES: [usize; 2] = [1, 20_000];

/// From `offset` on, what the connection said and heard is in its flow; before it, nothing.
fn assert_from(flow: &mirror_tests::streams::Flow, connection: &Connection, begin: (usize, usize)) {
    let (sent, received) = (&connection.sent[begin.0..], &connection.received[begin.1..]);
    assert!(
        flow.comment.contains("announced=midstream"),
        "{}",
        flow.comment
    );
    assert!(flow.request.whole() == Some(sent), "{:?}", flow.request);
    assert!(flow.response.whole() == Some(received), "another response");
}

/// Lengths of the first request and its response: what one connection said before an agent came.
fn first_of(connection: &Connection) -> (usize, usize) {
    let end = |text: &[u8]| {
        let end = text.windows(4).position(|four| four == b"\r\n\r\n");
        end.expect("a head") + 4
    };
    // The first response has a body of one byte.
    (end(&connection.sent), end(&connection.received) + 1)
}

#[test]
fn nobody_listens() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let steps = [
        "open",
        "get:/get/20000",
        "close",
        "open",
        "get:/get/1",
        "close",
    ];
    scenario.same(&steps);
    // A socket that is still there while its listener isn't.
    let mut agent = scenario.agent("capture.pcapng");
    agent.signal(Signal::KILL);
    agent.wait();
    assert!(scenario.socket().exists());
    scenario.same(&steps);
    // Something else is there.
    std::fs::remove_file(scenario.socket()).expect("remove a socket");
    std::fs::write(scenario.socket(), "").expect("write a file");
    scenario.same(&steps);
    scenario.nginx.quit();
}

#[test]
fn an_agent_that_is_stopped_hears_it_later() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let agent = scenario.agent("capture.pcapng");
    agent.signal(Signal::STOP);
    let steps = [
        "open",
        "get:/get/20000",
        "close",
        "open",
        "get:/get/1",
        "close",
    ];
    let said: Vec<_> = (0..3).flat_map(|_| scenario.same(&steps)).collect();
    agent.signal(Signal::CONT);
    let flows = scenario.flows(agent, "capture.pcapng");
    assert_eq!(flows.len(), said.len());
    for connection in &said {
        assert_whole(&flows, connection);
    }
    scenario.nginx.quit();
}

#[test]
fn an_agent_that_is_stopped_with_a_full_backlog() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let agent = scenario.agent("capture.pcapng");
    agent.signal(Signal::STOP);
    // Connects until there is no room, and stays until its standard output is closed.
    let filler = "
import os, socket, sys, time
held = []
while True:
    one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.setblocking(False)
    try:
        one.connect(sys.argv[1])
    except BlockingIOError:
        break
    held.append(one)
open(sys.argv[2], 'w').close()
while not os.path.exists(sys.argv[3]):
    time.sleep(0.01)
";
    let (full, done) = (file(&scenario, "full"), file(&scenario, "done"));
    let mut command = Command::new(PYTHON);
    command.args(["-c", filler]).arg(scenario.socket());
    let mut filler = Process::start(command.arg(&full).arg(&done));
    until("a full backlog", || full.exists().then_some(()));
    scenario.same(&[
        "open",
        "get:/get/20000",
        "close",
        "open",
        "get:/get/1",
        "close",
    ]);
    std::fs::write(&done, "").expect("let it end");
    assert!(filler.wait().success());
    agent.signal(Signal::CONT);
    // The agent is none the worse for it.
    let words = scenario.words(&["until-mirrored:/get/20000"]);
    let after = Run::of(run(&mut scenario.patched(&words)));
    assert_eq!(after.code, Some(0), "{after:?}");
    let flows = scenario.flows(agent, "capture.pcapng");
    assert_whole(&flows, after.connections.last().expect("a connection"));
    scenario.nginx.quit();
}

#[test]
fn an_agent_comes_late() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let steps = [
        "open",
        "get:/get/1",
        "swap",
        "wait:alone",
        "until-mirrored:/get/1",
        "swap",
        "get:/get/20000",
        "close",
    ];
    let program = Program::start(&scenario, &steps);
    program.waits_at("alone");
    let agent = scenario.agent("capture.pcapng");
    program.go_on("alone");
    let said = program.end();
    let flows = scenario.flows(agent, "capture.pcapng");
    // The one that found the agent, and the one that was older.
    let (old, new) = (&said[said.len() - 1], &said[said.len() - 2]);
    assert_eq!(flows.len(), 2);
    assert_whole(&flows, new);
    let flow = flows.iter().find(|flow| flow.client.port() == old.port);
    assert_from(flow.expect("the older one"), old, first_of(old));
    scenario.nginx.quit();
}

/// Ends the first agent by `signal`, in the middle of a connection, and starts a second one.
fn another_agent(signal: Signal) {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let mut first = scenario.agent("first.pcapng");
    let steps = [
        "open",
        "get:/get/1",
        "wait:first",
        "get:/get/20000",
        "swap",
        "open",
        "get:/get/1",
        "close",
        "wait:none",
        "until-mirrored:/get/1",
        "swap",
        "get:/get/20000",
        "close",
    ];
    let program = Program::start(&scenario, &steps);
    program.waits_at("first");
    // What it has taken is written, even if it is killed.
    until("the first packets", || {
        std::fs::metadata(place.path("first.pcapng"))
            .ok()
            .filter(|file| signal != Signal::KILL || file.len() > 500)
    });
    first.signal(signal);
    first.wait();
    program.go_on("first");
    program.waits_at("none");
    let second = scenario.agent("second.pcapng");
    program.go_on("none");
    let said = program.end();
    let flows = scenario.flows(second, "second.pcapng");
    let (old, new) = (&said[said.len() - 1], &said[said.len() - 2]);
    assert_whole(&flows, new);
    let flow = flows.iter().find(|flow| flow.client.port() == old.port);
    let flow = flow.expect("the one that has seen both agents");
    // Two responses before the second agent.
    let (head, body) = first_of(old);
    let length = |length: u64| usize::try_from(length).expect("a length");
    let request = old.sent.len() - length(flow.request.length());
    let response = old.received.len() - length(flow.response.length());
    assert!(request > head && response > body + 20_000);
    assert_from(flow, old, (request, response));
    if signal != Signal::KILL {
        let capture = mirror_tests::reader::Capture::read(&place.path("first.pcapng"));
        let flows = mirror_tests::streams::flows(&capture.expect("a capture")).expect("flows");
        assert_no_wrong_byte(flow_of(&flows, old), old);
        assert_eq!(
            flow_of(&flows, old).response.length(),
            first_of(old).1 as u64
        );
    }
    scenario.nginx.quit();
}

#[test]
fn an_agent_is_started_again() {
    another_agent(Signal::TERM);
}

#[test]
fn an_agent_is_killed() {
    another_agent(Signal::KILL);
}
