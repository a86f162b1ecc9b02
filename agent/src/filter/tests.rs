use mirror_hook::event::Role;
use mirror_hook::filter::{End, Glob, NamePattern, Network};

use super::*;

fn parsed(text: &str) -> Condition {
    Condition::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn a_rule_with_everything() {
    let rule = parsed(
        "exe=/usr/sbin/nginx,uid=33,port=443-444,server-net=10.0.0.0/8,sni=*.Example.com,role=server",
    );
    assert_eq!(rule.process.executable, Some(Glob::new("/usr/sbin/nginx")));
    assert_eq!(rule.process.uid, Some(33));
    assert_eq!(rule.flow.ports, Some(443..=444));
    let network = Network {
        address: "10.0.0.0".parse().unwrap(),
        bits: 8,
    };
    assert_eq!(rule.flow.network, Some((End::Server, network)));
    let name = NamePattern::EndsWith(".Example.com".to_owned());
    assert_eq!(rule.flow.name, Some(name));
    assert_eq!(rule.flow.role, Some(Role::Server));
    assert_eq!(parsed("all"), Condition::default());
}

#[test]
fn networks() {
    let network = |text: &str| parsed(&format!("net={text}")).flow.network.unwrap().1;
    for (text, address, bits) in [
        ("192.0.2.7", "192.0.2.7", 32),
        ("0.0.0.0/0", "0.0.0.0", 0),
        ("2001:db8::/32", "2001:db8::", 32),
        ("::/0", "::", 0),
        ("::1", "::1", 128),
        ("::ffff:10.0.0.0/104", "10.0.0.0", 8),
        ("::ffff:10.0.0.1", "10.0.0.1", 32),
    ] {
        let address = address.parse().unwrap();
        assert_eq!(network(text), Network { address, bits }, "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    for (rule, position, words) in [
        ("", 1, "KEY=VALUE"),
        ("port", 1, "KEY=VALUE"),
        ("uid=0,ports=443", 7, "no condition 'ports'"),
        ("uid=0,port=", 12, "nothing stands behind 'port='"),
        ("uid=0,port=0", 12, "65535"),
        ("port=5-4", 6, "range"),
        ("port=70000", 6, "65535"),
        ("uid=www-data", 5, "id -u"),
        ("role=peer", 6, "neither client nor server"),
        ("net=10.0.0.1/8", 5, "10.0.0.0/8?"),
        ("net=2001:db8::1/32", 5, "2001:db8::/32?"),
        ("net=10.0.0.0/33", 5, "no network"),
        ("net=localhost", 5, "no network"),
        ("sni=*example.com", 5, "neither a host's name"),
        ("sni=exämple.com", 5, "xn--"),
        ("sni=a,sni=b", 7, "second 'sni'"),
        ("net=10.0.0.0/8,client-net=10.0.0.0/8", 16, "second 'net'"),
        ("uid=0,", 7, "KEY=VALUE"),
    ] {
        let error = Condition::parse(rule).unwrap_err();
        assert_eq!(error.position, position, "{rule}: {error}");
        assert!(error.what.contains(words), "{rule}: {error}");
    }
}

fn filters(rules: &[(Action, &str)]) -> Filters {
    let rules = rules.iter().map(|(action, text)| (*action, parsed(text)));
    Filters::new(rules.collect(), UnknownFlow::Exclude).unwrap()
}

fn client(port: u16) -> Facts<'static> {
    Facts {
        role: Role::Client,
        ends: Some((([192, 0, 2, 1], 5000).into(), ([192, 0, 2, 2], port).into())),
        name: Some(b"example.com"),
        uid: None,
    }
}

#[test]
fn without_rules_nothing_is_told() {
    assert!(Filters::default().for_process(0, None).is_none());
    assert!(Filters::default().is_empty());
}

#[test]
fn the_process_is_settled_here() {
    let filters = filters(&[
        (Action::Allow, "exe=nginx,port=443"),
        (Action::Deny, "uid=33"),
    ]);
    let told = |uid, path: Option<&str>| filters.for_process(uid, path.map(str::as_bytes)).unwrap();
    let nginx = told(0, Some("/usr/sbin/nginx"));
    assert!(!nginx.excludes_all);
    assert_eq!(nginx.policy.judge(&client(443)), None);
    assert_eq!(nginx.policy.judge(&client(80)), Some(Excluded::ByRule));
    let unseen = Facts {
        ends: None,
        ..client(443)
    };
    assert_eq!(nginx.policy.judge(&unseen), Some(Excluded::Unknown));
    assert!(told(0, Some("/usr/bin/curl")).excludes_all);
    assert!(told(33, Some("/usr/sbin/nginx")).excludes_all);
    // Who can't be seen isn't allowed, and is denied.
    assert!(told(0, None).excludes_all);
}

#[test]
fn an_executable_that_cant_be_seen_is_denied() {
    let filters = filters(&[(Action::Deny, "exe=curl,port=443")]);
    let told = filters.for_process(0, None).unwrap();
    assert_eq!(told.policy.judge(&client(443)), Some(Excluded::ByRule));
    assert_eq!(told.policy.judge(&client(80)), None);
}

#[test]
fn until_the_answer_the_process_is_open() {
    let filters = filters(&[(Action::Allow, "exe=curl"), (Action::Deny, "port=25")]);
    let bytes = filters.until_answered().unwrap();
    assert!(matches!(
        decide(&bytes[..], &client(443)),
        Verdict::Unknown(_)
    ));
    assert_eq!(decide(&bytes[..], &client(25)), Verdict::Exclude);
}

#[test]
fn too_many_rules_are_refused_at_the_start() {
    let rules = vec![(Action::Deny, parsed("port=1")); 129];
    let error = Filters::new(rules, UnknownFlow::Exclude).unwrap_err();
    assert_eq!(error.to_string(), "129 rules, more than 128");
}
