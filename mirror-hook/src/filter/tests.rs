//! The policy's bytes against an oracle that knows no bytes, and bytes that are no policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;
use crate::event::Meta;

/// What the rules mean, said another way: over all that the missing facts could be.
fn oracle(rules: &[Rule], allow_listed: bool, mirror_unknown: bool, facts: &Facts<'_>) -> Verdict {
    let mut verdicts = Vec::new();
    for process in [false, true] {
        for (rule_denies, rule_allows) in
            [(false, false), (false, true), (true, false), (true, true)]
        {
            let fits = |rule: &Rule| {
                let unknown = asks_process(rule, facts) && !known_not(rule, facts)
                    || asks_missing(rule, facts);
                match (unknown, rule.action) {
                    _ if known_not(rule, facts) => false,
                    (false, _) => true,
                    (true, Action::Deny) => rule_denies && process,
                    (true, Action::Allow) => rule_allows && process,
                }
            };
            let denied = rules
                .iter()
                .any(|rule| rule.action == Action::Deny && fits(rule));
            let allowed = !allow_listed
                || rules
                    .iter()
                    .any(|rule| rule.action == Action::Allow && fits(rule));
            verdicts.push(allowed && !denied);
        }
    }
    if verdicts.iter().all(|mirrored| *mirrored) {
        return Verdict::Mirror;
    }
    if verdicts.iter().all(|mirrored| !*mirrored) {
        return Verdict::Exclude;
    }
    // Rules that could still turn the answer.
    let sure = rules.iter().any(|rule| {
        rule.action == Action::Allow && !known_not(rule, facts) && !asks_anything(rule, facts)
    });
    let open = rules.iter().filter(|rule| {
        let matters = rule.action == Action::Deny || allow_listed && !sure;
        matters && !known_not(rule, facts) && asks_anything(rule, facts)
    });
    let missing = open.fold(Missing::default(), |sum, rule| Missing {
        addresses: sum.addresses
            || facts.ends.is_none() && (rule.flow.ports.is_some() || rule.flow.network.is_some()),
        name: sum.name || facts.name.is_none() && rule.flow.name.is_some(),
        process: sum.process || asks_process(rule, facts),
    });
    match missing {
        Missing {
            addresses: true,
            name: false,
            process: false,
        } if mirror_unknown => Verdict::Mirror,
        missing => Verdict::Unknown(missing),
    }
}

fn asks_process(rule: &Rule, facts: &Facts<'_>) -> bool {
    rule.process.executable.is_some() || rule.process.uid.is_some() && facts.uid.is_none()
}

fn asks_missing(rule: &Rule, facts: &Facts<'_>) -> bool {
    let addresses = rule.flow.ports.is_some() || rule.flow.network.is_some();
    facts.ends.is_none() && addresses || facts.name.is_none() && rule.flow.name.is_some()
}

fn asks_anything(rule: &Rule, facts: &Facts<'_>) -> bool {
    asks_process(rule, facts) || asks_missing(rule, facts)
}

/// A condition whose fact is there doesn't hold.
fn known_not(rule: &Rule, facts: &Facts<'_>) -> bool {
    let flow = &rule.flow;
    let role = flow.role.is_some_and(|role| role != facts.role);
    let ends = facts.ends.is_some_and(|(client, server)| {
        let port = flow
            .ports
            .as_ref()
            .is_some_and(|ports| !ports.contains(&server.port()));
        let network = flow.network.as_ref().is_some_and(|(end, network)| {
            let ends = match end {
                End::Either => vec![client.ip(), server.ip()],
                End::Client => vec![client.ip()],
                End::Server => vec![server.ip()],
            };
            !ends.iter().any(|ip| in_network(*network, *ip))
        });
        port || network
    });
    let name = facts.name.is_some_and(|name| {
        let name = String::from_utf8_lossy(name).to_lowercase();
        flow.name.as_ref().is_some_and(|pattern| match pattern {
            NamePattern::Any => name.is_empty(),
            NamePattern::Is(one) => name != one.to_lowercase(),
            NamePattern::EndsWith(end) => name
                .strip_suffix(&end.to_lowercase())
                .is_none_or(str::is_empty),
        })
    });
    let user = facts
        .uid
        .is_some_and(|uid| rule.process.uid.is_some_and(|wanted| wanted != uid));
    role || ends || name || user
}

