//! Which flow a session is, whose it is, and what is told of it.

use mirror_hook::event::{Announcement, Role};
use sha2::{Digest, Sha256};

use super::binder::{Binder, Randoms};
use super::mapper::Mapper;
use super::own::Networks;
use super::placeholder::placeholder;
use super::proof::{Ends, Sockets, Unproven, Verdict, is_anothers, judge};
use super::session::Session;
use crate::event::{Binding, Continued, FlowId, FlowInfo, ProcessInfo, SessionKey, Tuple};
use crate::filter::Excluded;

impl Mapper {
    /// The id of a session's flow, and whether that is one that exists.
    pub(super) fn identify(&mut self, key: SessionKey, session: &Session) -> (FlowId, Joins) {
        let Some(randoms) = session.known.randoms() else {
            return (self.own_id(key, None), Joins::Nothing);
        };
        let id = shared_id(&randoms);
        let role = session.known.role;
        if let Some(&number) = self.live_ids.get(&id)
            && let Some(flow) = self.flows.get(&number)
        {
            if flow.role != role {
                return (id, Joins::Twin);
            }
            let inherited = session.known.announcement == Announcement::Inherited;
            if inherited && self.may_join(number, &session.process) {
                return (id, Joins::Parent(number));
            }
        } else {
            match self.recent.get(&id) {
                None => return (id, Joins::Nothing),
                Some(recent) if recent.role != role => return (id, Joins::Twin),
                Some(_) => {}
            }
        }
        // The connection was put out once already: what comes now is a flow of its own, with other
        // sequence numbers.
        (self.own_id(key, Some(&id)), Joins::Nothing)
    }

    /// Whether a process may go on with a flow: nobody speaks in another's name, but what root has forked may have become
    /// somebody else's, and has the connection then.
    pub(super) fn may_join(&mut self, number: u64, process: &ProcessInfo) -> bool {
        let Some(flow) = self.flows.get(&number) else {
            return false;
        };
        let ends = Ends::of(flow.tuple, flow.role);
        flow.uid == process.uid || flow.uid == 0 && !is_anothers(&ends, process, &mut *self.claims)
    }

    /// An id from the agent's own numbers.
    pub(super) fn own_id(&self, key: SessionKey, after: Option<&FlowId>) -> FlowId {
        let hash = Sha256::new()
            .chain_update(b"tls-mirror session\0")
            .chain_update(self.config.seed)
            .chain_update(key.ring.to_be_bytes())
            .chain_update(key.connection.to_be_bytes())
            .chain_update(after.map_or([0; 16], |id| id.0));
        cut(&hash.finalize().into())
    }

    /// What is told of a flow that begins.
    pub(super) fn describe(&mut self, id: FlowId, session: &mut Session) -> FlowInfo {
        let randoms = session.known.randoms();
        let wire = randoms.and_then(|randoms| self.binder.find(&randoms));
        let wire = wire.map(|wire| (wire.clear_prefix, wire.hello.clone()));
        let (wire_prefix, hello) = wire.unwrap_or_default();
        let on_wire = match session.known.tuple() {
            Some(_) => None,
            None => self.on_wire(session),
        };
        let found = session.found();
        // What was doubted and is seen on the wire, or was believed before, was true.
        let shown = found.or(on_wire).map(|(tuple, _)| tuple);
        let known = &mut session.known;
        if known.verdict() == Some(Verdict::Doubtful) {
            known.set_verdict(Verdict::Unproven(Unproven::Gone));
            if shown.is_none() || known.tuple() != shown {
                known.set_verdict(Verdict::Doubtful);
            }
        }
        let known = &session.known;
        if let (Some((wire, _)), Some(counted)) = (on_wire, session.counted()) {
            self.stats.counters_contradicted += u64::from(wire != counted);
        }
        let (tuple, binding) = match (known.tuple(), on_wire) {
            (Some(tuple), _) if known.addresses_told => (tuple, Binding::Told),
            (Some(tuple), _) => (tuple, Binding::Socket),
            (None, Some(found)) => found,
            (None, None) => match session.counted() {
                Some(counted) => (counted, Binding::Counters),
                None => (self.placeholder(), Binding::Placeholder),
            },
        };
        let (tuple, binding) = found.unwrap_or((tuple, binding));
        FlowInfo {
            id,
            tuple,
            binding,
            proof: session.verdict().map(Verdict::proof),
            process: std::sync::Arc::clone(&session.process),
            role: known.role,
            announcement: known.announcement,
            transport: known.transport,
            sni: known.sni.clone().or_else(|| hello.as_ref()?.sni.clone()),
            alpn: known.alpn.clone(),
            tls_version: known.tls_version,
            cipher: known.cipher,
            resumed: known.resumed,
            early: known.early,
            clear_prefix: match known.role {
                Role::Client => known.clear_prefix_sent.or(wire_prefix),
                Role::Server => wire_prefix,
            },
            continued: session
                .continued
                .map(|Continued { base, .. }| match known.role {
                    Role::Client => base,
                    Role::Server => (base.1, base.0),
                }),
            ja4: hello.map(|hello| hello.ja4.clone()),
            agent: None,
            real_client: None,
            left_out: None,
            http1: None,
        }
    }

