//! With TLS around it, and the agent's own sender.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use agent::clock::wall_now;
use agent::event::{FlowChange, FlowEvent, FlowSink, Side};
use agent::filter::network;
use agent::identity::{
    Address, Administration, AgentIdentity, CollectorIdentity, Membership, NewToken, join,
};
use agent::tunnel::frame::{Instance, Message, Reason};
use agent::tunnel::outbox::Outbox;
use agent::tunnel::window::Window;
use agent::tunnel::{Collector, Security, Sender, SenderConfig, SharedWindow};
use mirror_hook::event::Role;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConnection, StreamOwned};

use crate::agent_side::{SmallAgent, connect, hello, info};
use crate::world::{World, wait};

pub(crate) struct Host {
    pub(crate) window: SharedWindow,
    outbox: Outbox,
    sender: Sender,
}

/// Joins a host whose address this is, and connects it.
pub(crate) fn host(world: &World, state: &Path, name: &str, address: &str) -> Host {
    let membership = joined(world, state, name, address);
    Host::connect(world, membership, name.len().try_into().unwrap())
}

/// Joins a host whose address this is.
fn joined(world: &World, state: &Path, name: &str, address: &str) -> Membership {
    let token = Administration::open(state).unwrap().enroll(NewToken {
        addresses: vec![Address::new("127.0.0.1", Some(world.address.port()))],
        name: Some(name.parse().unwrap()),
        replaces: false,
        networks: vec![network(address).unwrap()],
        valid: Duration::from_secs(600),
    });
    world.fleet.reload().unwrap();
    let own = state.join(name);
    let joined = join(&own, &token.unwrap().encode(), false).unwrap();
    assert_eq!(joined.name, name);
    membership(&own)
}

/// As it is on disk.
fn membership(own: &Path) -> Membership {
    let identity = AgentIdentity::load(own).unwrap();
    identity.memberships()[0].clone()
}

impl Host {
    fn connect(world: &World, membership: Membership, instance: u8) -> Self {
        let window = SharedWindow::new(Window::new(16 << 20));
        let config = SenderConfig {
            collectors: vec![Collector {
                address: Address::new("127.0.0.1", Some(world.address.port())),
                security: Security::Tls(Arc::new(membership)),
            }],
            compression: Some(1),
            instance: Instance([instance; 16]),
        };
        Self {
            outbox: Outbox::new(vec![window.clone()]),
            sender: Sender::start(config, window.clone()).unwrap(),
            window,
        }
    }

    pub(crate) fn tell(&mut self, id: u8, role: Role, finished: bool) {
        let info = info(id, role);
        let mut tell = |change| {
            let event = FlowEvent {
                flow: id.into(),
                at: wall_now(),
                change,
            };
            self.outbox.flow_event(event);
        };
        tell(FlowChange::Begin(&info));
        for (from, bytes) in [(Side::Client, &[b'q'; 5000]), (Side::Server, &[b'a'; 5000])] {
            tell(FlowChange::Data {
                from,
                offset: 0,
                bytes,
            });
        }
        if finished {
            tell(FlowChange::Finish { from: Side::Client });
            tell(FlowChange::Finish { from: Side::Server });
        }
        self.outbox.flush();
    }

    pub(crate) fn acknowledged(&self) {
        wait("everything to be acknowledged", || {
            self.window.lock().is_empty()
        });
    }
}

