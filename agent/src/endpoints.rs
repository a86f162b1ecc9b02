//! Which addresses live flows have, so that a port that is made up is nobody's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::event::{FlowChange, FlowEvent, ToldAddress, Tuple};

/// Below it are ports of services.
const FIRST_PORT: u16 = 1024;
/// How many ports are tried.
const ATTEMPTS: usize = 4096;

/// Addresses in use, with the number of flows that have them. Clones share them: flows of all workers come out at one
/// place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoints {
    used: Arc<Mutex<HashMap<Tuple, u32>>>,
}

impl Endpoints {
    /// A flow with these begins.
    pub(crate) fn take(&self, tuple: Tuple) {
        *self.used().entry(tuple.in_one_family()).or_default() += 1;
    }

    /// It has ended.
    pub(crate) fn give_back(&self, tuple: Tuple) {
        if let Entry::Occupied(mut count) = self.used().entry(tuple.in_one_family()) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Takes the addresses of a flow of `client` by the way of `proxy`, which no other has: with the client's port where that is
    /// known, else with the proxy's, or one behind these. Nothing: there are none, or they would say what can't be, a client on this
    /// host's loopback whose server isn't.
    pub(crate) fn derive(&self, proxy: Tuple, client: ToldAddress) -> Option<Tuple> {
        if client.ip.is_loopback() && !proxy.server.ip().to_canonical().is_loopback() {
            return None;
        }
        let port = client.port.unwrap_or(proxy.client.port());
        let mut tuple = Tuple {
            client: SocketAddr::new(client.ip, port),
            server: proxy.server,
        }
        .in_one_family();
        let mut used = self.used();
        for _ in 0..ATTEMPTS {
            if tuple.client != tuple.server && !used.contains_key(&tuple) {
                used.insert(tuple, 1);
                return Some(tuple);
            }
            let next = tuple.client.port().checked_add(1).unwrap_or(FIRST_PORT);
            tuple.client.set_port(next.max(FIRST_PORT));
        }
        None
    }

    fn used(&self) -> MutexGuard<'_, HashMap<Tuple, u32>> {
        // Whole between two statements.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Flows that pass as they are: their addresses are in use until they end.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    flows: HashMap<u64, PassingFlow>,
}

#[derive(Debug)]
struct PassingFlow {
    tuple: Tuple,
    finished: [bool; 2],
}

impl Passing {
    /// One begins.
    pub(crate) fn begin(&mut self, flow: u64, tuple: Tuple, endpoints: &Endpoints) {
        endpoints.take(tuple);
        let finished = [false; 2];
        self.flows.insert(flow, PassingFlow { tuple, finished });
    }

    /// It is one of them.
    pub(crate) fn contains(&self, flow: u64) -> bool {
        self.flows.contains_key(&flow)
    }

    /// Forgets the addresses of what ends.
    pub(crate) fn pass(&mut self, event: FlowEvent<'_>, endpoints: &Endpoints) {
        let Some(passing) = self.flows.get_mut(&event.flow) else {
            return;
        };
        match event.change {
            FlowChange::Finish { from } => passing.finished[from as usize] = true,
            FlowChange::Reset { .. } => passing.finished = [true; 2],
            _ => return,
        }
        if passing.finished == [true; 2]
            && let Some(passing) = self.flows.remove(&event.flow)
        {
            endpoints.give_back(passing.tuple);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derive(used: &[&str], proxy: (&str, &str), client: (&str, Option<u16>)) -> Option<String> {
        let endpoints = Endpoints::default();
        let server = proxy.1.parse().unwrap();
        for client in used {
            let client = client.parse().unwrap();
            endpoints.take(Tuple { client, server });
        }
        let proxy = Tuple {
            client: proxy.0.parse().unwrap(),
            server,
        };
        let (ip, port) = (client.0.parse().unwrap(), client.1);
        let tuple = endpoints.derive(proxy, ToldAddress { ip, port })?;
        Some(format!("{} {}", tuple.client, tuple.server))
    }

    #[test]
    fn a_port_is_nobody_elses() {
        let proxy = ("10.0.0.1:40000", "10.0.0.2:443");
        let client = |used: &[&str], port| derive(used, proxy, ("203.0.113.7", port)).unwrap();
        assert_eq!(client(&[], None), "203.0.113.7:40000 10.0.0.2:443");
        assert_eq!(client(&[], Some(7)), "203.0.113.7:7 10.0.0.2:443");
        let used = ["203.0.113.7:40000", "203.0.113.7:40001"];
        assert_eq!(client(&used, None), "203.0.113.7:40002 10.0.0.2:443");
        let used = ["203.0.113.7:65535"];
        assert_eq!(client(&used, Some(65535)), "203.0.113.7:1024 10.0.0.2:443");
    }

    #[test]
    fn both_ends_are_of_one_family() {
        let v4 = ("10.0.0.1:40000", "10.0.0.2:443");
        let mixed = derive(&[], v4, ("2001:db8::7", None)).unwrap();
        assert_eq!(mixed, "[2001:db8::7]:40000 [::ffff:10.0.0.2]:443");
        let v6 = ("[2001:db8::1]:40000", "[2001:db8::2]:443");
        let mixed = derive(&[], v6, ("203.0.113.7", None)).unwrap();
        assert_eq!(mixed, "[::ffff:203.0.113.7]:40000 [2001:db8::2]:443");
    }

    #[test]
    fn loopback_is_this_hosts() {
        let proxy = ("10.0.0.1:40000", "10.0.0.2:443");
        assert_eq!(derive(&[], proxy, ("127.0.0.1", None)), None);
        let inside = ("127.0.0.1:40000", "127.0.0.1:443");
        assert!(derive(&[], inside, ("127.0.0.2", None)).is_some());
    }

    #[test]
    fn what_is_given_back_is_free() {
        let tuple = Tuple {
            client: "10.0.0.1:1".parse().unwrap(),
            server: "10.0.0.2:2".parse().unwrap(),
        };
        let endpoints = Endpoints::default();
        endpoints.take(tuple);
        endpoints.take(tuple);
        endpoints.give_back(tuple);
        assert!(endpoints.used().contains_key(&tuple));
        endpoints.give_back(tuple);
        assert!(endpoints.used().is_empty());
    }
}