    /// Doubts addresses that the wire shows of a session which begins, if they are another's connection.
    pub(super) fn doubt_shown(&mut self, session: &mut Session, is_over: bool) {
        // Its connection may have ended when the kernel was asked, as one that it names may have.
        if is_over || session.known.tuple().is_some() || session.found().is_some() {
            session.looked_at = None;
            return;
        }
        let shown = self.on_wire(session);
        if session.is_shown_anothers()
            || shown.is_some_and(|(tuple, _)| session.shows_anothers(tuple, &mut *self.claims))
        {
            session.known.set_verdict(Verdict::Doubtful);
        }
    }

    fn on_wire(&mut self, session: &Session) -> Option<(Tuple, Binding)> {
        if session.is_shown_anothers() {
            return None;
        }
        if session.shown.is_some() {
            return session.shown;
        }
        let networks = self.networks.as_deref();
        let shown = shown(&self.binder, networks, &mut *self.claims, session)?;
        Some((shown.tuple, shown.binding))
    }

    /// Whether the filters exclude a session of which all is known that will be.
    pub(super) fn excluded(&mut self, session: &Session) -> Option<Excluded> {
        let policy = session.policy.as_deref()?;
        let is_asked = policy.takes_wire() && session.known.tuple().is_none();
        let wire = is_asked.then(|| self.on_wire(session)).flatten();
        let wire = wire.or_else(|| session.found()).map(|(tuple, _)| tuple);
        let wire = wire.or(session.counted());
        policy.judge(&session.known.facts(wire))
    }

    pub(super) fn placeholder(&mut self) -> Tuple {
        let tuple = placeholder(self.next_placeholder);
        self.next_placeholder += 1;
        tuple
    }
}

/// What the wire shows of a session that doesn't tell its addresses.
pub(super) struct Shown {
    pub(super) tuple: Tuple,
    pub(super) binding: Binding,
    /// What else it may show will change nothing.
    pub(super) is_settled: bool,
}

/// Of the addresses that the wire shows those may be the session's whose near end is one of its process's network:
/// translations have others. Where several may, they are somebody's who says what others say, and faster than they: none
/// is taken before all are answered, and several that are answered alike are ambiguous. But those that the kernel knows to be
/// another's are not the session's: a proxy's that passes its bytes on.
pub(super) fn shown(
    binder: &Binder,
    networks: Option<&dyn Networks>,
    sockets: &mut dyn Sockets,
    session: &Session,
) -> Option<Shown> {
    let randoms = session.known.randoms()?;
    let wire = binder.find(&randoms)?;
    let mut seen = vec![(wire.tuple, true)];
    let others = binder.candidates(&randoms);
    seen.extend(others.filter(|(tuple, _)| *tuple != wire.tuple));
    let (process, role) = (&session.process, session.known.role);
    // Or the others have been forgotten.
    let mut is_ambiguous = wire.ambiguous && seen.len() == 1;
    if let Some(networks) = networks {
        let tuples: Vec<_> = seen.iter().map(|(tuple, _)| *tuple).collect();
        if let Some(local) = networks.local(process, role, &tuples) {
            // Where none is, this side of a translation isn't watched.
            is_ambiguous |= local.is_empty();
            seen.retain(|(tuple, _)| local.is_empty() || local.contains(tuple));
        }
    }
    let is_settled = seen.iter().all(|(_, is_answered)| *is_answered);
    seen.retain(|(_, is_answered)| *is_answered);
    let mut answered: Vec<_> = seen.into_iter().map(|(tuple, _)| tuple).collect();
    if answered.len() > 1 {
        let mut own = answered.clone();
        own.retain(|tuple| !is_anothers(&Ends::of(*tuple, role), process, sockets));
        // Where all are, that is what is said of the first.
        if !own.is_empty() {
            answered = own;
        }
    }
    is_ambiguous |= answered.len() != 1;
    let connected = networks.filter(|_| answered.len() > 1);
    let connected = connected.map(|networks| networks.connected(process, role, &answered));
    let tuple = match connected.as_deref() {
        Some(&[tuple]) => tuple,
        _ => answered.first().copied().unwrap_or(wire.tuple),
    };
    let binding = match is_ambiguous {
        true => Binding::WireAmbiguous,
        false => Binding::Wire,
    };
    Some(Shown {
        tuple,
        binding,
        is_settled,
    })
}

/// Asks about what a session says of its socket, unless that was done.
pub(super) fn verify(session: &mut Session, sockets: &mut dyn Sockets) {
    if session.known.verdict().is_none()
        && let Some(claim) = session.known.claim()
    {
        let verdict = judge(&claim, &session.process, sockets);
        session.known.set_verdict(verdict);
    }
}

/// Which flow a session belongs to.
pub(super) enum Joins {
    /// Its own.
    Nothing,
    /// That of the process that forked it.
    Parent(u64),
    /// The same, and the flow knows.
    Already(u64),
    /// The other end's.
    Twin,
}

/// The id that both ends give a session: of public values, without a secret, on purpose.
pub(super) fn shared_id(randoms: &Randoms) -> FlowId {
    let hash = Sha256::new()
        .chain_update(b"tls-mirror flow\0")
        .chain_update(randoms.0)
        .chain_update(randoms.1);
    cut(&hash.finalize().into())
}

fn cut(hash: &[u8; 32]) -> FlowId {
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    FlowId(id)
}