/// Bit by bit.
fn in_network(network: Network, ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| -> Vec<bool> {
        let bytes = match ip {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let bit = |byte: u8, bit: u8| byte >> (7 - bit) & 1 == 1;
        bytes
            .iter()
            .flat_map(|byte| (0..8).map(move |at| bit(*byte, at)))
            .collect()
    };
    let (network_bits, ip_bits) = (bits(network.address), bits(ip));
    let count = usize::from(network.bits);
    network_bits.len() == ip_bits.len() && network_bits[..count] == ip_bits[..count]
}

/// Few addresses, so that networks and they meet.
fn ip() -> impl Strategy<Value = IpAddr> {
    let near = prop_oneof![Just(10u8), Just(192), any::<u8>()];
    prop_oneof![
        (near.clone(), 0u8..4, 0u8..4).prop_map(|(a, b, c)| Ipv4Addr::new(a, b, 0, c).into()),
        (0u16..4, 0u16..4, near).prop_map(|(a, b, c)| Ipv6Addr::new(
            0x2001,
            a,
            b,
            0,
            0,
            0,
            0,
            c.into()
        )
        .into()),
    ]
}

fn network() -> impl Strategy<Value = Network> {
    (ip(), 0u8..=128).prop_map(|(address, bits)| {
        let bits = if address.is_ipv4() {
            bits.min(32)
        } else {
            bits
        };
        Network { address, bits }
    })
}

const NAMES: [&str; 6] = [
    "example.com",
    "a.example.com",
    "A.Example.COM",
    "other.test",
    "b.a.example.com",
    "a-name-that-is-longer-than-one-step-of-the-comparison.example.com",
];

fn pattern() -> impl Strategy<Value = NamePattern> {
    let name = prop::sample::select(NAMES.to_vec());
    prop_oneof![
        Just(NamePattern::Any),
        name.clone()
            .prop_map(|name| NamePattern::Is(name.to_owned())),
        name.prop_map(|name| NamePattern::EndsWith(format!(".{name}"))),
    ]
}

fn flow() -> impl Strategy<Value = Flow> {
    let role = prop::sample::select(vec![Role::Client, Role::Server]);
    let end = prop::sample::select(vec![End::Either, End::Client, End::Server]);
    let ports = (1u16..8, 0u16..4).prop_map(|(from, more)| from..=from + more);
    let often = |some| prop::option::weighted(0.4, some);
    (
        often(role.boxed()),
        prop::option::weighted(0.4, ports),
        prop::option::weighted(0.4, (end, network())),
        prop::option::weighted(0.4, pattern()),
    )
        .prop_map(|(role, ports, network, name)| Flow {
            role,
            ports,
            network,
            name,
        })
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = prop::sample::select(vec![Action::Allow, Action::Deny]);
    let process = (
        prop::option::weighted(0.1, Just(Glob::new("curl"))),
        prop::option::weighted(0.2, 0u32..2),
    );
    (action, flow(), process).prop_map(|(action, flow, (executable, uid))| Rule {
        action,
        flow,
        process: Process { executable, uid },
    })
}

proptest! {
    #[test]
    fn the_bytes_mean_what_the_rules_say(
        rules in prop::collection::vec(rule(), 0..6),
        others in any::<bool>(),
        mirror_unknown in any::<bool>(),
        role in prop::sample::select(vec![Role::Client, Role::Server]),
        ends in prop::option::weighted(0.7, ((ip(), 1u16..10), (ip(), 1u16..10))),
        name in prop::option::weighted(0.8, prop::sample::select([&NAMES[..], &[""]].concat())),
        uid in prop::option::weighted(0.7, 0u32..2),
    ) {
        let allow_listed = others || rules.iter().any(|rule| rule.action == Action::Allow);
        let bytes = encode(&rules, allow_listed, mirror_unknown).unwrap();
        prop_assert!(bytes.len() <= POLICY_BYTES);
        let facts = Facts {
            role,
            ends: ends.map(|(client, server)| (SocketAddr::from(client), SocketAddr::from(server))),
            name: name.map(str::as_bytes),
            uid,
        };
        prop_assert_eq!(
            decide(&bytes[..], &facts),
            oracle(&rules, allow_listed, mirror_unknown, &facts)
        );
    }

    /// As if the rules for other executables had never been there.
    #[test]
    fn the_executable_is_settled(
        rules in prop::collection::vec(rule(), 0..6),
        curl in any::<bool>(),
    ) {
        let path: &[u8] = if curl { b"/usr/bin/curl" } else { b"/usr/bin/python3" };
        let mut settled = encode(&rules, true, false).unwrap();
        settle(&mut settled, path);
        let mut rules = rules;
        rules.retain(|rule| curl || rule.process.executable.is_none());
        rules.iter_mut().for_each(|rule| rule.process.executable = None);
        let ends = (([10, 0, 0, 1], 2).into(), ([192, 0, 0, 1], 3).into());
        for (ends, uid) in [(None, None), (Some(ends), Some(1))] {
            let facts = Facts { role: Role::Server, ends, name: Some(b"a.example.com"), uid };
            prop_assert_eq!(
                decide(&settled[..], &facts),
                decide(&encode(&rules, true, false).unwrap()[..], &facts)
            );
        }
    }

    /// Any bytes give a verdict; and those that hold a policy with something changed do, too.
    #[test]
    fn bytes_that_are_no_policy_give_a_verdict(
        bytes in prop::collection::vec(any::<u8>(), 0..POLICY_BYTES),
        rules in prop::collection::vec(rule(), 0..6),
        changes in prop::collection::vec((0usize..600, any::<u8>()), 0..8),
        known in any::<bool>(),
    ) {
        let ends = (([10, 0, 0, 1], 2).into(), ([192, 0, 0, 1], 3).into());
        let facts = Facts {
            role: Role::Client,
            ends: known.then_some(ends),
            name: known.then_some(&[b'x'; 255]),
            uid: known.then_some(0),
        };
        decide(&bytes[..], &facts);
        let mut random = bytes;
        settle(&mut random, b"/usr/bin/curl");
        let mut bytes = encode(&rules, true, false).unwrap();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        decide(&bytes[..], &facts);
        settle(&mut bytes, b"/usr/bin/curl");
        decide(&bytes[..], &facts);
    }
}

fn facts() -> Facts<'static> {
    Facts {
        role: Role::Client,
        ends: None,
        name: Some(b""),
        uid: None,
    }
}

