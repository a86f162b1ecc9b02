//! Initial sequence numbers.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher24;

use super::recent::Recent;
use crate::event::{FlowId, Side};
use crate::wire::SeqNumber;

/// Snort's rules take a SYN with this number for the tool "shaft".
const SHAFT: SeqNumber = SeqNumber(674_711_609);

/// The secret behind the initial sequence numbers: who has it can forge the same conversation again.
#[derive(Clone, Copy)]
pub struct SequenceKey([u8; 16]);

impl std::fmt::Debug for SequenceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SequenceKey(..)")
    }
}

impl SequenceKey {
    /// A key of 16 random bytes; agents that share it forge a flow alike.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The initial sequence number of a side of a flow: SipHash-2-4 of id, side and `attempt`, which
    /// tells the numbers of one flow apart when it needs several.
    pub fn initial_sequence(&self, flow: FlowId, side: Side, attempt: u32) -> SeqNumber {
        let mut hasher = SipHasher24::new_with_key(&self.0);
        hasher.write(&flow.0);
        hasher.write(&[match side {
            Side::Client => 0,
            Side::Server => 1,
        }]);
        hasher.write(&attempt.to_le_bytes());
        SeqNumber(0).advance(hasher.finish())
    }
}

/// One end as packets name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    pub(super) port: u16,
}

impl Endpoint {
    pub(super) fn socket(self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// Remembers which initial sequence numbers were used last between two endpoints: a reader takes a second SYN
/// with the same number for a repetition of the first and misses the conversation behind it.
#[derive(Debug, Default)]
pub(super) struct RecentSequences(Recent<(Endpoint, Endpoint), SeqNumber>);

impl RecentSequences {
    /// Chooses the number of a side that speaks from `from` to `to`.
    pub(super) fn choose(
        &mut self,
        key: &SequenceKey,
        flow: FlowId,
        side: Side,
        from: Endpoint,
        to: Endpoint,
    ) -> SeqNumber {
        let way = (from, to);
        let last = self.0.get(&way);
        let chosen = (0..)
            .map(|attempt| key.initial_sequence(flow, side, attempt))
            .find(|number| *number != SeqNumber(0) && *number != SHAFT && Some(*number) != last)
            .expect("three numbers are excluded, and the attempts differ");
        self.0.insert(way, chosen);
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SequenceKey = SequenceKey([7; 16]);

    fn endpoint(port: u16) -> Endpoint {
        Endpoint {
            address: IpAddr::from([192, 0, 2, 1]),
            port,
        }
    }

    #[test]
    fn depends_on_key_flow_and_side_only() {
        let number =
            |key: SequenceKey, flow, side| key.initial_sequence(FlowId([flow; 16]), side, 0);
        let first = number(KEY, 1, Side::Client);
        assert_eq!(first, number(KEY, 1, Side::Client));
        assert_ne!(first, number(KEY, 1, Side::Server));
        assert_ne!(first, number(KEY, 2, Side::Client));
        assert_ne!(first, number(SequenceKey([8; 16]), 1, Side::Client));
    }

    #[test]
    fn the_same_flow_again_gets_another_number() {
        let mut recent = RecentSequences::default();
        let mut choose = |port| {
            recent.choose(
                &KEY,
                FlowId([1; 16]),
                Side::Client,
                endpoint(port),
                endpoint(443),
            )
        };
        let first = choose(1000);
        assert_eq!(
            first,
            KEY.initial_sequence(FlowId([1; 16]), Side::Client, 0)
        );
        let second = choose(1000);
        assert_ne!(first, second);
        assert_ne!(second, choose(1000));
        assert_eq!(
            first,
            choose(1001),
            "another tuple starts at the first number"
        );
    }

    #[test]
    fn many_others_do_not_make_it_forget() {
        let mut recent = RecentSequences::default();
        let id = FlowId([1; 16]);
        let first = recent.choose(&KEY, id, Side::Client, endpoint(1), endpoint(2));
        for port in 0..20_000 {
            recent.choose(&KEY, id, Side::Client, endpoint(port), endpoint(3));
        }
        assert_ne!(
            first,
            recent.choose(&KEY, id, Side::Client, endpoint(1), endpoint(2))
        );
    }
}
