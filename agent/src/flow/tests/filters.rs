//! Filters that need what comes late.

use super::*;

fn policy(rules: &[(Action, &str)], unknown_flow: UnknownFlow) -> Option<Arc<Policy>> {
    let rules = rules
        .iter()
        .map(|(action, rule)| (*action, Condition::parse(rule).unwrap()));
    let filters = Filters::new(rules.collect(), unknown_flow).unwrap();
    Some(filters.for_process(0, None).unwrap().policy)
}

/// Flows and excluded sessions, after a session with text that the wire binds late, if at all.
fn filtered(policy: Option<Arc<Policy>>, meta: Meta<'_>, bound: bool) -> (usize, FlowStats) {
    let mut bench = Bench::capturing();
    bench.policy = policy;
    let role = meta.role;
    bench.open(1, 0, meta);
    bench.say(1, 0, role, Sent, 0, 100);
    if bound {
        bench.wire(0, tuple(0));
    }
    bench.at(3000).say(1, 0, role, Sent, 100, 11);
    bench.close(1, 0, CloseReason::Free);
    assert_eq!(bench.mapper.held_bytes(), 0);
    assert_eq!(bench.mapper.live_flows(), 0);
    assert_eq!(bench.mapper.oldest_held(), None);
    (bench.checker.order.len(), *bench.mapper.stats())
}

#[test]
fn filters_are_asked_when_the_wire_has_told() {
    let client = || done(0, Role::Client);
    let mirror = |rule| policy(&[rule], UnknownFlow::Mirror);
    let (flows, stats) = filtered(mirror((Action::Allow, "port=443")), client(), true);
    assert_eq!((flows, stats.excluded, stats.bytes), (1, 0, 111));
    let (flows, stats) = filtered(mirror((Action::Deny, "net=10.0.1.0/24")), client(), true);
    assert_eq!((flows, stats.excluded, stats.excluded_unknown), (0, 1, 0));
    assert_eq!((stats.excluded_bytes, stats.bytes), (111, 0));
    // Who never gets addresses is excluded by any rule that asks for them, and by no other.
    for rule in [(Action::Allow, "port=443"), (Action::Deny, "port=80")] {
        let (flows, stats) = filtered(mirror(rule), client(), false);
        assert_eq!((flows, stats.excluded, stats.excluded_unknown), (0, 1, 1));
    }
    let (flows, stats) = filtered(mirror((Action::Allow, "role=client")), client(), false);
    assert_eq!((flows, stats.excluded), (1, 0));
}

#[test]
fn what_the_hook_would_have_excluded_is_dropped_though_the_wire_tells() {
    let exclude = policy(&[(Action::Allow, "port=443")], UnknownFlow::Exclude);
    let (flows, stats) = filtered(exclude.clone(), done(0, Role::Client), true);
    assert_eq!((flows, stats.excluded, stats.excluded_unknown), (0, 1, 1));
    let (flows, stats) = filtered(exclude, with_socket(0, Role::Server), false);
    assert_eq!((flows, stats.excluded), (1, 0));
}

#[test]
fn a_name_that_comes_late_is_waited_for() {
    let policy = policy(&[(Action::Deny, "sni=secret.test")], UnknownFlow::Exclude);
    for (name, flows) in [(&b"Secret.Test"[..], 0), (b"open.test", 1), (b"", 1)] {
        let mut bench = Bench::new(MapperConfig::default());
        bench.policy = policy.clone();
        bench.open(1, 0, Meta::new(Role::Server));
        bench.say(1, 0, Role::Server, Sent, 0, 100);
        assert!(bench.checker.order.is_empty());
        let meta = Meta {
            sni: name,
            ..with_socket(0, Role::Server)
        };
        bench.update(1, 0, meta);
        assert_eq!(bench.checker.order.len(), flows, "{name:?}");
    }
}