#[test]
fn hosts_join_tell_of_their_own_and_are_thrown_out() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path();
    CollectorIdentity::init(state, &[Address::new("127.0.0.1", None)]).unwrap();
    let world = World::new(
        Some(CollectorIdentity::load(state).unwrap()),
        Duration::from_secs(600),
    );
    let mut client = host(&world, state, "cli", "10.0.0.1");
    let mut server = host(&world, state, "server", "10.0.0.2");
    for id in 1..=3 {
        client.tell(id, Role::Client, true);
        server.tell(id, Role::Server, true);
    }
    // Its mirrored end isn't the client's address.
    client.tell(4, Role::Server, true);
    server.tell(5, Role::Server, false);
    client.acknowledged();
    server.acknowledged();
    let flows = world.seen.flows();
    assert_eq!(flows.len(), 4, "{flows:?}");
    for told in &flows {
        assert_eq!(told.text.each_ref().map(Vec::len), [5000, 5000]);
        assert_eq!(told.missing, 0);
    }
    let reports = world.fleet.workers().report(Duration::from_secs(60));
    assert_eq!(reports[0].inlet.foreign_flows, 1);
    let agents = world.fleet.agents();
    let names: Vec<_> = agents.iter().map(|report| report.agent.name()).collect();
    assert_eq!(names, ["cli", "server"]);

    // It may tell of that address from now on.
    let administration = Administration::open(state).unwrap();
    administration
        .allow("cli", vec![network("10.0.0.0/8").unwrap()])
        .unwrap();
    world.fleet.reload().unwrap();
    client.tell(6, Role::Server, true);
    client.acknowledged();
    assert_eq!(world.seen.flows().len(), 5);

    administration.revoke("server").unwrap();
    world.fleet.reload().unwrap();
    wait("the revoked agent's flow to end", || {
        world.seen.flows().iter().filter(|told| told.reset).count() == 1
    });
    wait("the agent to be told", || {
        server
            .sender
            .take_complaints()
            .iter()
            .any(|line| line.contains("revoked"))
    });
    assert!(world.fleet.refusals()[&Reason::Revoked] > 0);
    client.tell(7, Role::Client, true);
    client.acknowledged();
}

#[test]
fn who_is_revoked_behind_the_handshake_stays_outside() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path();
    CollectorIdentity::init(state, &[Address::new("127.0.0.1", None)]).unwrap();
    let identity = CollectorIdentity::load(state).unwrap();
    let world = World::new(Some(identity), Duration::from_secs(600));
    let membership = joined(&world, state, "late", "10.0.0.1");
    let mut socket = connect(world.address);
    let mut tls =
        ClientConnection::new(membership.client_config(), membership.server_name()).unwrap();
    tls.complete_io(&mut socket).unwrap();
    // The collector says nothing when it has taken the certificate; it has before another one's text is through.
    let mut other = host(&world, state, "other", "10.0.0.2");
    other.tell(1, Role::Client, true);
    other.acknowledged();
    Administration::open(state).unwrap().revoke("late").unwrap();
    world.fleet.reload().unwrap();
    let mut agent = SmallAgent::over(StreamOwned::new(tls, socket));
    agent.say(Message::Hello(hello(1, 1)));
    match agent.hear() {
        Some(Message::Refused(refused)) => assert_eq!(refused.reason, Reason::Revoked),
        other => panic!("{other:?} instead of a refusal"),
    }
    assert_eq!(world.fleet.refusals()[&Reason::Revoked], 1);
}

/// The collector's clock, in seconds since 1970.
#[derive(Debug)]
struct Clock(AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        // SeqCst: one number, and tests needn't be fast.
        let seconds = self.0.load(Ordering::SeqCst);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

#[test]
fn a_certificate_is_renewed_while_its_agent_goes_on_talking() {
    const DAY: u64 = 86_400;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path();
    CollectorIdentity::init(state, &[Address::new("127.0.0.1", None)]).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_secs();
    // The host has joined 40 days ago.
    let clock = Arc::new(Clock(AtomicU64::new(now - 40 * DAY)));
    let identity = CollectorIdentity::load_at(state, Arc::clone(&clock) as _).unwrap();
    let world = World::new(Some(identity), Duration::from_secs(600));
    let old = joined(&world, state, "web", "10.0.0.1");
    assert!(old.renewal_due(SystemTime::now()));
    clock.0.store(now, Ordering::SeqCst);
    let mut host = Host::connect(&world, old, 1);
    host.tell(1, Role::Client, true);
    host.acknowledged();
    let own = state.join("web");
    wait("the renewed certificate on disk", || {
        !membership(&own).renewal_due(SystemTime::now())
    });
    host.tell(2, Role::Client, true);
    host.acknowledged();
    assert_eq!(host.sender.status().connections, 1);
    // As its next life will come.
    let mut later = Host::connect(&world, membership(&own), 2);
    later.tell(3, Role::Client, true);
    later.acknowledged();
    assert_eq!(world.seen.flows().len(), 3);
    assert!(world.fleet.refusals().is_empty());
}