#[test]
fn without_a_policy_everything_is_mirrored() {
    assert_eq!(decide(&[0u8; 64][..], &facts()), Verdict::Mirror);
    assert_eq!(decide(&[][..], &facts()), Verdict::Mirror);
    assert_eq!(
        decide(&encode(&[], false, false).unwrap()[..], &facts()),
        Verdict::Mirror
    );
    assert_eq!(
        decide(&encode(&[], true, false).unwrap()[..], &facts()),
        Verdict::Exclude
    );
}

#[test]
fn what_isnt_understood_excludes() {
    let allow = Rule {
        action: Action::Allow,
        flow: Flow::default(),
        process: Process::default(),
    };
    let good = encode(&[allow], true, false).unwrap();
    assert_eq!(decide(&good[..], &facts()), Verdict::Mirror);
    // Another version, more rules than there can be, an unknown flag, action, condition.
    for (at, byte) in [
        (0, 2),
        (7, 1),
        (8, 0x81),
        (RULES, 3),
        (RULES, 0),
        (RULES + 1, 0x80),
    ] {
        let mut bytes = good.clone();
        bytes[at] = byte;
        assert_eq!(
            decide(&bytes[..], &facts()),
            Verdict::Exclude,
            "{byte} at {at}"
        );
    }
}

#[test]
fn until_the_answer_everything_is_unknown() {
    let Verdict::Unknown(missing) = decide(UNTIL_ANSWERED, &facts()) else {
        panic!("decided");
    };
    assert!(missing.process);
}

#[test]
fn the_pages_are_read_where_they_lie_and_not_beyond() {
    let memory = crate::ring::HeapMemory::new(64);
    let mut out = [7; 8];
    Shared(&memory).copy(POLICY_BYTES - 4, &mut out);
    assert_eq!(out, [0; 8]);
    Shared(&memory).copy(usize::MAX, &mut out);
    assert_eq!(out, [0; 8]);
}

#[test]
fn too_much_is_refused() {
    let rule = |name: &str| Rule {
        action: Action::Deny,
        flow: Flow {
            name: Some(NamePattern::Is(name.to_owned())),
            ..Flow::default()
        },
        process: Process::default(),
    };
    let many = vec![rule("a"); MAX_RULES + 1];
    assert_eq!(
        encode(&many, false, false),
        Err(EncodeError::TooManyRules(MAX_RULES + 1))
    );
    assert!(encode(&many[1..], false, false).is_ok());
    let long = vec![rule(&"a".repeat(255)); MAX_RULES];
    assert!(matches!(
        encode(&long, false, false),
        Err(EncodeError::NamesTooLong(_))
    ));
    let longer = [rule(&"a".repeat(256))];
    assert_eq!(
        encode(&longer, false, false),
        Err(EncodeError::NameTooLong(256))
    );
}

#[test]
fn facts_of_a_connection() {
    let mut meta = Meta {
        addresses: Some((
            "[::ffff:10.0.0.1]:443".parse().unwrap(),
            "[::ffff:192.0.2.1]:5000".parse().unwrap(),
        )),
        ..Meta::new(Role::Server)
    };
    let ends = (
        "192.0.2.1:5000".parse().unwrap(),
        "10.0.0.1:443".parse().unwrap(),
    );
    assert_eq!(Facts::of(&meta).ends, Some(ends));
    assert_eq!(Facts::of(&meta).name, None);
    meta.sni = b"example.com.";
    assert_eq!(Facts::of(&meta).name, Some(&b"example.com"[..]));
    meta.sni = b"";
    meta.handshake_done = true;
    assert_eq!(Facts::of(&meta).name, Some(&b""[..]));
    for unconnected in ["0.0.0.0:5000", "192.0.2.1:0"] {
        meta.addresses = Some((ends.1, unconnected.parse().unwrap()));
        assert_eq!(Facts::of(&meta).ends, None, "{unconnected}");
    }
}
