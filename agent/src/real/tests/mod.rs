//! Sessions behind proxies, from their events to the flows that come out.

mod clients;
mod headers;
mod messages;
mod streams;
mod unknown;

use std::collections::BTreeMap;

use super::*;
use crate::event::{
    Binding, FlowChange, FlowEvent, FlowInfo, FlowSink, ResetCause, Side, WallTime,
};
use crate::forge::testing;

use Side::{Client, Server};

/// Keeps what comes out, and refuses what no flow may do.
#[derive(Debug, Default)]
struct Seen {
    flows: BTreeMap<u64, Told>,
    order: Vec<u64>,
}

#[derive(Debug)]
struct Told {
    info: FlowInfo,
    said: [Vec<u8>; 2],
    holes: [u64; 2],
    finished: [bool; 2],
    began: WallTime,
    last: WallTime,
}

impl FlowSink for Seen {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        if let FlowChange::Begin(info) = event.change {
            let told = Told {
                info: info.clone(),
                said: [Vec::new(), Vec::new()],
                holes: [0; 2],
                finished: [false; 2],
                began: event.at,
                last: event.at,
            };
            assert!(self.flows.insert(event.flow, told).is_none(), "begun twice");
            self.order.push(event.flow);
            return;
        }
        let told = self.flows.get_mut(&event.flow).expect("begun before");
        assert!(event.at >= told.last, "time goes back");
        assert!(told.finished != [true; 2], "after the end: {event:?}");
        told.last = event.at;
        let place = |told: &Told, from: Side| {
            told.said[from as usize].len() as u64 + told.holes[from as usize]
        };
        match event.change {
            FlowChange::Data {
                from,
                offset,
                bytes,
            } => {
                assert!(!told.finished[from as usize]);
                assert!((1..=16_384).contains(&bytes.len()));
                assert_eq!(offset, place(told, from));
                told.said[from as usize].extend_from_slice(bytes);
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => {
                assert!(!told.finished[from as usize] && bytes > 0);
                assert_eq!(offset, place(told, from));
                told.holes[from as usize] += bytes;
            }
            FlowChange::Finish { from } => {
                assert!(!std::mem::replace(&mut told.finished[from as usize], true));
            }
            FlowChange::Reset { .. } => told.finished = [true; 2],
            FlowChange::Begin(_) => {}
        }
    }
}

impl Seen {
    /// Each flow in the order in which they began: client's address, what it and the server said.
    fn all(&self) -> Vec<(String, String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let told = self.order.iter().map(|flow| &self.flows[flow]);
        told.map(|told| {
            let client = told.info.tuple.client.to_string();
            (client, text(&told.said[0]), text(&told.said[1]))
        })
        .collect()
    }

    fn are_over(&self) -> bool {
        let mut flows = self.flows.values();
        flows.all(|told| told.finished == [true; 2])
    }

    /// The clients' addresses alone.
    fn clients(&self) -> Vec<String> {
        self.all().into_iter().map(|(client, ..)| client).collect()
    }
}

/// A stage with one session of a proxy at 10.0.0.1.
struct Stage {
    clients: RealClients,
    seen: Seen,
    at: u64,
    said: [u64; 2],
}

fn policy(way: Way) -> Policy {
    Policy {
        way,
        trusted: vec![crate::filter::network("10.0.0.0/8").unwrap()],
    }
}

fn proxied() -> FlowInfo {
    testing::info("10.0.0.1:40000", "192.0.2.80:443")
}

impl Stage {
    fn new(way: Way) -> Self {
        Self::with(way, &proxied())
    }

    fn with(way: Way, info: &FlowInfo) -> Self {
        let mut stage = Self {
            clients: RealClients::new(policy(way)),
            seen: Seen::default(),
            at: 1_000,
            said: [0; 2],
        };
        stage.event(1, FlowChange::Begin(info));
        stage
    }

    fn event(&mut self, flow: u64, change: FlowChange<'_>) {
        self.at += 1;
        let at = WallTime(self.at);
        let event = FlowEvent { flow, at, change };
        self.clients.flow_event(event, &mut self.seen);
    }

    fn says(&mut self, from: Side, bytes: &[u8]) {
        let offset = self.said[from as usize];
        self.said[from as usize] += bytes.len() as u64;
        self.event(
            1,
            FlowChange::Data {
                from,
                offset,
                bytes,
            },
        );
    }

    fn lacks(&mut self, from: Side, bytes: u64) {
        let offset = self.said[from as usize];
        self.said[from as usize] += bytes;
        self.event(
            1,
            FlowChange::Hole {
                from,
                offset,
                bytes,
            },
        );
    }

    fn asks(&mut self, client: &str, path: &str) -> String {
        let text = ask(client, path);
        self.says(Client, text.as_bytes());
        text
    }

    fn end(&mut self) {
        self.event(1, FlowChange::Finish { from: Client });
        self.event(1, FlowChange::Finish { from: Server });
        assert!(self.seen.are_over());
        assert_eq!(self.clients.oldest_held(), None);
    }

    fn stopped(&self, why: Stop) -> u64 {
        self.clients.stats().stopped[why as usize]
    }
}

fn ask(client: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n")
}

fn answer(text: &str) -> String {
    let length = text.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}")
}

fn flow(client: &str, asked: &str, answered: &str) -> (String, String, String) {
    (client.into(), asked.into(), answered.into())
}
