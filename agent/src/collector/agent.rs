//! An agent as the collector knows it, whichever way its events come.

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use mirror_hook::event::Role;
use mirror_hook::filter::Network;

use crate::event::{Binding, FlowInfo};

/// An agent: a host that was let in. One for each name, shared by all that work for it.
#[derive(Debug)]
pub struct Agent {
    number: u64,
    name: Arc<str>,
    /// Addresses that its flows' mirrored ends may have; `None`: any.
    networks: RwLock<Option<Vec<Network>>>,
    /// What came of it.
    pub counts: AgentCounts,
}

/// Counts of one agent, by all that work for it. They are read for reports only, so `Relaxed` is enough.
#[derive(Debug, Default)]
pub struct AgentCounts {
    /// Bytes of events that were taken from it.
    pub event_bytes: AtomicU64,
    /// Clear text bytes that were passed on.
    pub clear_bytes: AtomicU64,
    /// Flows that have begun.
    pub flows: AtomicU64,
    /// Flows that are live.
    pub live_flows: AtomicI64,
    /// Clear text bytes that are missing in what came: declared holes and gaps.
    pub missing_bytes: AtomicU64,
    /// Flows that were refused: their mirrored end isn't the agent's, or they are too many.
    pub refused_flows: AtomicU64,
    /// Bytes that weren't passed on: of refused flows, of flows that nobody knows, or a second time.
    pub dropped_bytes: AtomicU64,
    /// Microseconds in which nothing was read of it since its quota was used up.
    pub held_back_us: AtomicU64,
    /// Clock of the agent's host minus ours in nanoseconds, as measured last.
    pub clock_difference_ns: AtomicI64,
}

impl AgentCounts {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        // A hole can be said to be as large as numbers are; the counter shall not come round for that.
        counter.fetch_add(count.min(1 << 48), Ordering::Relaxed);
    }
}

impl Agent {
    /// `number`: no other agent's.
    pub fn new(number: u64, name: &str, networks: Option<Vec<Network>>) -> Self {
        Self {
            number,
            name: name.into(),
            networks: RwLock::new(networks),
            counts: AgentCounts::default(),
        }
    }

    /// No other agent's.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// As the operator knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same, for what outlives it.
    pub fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// From here on new flows must lie in these.
    pub fn set_networks(&self, networks: Option<Vec<Network>>) {
        if let Ok(mut current) = self.networks.write() {
            *current = networks;
        }
    }

    /// Whether it may tell of this flow: the mirrored end must be one of its own addresses. Those that name no
    /// host, loopback and the placeholders of sessions without addresses, are everybody's.
    pub fn may_tell(&self, info: &FlowInfo) -> bool {
        let (client, server) = (info.tuple.client.ip(), info.tuple.server.ip());
        if info.binding == Binding::Placeholder
            && is_documentation(client)
            && is_documentation(server)
        {
            return true;
        }
        let own = match info.role {
            Role::Client => client,
            Role::Server => server,
        };
        let own = own.to_canonical();
        let networks = self.networks.read();
        own.is_loopback()
            || networks.is_ok_and(|networks| match &*networks {
                None => true,
                Some(networks) => networks.iter().any(|network| network.contains(own)),
            })
    }
}

/// RFC 5737: where [`placeholder`](crate::flow::placeholder()) takes its addresses from.
fn is_documentation(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_documentation(),
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::batch::tests::info;

    #[test]
    fn only_the_mirrored_end_has_to_be_its_own() {
        let agent = |texts: &[&str]| {
            let networks = texts
                .iter()
                .map(|text| crate::filter::network(text).unwrap())
                .collect();
            Agent::new(1, "a", Some(networks))
        };
        let mut flow = info(1);
        assert!(agent(&["10.0.0.2/32"]).may_tell(&flow));
        assert!(!agent(&["10.0.0.1/32", "fd00::/8"]).may_tell(&flow));
        flow.role = Role::Client;
        assert!(agent(&["10.0.0.1"]).may_tell(&flow));
        assert!(!agent(&[]).may_tell(&flow));
        flow.tuple.client = "[::ffff:10.0.0.1]:4".parse().unwrap();
        assert!(agent(&["10.0.0.1"]).may_tell(&flow));
        flow.tuple.client = "127.0.0.7:4".parse().unwrap();
        assert!(agent(&[]).may_tell(&flow));
        flow.tuple.client = "192.0.2.7:4".parse().unwrap();
        flow.tuple.server = "198.51.100.1:443".parse().unwrap();
        assert!(!agent(&[]).may_tell(&flow));
        flow.binding = Binding::Placeholder;
        assert!(agent(&[]).may_tell(&flow));
    }
}
