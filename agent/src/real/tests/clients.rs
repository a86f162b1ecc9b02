//! Whose flows come out.

use super::*;

#[test]
fn a_session_has_its_clients_address() {
    let mut stage = Stage::new(Way::Xff);
    assert!(stage.seen.order.is_empty(), "nobody knows yet whose it is");
    let asked = stage.asks("203.0.113.7", "/");
    stage.says(Server, answer("hello").as_bytes());
    stage.end();
    let all = stage.seen.all();
    assert_eq!(all, [flow("203.0.113.7:40000", &asked, &answer("hello"))]);
    let told = &stage.seen.flows[&1];
    assert_eq!(told.info.id, proxied().id);
    assert_eq!(told.began, WallTime(1_001));
    let real = told.info.real_client.unwrap();
    assert_eq!(real.proxy, proxied().tuple.client);
    assert_eq!(stage.clients.stats().by_x_forwarded_for, 1);
}

#[test]
fn each_client_has_a_flow_of_its_own() {
    let mut stage = Stage::new(Way::Xff);
    let mut flows: BTreeMap<&str, (String, String)> = BTreeMap::new();
    for (client, path) in [
        ("203.0.113.7", "/1"),
        ("203.0.113.8", "/2"),
        ("203.0.113.7", "/3"),
    ] {
        let asked = stage.asks(client, path);
        stage.says(Server, answer(path).as_bytes());
        let flow = flows.entry(client).or_default();
        flow.0 += &asked;
        flow.1 += &answer(path);
    }
    stage.end();
    let of = |client: &str| {
        flow(
            &format!("{client}:40000"),
            &flows[client].0,
            &flows[client].1,
        )
    };
    assert_eq!(stage.seen.all(), [of("203.0.113.7"), of("203.0.113.8")]);
    let ids: Vec<_> = stage.seen.flows.values().map(|told| told.info.id).collect();
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn nobody_else_is_believed() {
    let direct = testing::info("203.0.113.9:40000", "192.0.2.80:443");
    let mut placeholder = proxied();
    placeholder.binding = Binding::Placeholder;
    for info in [direct, placeholder] {
        let mut stage = Stage::with(Way::Xff, &info);
        let asked = stage.asks("6.6.6.6", "/");
        stage.end();
        let all = stage.seen.all();
        assert_eq!(all, [flow(&info.tuple.client.to_string(), &asked, "")]);
        assert_eq!(stage.seen.flows[&1].info, info);
        assert_eq!(stage.clients.stats(), RealStats::default());
    }
}

#[test]
fn what_names_no_client_keeps_the_proxys_address() {
    let mut stage = Stage::new(Way::Xff);
    let own = "GET /health HTTP/1.1\r\n\r\n";
    stage.says(Client, own.as_bytes());
    let asked = stage.asks("203.0.113.7", "/");
    let hidden = stage.asks("203.0.113.7, unknown", "/");
    let conflict = "GET / HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=6.6.6.6\r\n\r\n";
    stage.says(Client, conflict.as_bytes());
    stage.end();
    let kept = [own, &hidden, conflict].concat();
    let all = [
        flow("10.0.0.1:40000", &kept, ""),
        flow("203.0.113.7:40000", &asked, ""),
    ];
    assert_eq!(stage.seen.all(), all);
    let stats = stage.clients.stats();
    assert_eq!((stats.silent, stats.unusable, stats.conflicts), (1, 1, 1));
    assert_eq!(stage.seen.flows[&1].info.real_client.unwrap().told, None);
}

#[test]
fn flows_of_one_session_are_bounded() {
    let mut stage = Stage::new(Way::Xff);
    for number in 0..200 {
        stage.asks(&format!("203.0.113.{number}"), "/");
        stage.says(Server, answer("x").as_bytes());
        let live = stage.seen.flows.values();
        let live = live.filter(|told| told.finished == [false; 2]).count();
        assert!(live <= 64, "{live}");
    }
    // Who comes again after that is somebody new.
    stage.asks("203.0.113.0", "/");
    stage.end();
    assert_eq!(stage.seen.order.len(), 201);
    assert_eq!(stage.stopped(Stop::Crowd), 0);

    let mut stage = Stage::new(Way::Xff);
    for number in 0..70 {
        stage.asks(&format!("203.0.113.{number}"), "/");
    }
    stage.end();
    assert_eq!(
        (stage.seen.order.len(), stage.stopped(Stop::Crowd)),
        (65, 1)
    );
    let own = stage.seen.all().pop().unwrap();
    assert_eq!(own.0, "10.0.0.1:40000");
    assert_eq!(own.1.matches("GET ").count(), 6);
}

#[test]
fn no_two_live_flows_have_one_port() {
    let mut stage = Stage::new(Way::Xff);
    stage.asks("203.0.113.7", "/");
    // Another proxy by the same port; and the client itself.
    let other = testing::info("10.0.0.2:40000", "192.0.2.80:443");
    let direct = testing::info("203.0.113.7:40001", "192.0.2.80:443");
    stage.event(3, FlowChange::Begin(&direct));
    stage.event(2, FlowChange::Begin(&other));
    let asked = ask("203.0.113.7", "/");
    let data = FlowChange::Data {
        from: Client,
        offset: 0,
        bytes: asked.as_bytes(),
    };
    stage.event(2, data);
    let ports = [
        "203.0.113.7:40000",
        "203.0.113.7:40001",
        "203.0.113.7:40002",
    ];
    assert_eq!(stage.seen.clients(), ports);
    for flow in [2, 3] {
        let cause = ResetCause::Died;
        stage.event(flow, FlowChange::Reset { by: Client, cause });
    }
    stage.event(4, FlowChange::Begin(&other));
    stage.event(4, data);
    assert_eq!(stage.seen.clients()[3], "203.0.113.7:40001");
}

#[test]
fn an_abort_ends_all_flows() {
    let mut stage = Stage::new(Way::Xff);
    stage.asks("203.0.113.7", "/");
    stage.asks("203.0.113.8", "/");
    stage.says(Client, b"GET /unfin");
    let cause = ResetCause::Abort;
    stage.event(1, FlowChange::Reset { by: Server, cause });
    assert_eq!(stage.seen.order.len(), 3);
    assert!(stage.seen.are_over());
    let all = stage.seen.all();
    assert_eq!(all[2], flow("10.0.0.1:40000", "GET /unfin", ""));
}

/// Workers put their flows out at one place.
#[test]
fn no_two_live_flows_of_two_workers_have_one_port() {
    let mut stage = Stage::new(Way::Xff);
    let mut other = Stage::new(Way::Xff);
    other.clients = stage.clients.beside();
    let info = testing::info("10.0.0.2:40000", "192.0.2.80:443");
    other.event(1, FlowChange::Begin(&info));
    stage.asks("203.0.113.7", "/");
    other.asks("203.0.113.7", "/");
    assert_eq!(stage.seen.clients(), ["203.0.113.7:40000"]);
    assert_eq!(other.seen.clients(), ["203.0.113.7:40001"]);
    stage.end();
    let mut third = Stage::new(Way::Xff);
    third.clients = other.clients.beside();
    third.event(1, FlowChange::Begin(&info));
    third.asks("203.0.113.7", "/");
    assert_eq!(third.seen.clients(), ["203.0.113.7:40000"]);
}
