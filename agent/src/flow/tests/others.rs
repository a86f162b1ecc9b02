//! Several connections with a session's handshake, of which some are other users'.

use super::*;
use crate::flow::proof::{Answer, Ends, LiveSocket, Sockets};

/// Another user has these connections, and the sessions' own is alive, too.
#[derive(Debug)]
struct Others(Vec<Tuple>);

impl Sockets for Others {
    fn find(&mut self, ends: &Ends, network: u64, process: &ProcessInfo) -> Answer {
        assert_eq!(network, 0);
        let are = |tuple: &Tuple| [Role::Client, Role::Server].map(|role| Ends::of(*tuple, role));
        let is_others = self.0.iter().any(|tuple| are(tuple).contains(ends));
        Answer::Live(LiveSocket {
            cookie: 5,
            uid: process.uid + u32::from(is_others),
            inode: 9,
            at_home: true,
        })
    }

    fn holds(&mut self, _: &ProcessInfo, _: u64) -> Option<bool> {
        Some(false)
    }
}

fn bench(others: &[Tuple]) -> Bench {
    let mut bench = Bench::capturing();
    let clock = Clock::new(MonotonicTime(0), WallTime(EPOCH));
    let mapper = Mapper::new(bench.mapper.config.clone(), clock);
    bench.mapper = mapper.asking(Box::new(Others(others.to_vec())));
    bench
}

/// A proxy of another user passes on what it says, unread: both connections have its handshake, and one is its own.
#[test]
fn what_a_proxy_passes_on_is_found_on_ones_own_connection() {
    let (own, proxys, further) = (tuple(1), tuple(2), tuple(3));
    let bound = |others: &[Tuple], shown: &[Tuple], opened: usize, role| {
        let mut bench = bench(others);
        for (number, tuple) in shown.iter().enumerate() {
            if number == opened {
                bench.open(1, 1, done(1, role));
            }
            bench.wire(1, *tuple);
        }
        if opened == shown.len() {
            bench.open(1, 1, done(1, role));
        }
        bench.at(500);
        let info = &bench.checker.only().info;
        (info.tuple, info.binding, info.proof)
    };
    for role in [Role::Client, Role::Server] {
        for opened in 0..=2 {
            // As soon as it is seen it isn't doubted any more.
            let found = bound(&[proxys], &[proxys, own], opened, role);
            assert_eq!(found, (own, Binding::Wire, None), "{opened}");
        }
        let found = bound(&[proxys], &[own, proxys], 2, role);
        assert_eq!(found, (own, Binding::Wire, None));
        let found = bound(&[proxys], &[proxys, own, further], 3, role);
        assert_eq!(found, (own, Binding::WireAmbiguous, None));
        let (_, binding, proof) = bound(&[own, proxys], &[proxys, own], 2, role);
        assert_eq!(binding, Binding::Placeholder);
        assert_eq!(proof, Some(crate::event::Proof::Contradicted));
    }
}
