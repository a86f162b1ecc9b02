//! Several streams at a time.

use super::*;
use crate::transform::Stop;

#[test]
fn what_is_under_way_at_once_is_told_at_once() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/slow"), get(3, "/fast")]);
    scene.server(&[ok(3, "fast")]);
    scene.client(&[get(5, "/next")]);
    scene.server(&[ok(5, "next"), ok(1, "slow")]);
    scene.client(&[get(7, "/last")]);
    let others = scene.others();
    let [lane] = others[..] else {
        panic!("{others:?}");
    };
    assert_eq!(
        scene.own().both(),
        [[got("/slow"), got("/last")].concat(), was_ok("slow")]
    );
    let both = [
        [got("/fast"), got("/next")].concat(),
        [was_ok("fast"), was_ok("next")].concat(),
    ];
    assert_eq!(lane.both(), both);
    assert_eq!(lane.kind(), Some(PartKind::Lane(2)));
    let own = &scene.own().info;
    assert_eq!(lane.info.http1.unwrap().session, own.id);
    assert_ne!(lane.info.id, own.id);
    assert_eq!(lane.info.tuple.server, own.tuple.server);
    assert_eq!(lane.info.tuple.client.ip(), own.tuple.client.ip());
    assert!((61_000..=65_535).contains(&lane.info.tuple.client.port()));
    assert_eq!(scene.stats().lanes, 1);
    scene.finish(Side::Client);
    scene.finish(Side::Server);
    let ends: Vec<_> = scene.flows.0.values().map(|told| told.end).collect();
    assert_eq!(ends, [End::Finished(Side::Client); 2]);
}

#[test]
fn order_within_a_lane_is_the_order_of_the_session() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/1")]);
    scene.server(&[ok(1, "1")]);
    scene.client(&[get(3, "/3")]);
    let order = scene.own().order.lines();
    let order: Vec<_> = order
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>())
        .collect();
    assert_eq!(
        order,
        [["C", "GET"], ["S", "HTTP/1.1"], ["S", "1"], ["C", "GET"]]
    );
}

#[test]
fn an_early_answer_keeps_its_lane_until_the_request_ends() {
    let mut scene = Scene::new();
    let post = ":method: POST\n:scheme: https\n:authority: a.example\n:path: /";
    scene.client(&[headers(1, false, post)]);
    scene.server(&[ok(1, "early")]);
    scene.client(&[get(3, "/")]);
    scene.client(&[data(1, true, b"x")]);
    scene.client(&[get(5, "/")]);
    assert_eq!(scene.others().len(), 1);
    assert_eq!(scene.others()[0].text(Side::Client), got("/"));
    let asked = scene.own().text(Side::Client);
    assert!(asked.ends_with(&format!("1\r\nx\r\n0\r\n\r\n{}", got("/"))));
}

#[test]
fn what_is_given_up_ends_its_lane() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/1"), get(3, "/3")]);
    scene.server(&[headers(1, false, ":status: 200"), data(1, false, b"some")]);
    scene.client(&[reset(1)]);
    assert_eq!(scene.own().end, End::Reset(Side::Client));
    // It crosses what was still on its way.
    scene.server(&[data(1, false, b"more"), data(1, true, b"")]);
    scene.server(&[headers(3, false, ":status: 200"), reset(3)]);
    assert_eq!(scene.others()[0].end, End::Reset(Side::Server));
    scene.client(&[get(5, "/5")]);
    scene.server(&[ok(5, "5")]);
    assert_eq!(scene.others()[1].both(), [got("/5"), was_ok("5")]);
    // What is over can't be given up any more.
    scene.client(&[reset(5)]);
    scene.client(&[get(7, "/7")]);
    assert_eq!(scene.others().len(), 2);
    let stats = scene.stats();
    assert_eq!((stats.aborted, stats.late_bytes), (2, 4));
    assert_eq!(stats.stopped, [0; Stop::ALL.len()]);
}

#[test]
fn what_is_not_heard_any_more_ends_its_lane() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/1"), get(3, "/3"), get(5, "/5")]);
    scene.server(&[frame(7, 0, 0, &[0, 0, 0, 3, 0, 0, 0, 0])]);
    scene.server(&[ok(3, "3"), ok(1, "1")]);
    let ends: Vec<_> = scene.others().iter().map(|told| told.end).collect();
    assert_eq!(ends, [End::Open, End::Reset(Side::Server)]);
    assert_eq!(scene.own().both(), [got("/1"), was_ok("1")]);
}

#[test]
fn what_is_pushed_is_marked() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/")]);
    let promise = block(":method: GET\n:scheme: https\n:authority: a.example\n:path: /style");
    let promise = [&[0, 0, 0, 2], &promise[..]].concat();
    scene.server(&[frame(5, END_HEADERS, 1, &promise), ok(1, "x"), ok(2, "y")]);
    let others = scene.others();
    assert_eq!(others[0].kind(), Some(PartKind::Push(2)));
    assert_eq!(others[0].both(), [got("/style"), was_ok("y")]);
    assert_eq!(others[0].end, End::Finished(Side::Client));
    assert_eq!(scene.own().both(), [got("/"), was_ok("x")]);
    assert_eq!((scene.stats().requests, scene.stats().pushed), (1, 1));
}

