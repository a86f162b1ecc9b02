//! The three commands, each with curl, nginx and services on rustls: monitors that listen live, at the interface
//! itself and at its far end, see what is in the capture file, by IPv4 and IPv6; also where the original TLS
//! traffic passes there, beside it on a VLAN.

use mirror_tests::applications::Applications;
use mirror_tests::judges::HttpEvent;
use mirror_tests::monitors::{Host, Output, Seen, at_a_collector, here};

/// What a monitor has to see of what the applications say.
fn talk(host: &Host<'_>) -> Vec<HttpEvent> {
    let mut applications = Applications::start(host.network, host.place, host.away, host.agent);
    let expected = applications.talk();
    applications.end();
    expected
}

fn replayed_here(output: Output) {
    assert_all_seen(&here(output, &[], &Applications::SIZES, talk));
}

fn replayed_by_a_collector(output: Output) {
    assert_all_seen(&at_a_collector(output, &[], &Applications::SIZES, talk));
}

fn assert_all_seen(seen: &Seen<Vec<HttpEvent>>) {
    assert_eq!(seen.http, seen.told, "{}", seen.said);
}

#[test]
fn an_agent_with_an_interface() {
    replayed_here(Output::Alone);
}

#[test]
fn an_agent_beside_the_original_packets() {
    replayed_here(Output::Beside);
}

#[test]
fn a_collector_with_an_interface() {
    replayed_by_a_collector(Output::Alone);
}

#[test]
fn a_collector_beside_the_original_packets() {
    replayed_by_a_collector(Output::Beside);
}
