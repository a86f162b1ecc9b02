//! Benchmarks: A against B, interleaved in one run, so that a noisy machine treats both alike.
//!
//! Each is a binary in `src/bin`, started by `make bench-NAME`; its last line is `FIGURES {json}`.

pub mod caller;
pub mod figures;
pub mod reader;
pub mod rounds;
pub mod wrk;

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::event::{Binding, FlowId, FlowInfo, ProcessInfo, Tuple};
use mirror_hook::event::{Announcement, EarlyData, Role, Transport};

/// Rounds of a comparison: enough for a median that one hiccup doesn't move.
const ROUNDS: usize = 15;

/// Two ways of doing the same work, timed in turns.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Median time of one round of A.
    pub a: Duration,
    /// Median time of one round of B.
    pub b: Duration,
    /// Median of the rounds' ratios A / B: what to quote, since both halves of a round met the same
    /// machine.
    pub ratio: f64,
}

/// Times `a` and `b` in turns, after one round of each that isn't counted.
pub fn compare(mut a: impl FnMut(), mut b: impl FnMut()) -> Comparison {
    a();
    b();
    let mut rounds: Vec<(Duration, Duration)> = (0..ROUNDS)
        .map(|_| (timed(&mut a), timed(&mut b)))
        .collect();
    let mut ratios: Vec<f64> = rounds
        .iter()
        .map(|(a, b)| a.as_secs_f64() / b.as_secs_f64())
        .collect();
    ratios.sort_by(f64::total_cmp);
    rounds.sort_by_key(|round| round.0);
    let median_a = rounds[ROUNDS / 2].0;
    rounds.sort_by_key(|round| round.1);
    Comparison {
        a: median_a,
        b: rounds[ROUNDS / 2].1,
        ratio: ratios[ROUNDS / 2],
    }
}

fn timed(work: &mut impl FnMut()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// A plain flow of IPv4 whose server is mirrored.
pub fn flow_info() -> FlowInfo {
    FlowInfo {
        id: FlowId([7; 16]),
        tuple: Tuple {
            client: ([192, 0, 2, 1], 40_000).into(),
            server: ([198, 51, 100, 1], 443).into(),
        },
        binding: Binding::Socket,
        proof: None,
        process: Arc::new(ProcessInfo {
            pid: 1,
            uid: 0,
            name: "bench".to_owned(),
            ..ProcessInfo::default()
        }),
        role: Role::Server,
        announcement: Announcement::New,
        transport: Transport::Tcp,
        sni: None,
        alpn: None,
        tls_version: Some(0x0304),
        cipher: Some(0x1302),
        resumed: false,
        early: EarlyData::None,
        clear_prefix: None,
        continued: None,
        ja4: None,
        agent: None,
        real_client: None,
        left_out: None,
        http1: None,
    }
}