#[test]
fn a_real_connection_takes_a_lanes_port() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/1"), get(3, "/3")]);
    scene.server(&[ok(3, "3")]);
    let taken = scene.others()[0].info.tuple;
    let mut real = scene.own().info.clone();
    (real.tuple, real.alpn, real.http1) = (taken, Some("http/1.1".into()), None);
    // The sink sees to it that the lane has ended before.
    scene.event(9, FlowChange::Begin(&real));
    scene.client(&[get(5, "/5")]);
    let others: Vec<_> = scene.flows.0.iter().collect();
    let lane = others
        .iter()
        .filter(|(_, told)| told.kind() == Some(PartKind::Lane(2)));
    assert!(
        lane.clone()
            .all(|(_, told)| told.end == End::Finished(Side::Client))
    );
    let lane = others
        .iter()
        .find(|(_, told)| told.kind() == Some(PartKind::Lane(3)));
    assert_ne!(lane.unwrap().1.info.tuple, taken);
    // One that is busy can't go on elsewhere: the session goes on as it is.
    let taken = lane.unwrap().1.info.tuple;
    real.tuple = taken;
    scene.event(11, FlowChange::Begin(&real));
    assert_eq!(scene.stats().stopped[Stop::Ports as usize], 1);
    scene.server(&[ok(5, "5")]);
    assert_eq!(scene.raw().said[1], ok(5, "5"));
}

#[test]
fn ports_in_use_are_nobodys_lanes() {
    let mut scene = Scene::new();
    let mut info = scene.own().info.clone();
    (info.alpn, info.http1) = (Some("http/1.1".into()), None);
    for port in 61_000..=65_535 {
        info.tuple = with_port(port);
        scene.event(u64::from(port), FlowChange::Begin(&info));
    }
    scene.client(&[get(1, "/"), get(3, "/3")]);
    let lane = scene
        .flows
        .0
        .values()
        .find(|told| told.kind() == Some(PartKind::Lane(2)));
    // Beyond the range there may be some.
    assert!(lane.is_none_or(|told| !(61_000..=65_535).contains(&told.info.tuple.client.port())));
}

#[test]
fn nobody_asks_behind_its_end() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/")]);
    scene.finish(Side::Client);
    let promise = [
        &[0, 0, 0, 2],
        &block(":method: GET\n:scheme: https\n:path: /x")[..],
    ]
    .concat();
    scene.server(&[frame(5, END_HEADERS, 1, &promise), ok(1, "x")]);
    assert_eq!(scene.raw().text(Side::Client), "");
    assert_eq!(scene.raw().end, End::Half(Side::Client));
    assert_eq!(scene.stats().stopped[Stop::Frames as usize], 1);
}

/// The frames of a stream whose lane has ended concern no other's.
#[test]
fn a_lane_that_has_ended_names_no_other() {
    let mut scene = Scene::new();
    scene.client(&[
        headers(1, false, ":method: CONNECT\n:authority: b.example:22"),
        get(3, "/3"),
    ]);
    scene.server(&[headers(1, false, ":status: 200")]);
    scene.finish(Side::Client);
    scene.server(&[data(1, true, b"bye")]);
    assert_eq!(scene.own().end, End::Finished(Side::Client));
    scene.server(&[reset(1), ok(3, "3")]);
    assert_eq!(scene.others()[0].text(Side::Server), was_ok("3"));
    assert_eq!(scene.others()[0].end, End::Half(Side::Client));
}

/// Frames as they are go on elsewhere, too.
#[test]
fn a_real_connection_takes_a_raw_flows_port() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/1"), frame(1, END_HEADERS, 3, &[0x80])]);
    let taken = scene.raw().info.tuple;
    let mut real = scene.own().info.clone();
    (real.tuple, real.alpn, real.http1) = (taken, Some("http/1.1".into()), None);
    scene.event(9, FlowChange::Begin(&real));
    let begin = scene.position(Side::Client);
    scene.client(&[b"more".to_vec()]);
    let others = scene.others();
    let last = others
        .iter()
        .find(|told| told.text_is(b"more"))
        .expect("another raw flow");
    assert_ne!(last.info.tuple, taken);
    let kind = last.kind();
    assert!(
        matches!(kind, Some(PartKind::Raw { client, why: Stop::Ports, .. }) if client == begin)
    );
}

/// A client on the loopback of a host that isn't the server's can't be: no further flow has its address.
#[test]
fn what_no_flow_has_room_for_is_counted() {
    let mut info = testing::info("127.0.0.1:50000", "198.51.100.1:443");
    info.alpn = Some("h2".into());
    let mut scene = Scene::with(&info);
    scene.client(&[PREFACE.to_vec(), frame(4, 0, 0, b""), get(1, "/1")]);
    assert_eq!(scene.own().text(Side::Client), got("/1"));
    scene.client(&[get(3, "/3")]);
    scene.server(&[ok(1, "1")]);
    assert_eq!(scene.stats().stopped[Stop::Ports as usize], 1);
    assert_eq!(scene.own().end, End::Reset(Side::Client));
    assert!(scene.others().is_empty());
    let bytes = get(3, "/3").len() + ok(1, "1").len();
    assert_eq!(scene.stats().unshown_bytes, bytes as u64);
}
