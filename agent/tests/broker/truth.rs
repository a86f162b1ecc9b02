//! What is said, and whether it was put out.

use std::collections::HashMap;

use agent::event::{Binding, FlowId, FlowInfo, ProcessInfo, Side, Tuple};
use mirror_hook::event::{Announcement, EarlyData, Role, Transport};

/// Flows of a phase; more than there are partitions.
pub(crate) const FLOWS: u8 = 80;
/// Bytes that each side says in a round.
pub(crate) const ROUND_BYTES: u64 = 2048;
const BLOCK_BYTES: u64 = 32;

/// Flows that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Phase(u8);

impl Phase {
    pub(crate) fn new(number: u8) -> Self {
        Self(number)
    }

    /// A flow's number at its agent.
    pub(crate) fn flow(self, flow: u8) -> u64 {
        u64::from(self.0) * 1000 + u64::from(flow)
    }

    pub(crate) fn has(self, id: FlowId) -> bool {
        id.0[15] == self.0
    }

    pub(crate) fn id(self, flow: u8) -> FlowId {
        let mut id = [0; 16];
        id[0] = flow;
        id[15] = self.0;
        FlowId(id)
    }
}

/// What a side of a flow says at an offset, which is a multiple of the block.
pub(crate) fn text(id: FlowId, from: Side, offset: u64, bytes: u64) -> Vec<u8> {
    let block = |block: u64| {
        let side = if from == Side::Client { 'c' } else { 's' };
        format!(
            "needle {:02x}{:02x}{side} {:018x}\n",
            id.0[0],
            id.0[15],
            block * BLOCK_BYTES
        )
    };
    let first = offset / BLOCK_BYTES;
    let blocks = (first..(offset + bytes).div_ceil(BLOCK_BYTES)).map(block);
    let text = blocks.collect::<String>().into_bytes();
    let skipped = usize::try_from(offset - first * BLOCK_BYTES).unwrap();
    text[skipped..][..usize::try_from(bytes).unwrap()].to_vec()
}

pub(crate) fn info(id: FlowId) -> FlowInfo {
    FlowInfo {
        id,
        tuple: Tuple {
            client: format!("10.0.{}.{}:40000", id.0[15], id.0[0])
                .parse()
                .unwrap(),
            server: "10.1.0.1:443".parse().unwrap(),
        },
        binding: Binding::Socket,
        proof: None,
        process: std::sync::Arc::new(ProcessInfo {
            pid: 7,
            uid: 33,
            name: "nginx".into(),
            ..ProcessInfo::default()
        }),
        role: Role::Server,
        announcement: Announcement::New,
        transport: Transport::Tcp,
        sni: Some("needle.example".into()),
        alpn: None,
        tls_version: Some(0x0304),
        cipher: Some(0x1301),
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

/// What collectors have put out, from their files.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// What is known of each byte, by flow's id and side.
    covered: HashMap<(FlowId, Side), Vec<Known>>,
    finished: HashMap<(FlowId, Side), u64>,
    /// Flows that began in the middle.
    pub(crate) continued: u64,
    /// Bytes that came more than once.
    pub(crate) repeated: u64,
    /// Bytes in all.
    pub(crate) bytes: u64,
}

/// What collectors have told of a byte; the latter counts, whichever came first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    #[default]
    Nothing,
    /// It lies in a hole.
    Missing,
    Told,
}

impl Told {
    /// Reads on, in a file of its own: flow numbers are its own.
    ///
    /// # Panics
    /// If a rule is broken: another byte, an offset twice or left out within a flow.
    pub(crate) fn read(&mut self, file: &str, wanted: impl Fn(FlowId) -> bool) {
        struct Live {
            id: FlowId,
            base: [u64; 2],
            next: [u64; 2],
        }
        let mut live: HashMap<u64, Live> = HashMap::new();
        // A killed writer leaves half a line.
        let whole = file.rfind('\n').map_or("", |end| &file[..end]);
        for line in whole.lines() {
            let words: Vec<_> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            let flow = number(1);
            if words[0] == "B" {
                let id = FlowId(u128::from_str_radix(words[2], 16).unwrap().to_be_bytes());
                let base = [number(3), number(4)];
                self.continued += u64::from(wanted(id) && base != [0, 0]);
                let begun = Live {
                    id,
                    base,
                    next: [0; 2],
                };
                assert!(live.insert(flow, begun).is_none(), "{flow} begins twice");
                continue;
            }
            let flow = live.get_mut(&flow).expect("it has begun");
            if words[0] == "R" || !wanted(flow.id) {
                continue;
            }
            let (side, at) = match words[2] {
                "c" => (Side::Client, 0),
                _ => (Side::Server, 1),
            };
            let key = (flow.id, side);
            if words[0] == "F" {
                *self.finished.entry(key).or_default() += 1;
                continue;
            }
            let (offset, bytes) = (number(3), number(4));
            assert_eq!(flow.next[at], offset, "within one flow: {line}");
            flow.next[at] += bytes;
            let known = match words[0] {
                "H" => Known::Missing,
                _ => Known::Told,
            };
            assert!(known != Known::Told || words[5] == "right", "{line}");
            self.cover(key, flow.base[at] + offset, bytes, known);
        }
    }

    fn cover(&mut self, key: (FlowId, Side), offset: u64, bytes: u64, known: Known) {
        let covered = self.covered.entry(key).or_default();
        let (from, to) = (
            usize::try_from(offset).unwrap(),
            usize::try_from(offset + bytes).unwrap(),
        );
        if covered.len() < to {
            covered.resize(to, Known::Nothing);
        }
        let again = known == Known::Told;
        for byte in &mut covered[from..to] {
            self.repeated += u64::from(again && *byte == Known::Told);
            *byte = known.max(*byte);
        }
        self.bytes += if again { bytes } else { 0 };
    }

    /// Bytes of which nothing came but that they are missing.
    pub(crate) fn holes(&self) -> u64 {
        let all = self.covered.values().flatten();
        all.filter(|known| **known == Known::Missing).count() as u64
    }

    /// As [`Told::missing`]; what lies in a hole isn't.
    pub(crate) fn missing_beyond_holes(&self, phase: Phase, rounds: u64) -> Option<String> {
        self.lacks(phase, rounds, Known::Missing)
    }

    /// What is missing of a phase with so many rounds.
    pub(crate) fn missing(&self, phase: Phase, rounds: u64) -> Option<String> {
        self.lacks(phase, rounds, Known::Told)
    }

    /// Of which byte less than this is known.
    fn lacks(&self, phase: Phase, rounds: u64, enough: Known) -> Option<String> {
        for flow in 0..FLOWS {
            for side in [Side::Client, Side::Server] {
                let key = (phase.id(flow), side);
                let covered = self.covered.get(&key).map_or(&[][..], |covered| covered);
                let known = covered.iter().filter(|known| **known >= enough).count() as u64;
                let all = rounds * ROUND_BYTES;
                if known != all || covered.len() as u64 != all {
                    let of = covered.len();
                    return Some(format!(
                        "bytes of {key:?}: {known} are there, up to {of}, of {all}"
                    ));
                }
                if !self.finished.contains_key(&key) {
                    return Some(format!("the end of {key:?}"));
                }
            }
        }
        None
    }
}
