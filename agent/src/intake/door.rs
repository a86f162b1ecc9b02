//! The door: who comes in, by which credentials, and what is known of it when it has.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::admit::{Refusal, admit};
use super::facade::{Admission, Intake, LISTENER};
use super::family::Descent;
use super::kin::Owner;
use super::listener::Arrival;
use super::peer::{Peer, Watch, pid_of};
use super::process::Ring;
use super::seen::Seen;
use super::tracker::Tracker;
use crate::filter::Told;

impl Intake {
    pub(super) fn accept(&mut self) {
        let mut arrivals = Vec::new();
        let doorbell = &self.doorbell;
        let more = self.listener.accept(
            |silent| {
                // Where it can't be watched it is looked at with the next arrival.
                let _ = doorbell.add(silent, LISTENER);
            },
            |arrival| arrivals.push(arrival),
        );
        if more {
            self.doorbell.ring(LISTENER);
        }
        for arrival in arrivals {
            match self.attach(arrival) {
                Ok(()) => self.stats.attached += 1,
                Err(reason) => self.stats.refuse(reason),
            }
        }
    }

    fn attach(&mut self, arrival: Arrival) -> Result<(), Refusal> {
        let peer = Peer::of(arrival.socket.as_fd()).map_err(|_| Refusal::Credentials)?;
        self.admit_user(&peer)?;
        if self.rings.len() >= self.config.max_rings {
            return Err(Refusal::TooMany);
        }
        let memfd = arrival.memfd.ok_or(Refusal::Message)?;
        let mut owner = Owner::new(peer.pid, 0, &memfd);
        let watch = peer
            .watch(arrival.socket.as_fd())
            .map_err(|_| Refusal::NotWatched)?;
        let number = self.next_ring;
        self.next_ring += 1;
        let to_keep = self.manager.is_some().then(|| memfd.try_clone());
        if let Watch::Pidfd(pidfd) = &watch
            && self.doorbell.add(pidfd.as_fd(), number).is_err()
        {
            return Err(Refusal::NotWatched);
        }
        // What only rules ask for is asked behind the grant: until then a program has 64 KiB.
        let look = || self.look_at(&peer, arrival.socket.as_fd(), &watch);
        let seen = (!self.config.filters.is_empty()).then(look);
        let told = seen.as_ref().and_then(|seen| self.told(&peer, seen));
        let mut held = None;
        let own = |memfd: BorrowedFd<'_>| {
            // Where it isn't held its process hears of a clean exit only.
            let (ring, thread_id) = self.owners.hold(memfd).ok()?;
            held = Some(ring);
            Some(thread_id)
        };
        let admitted = admit(&arrival.message, memfd, &self.budget, told.as_ref(), own);
        let admitted = match admitted {
            Ok(admitted) => admitted,
            Err(reason) => {
                if let Some(held) = held {
                    self.owners.let_go(held);
                }
                return Err(reason);
            }
        };
        let seen = seen.unwrap_or_else(|| self.look_at(&peer, arrival.socket.as_fd(), &watch));
        owner.started = seen.started;
        let process = Arc::new(peer.info(&seen, &admitted.message.name));
        let message = &admitted.message;
        self.families
            .attached(message.instance, Descent::of(message), peer.uid, owner);
        if self.rings.values().any(|ring| ring.owner.pid == owner.pid) {
            // It may have executed something else since.
            self.relations.look_at_rings();
        }
        let policy = told.map(|told| told.policy);
        let tracker = Tracker::new(number, process, policy, self.config.max_connections);
        let mut ring = Ring::new(admitted, owner, tracker, watch);
        ring.held = held;
        if let Some(Ok(memfd)) = to_keep {
            self.keep(number, &mut ring, memfd.as_fd());
        }
        self.budget.used_bytes += ring.cost_bytes();
        self.rings.insert(number, ring);
        Ok(())
    }

    /// What can be seen of the process at the other end of a connection.
    fn look_at(&self, peer: &Peer, connection: BorrowedFd<'_>, watch: &Watch) -> Seen {
        let helper = self.helper.as_ref();
        if let Some(seen) = helper.and_then(|helper| helper.peer(connection)) {
            return seen;
        }
        // Behind its end its id may be somebody else's.
        let Watch::Pidfd(pidfd) = watch else {
            return Seen::default();
        };
        let seen = Seen::of(peer.pid);
        match pid_of(pidfd.as_fd()) {
            Some(-1) => Seen::default(),
            _ => seen,
        }
    }

    /// The filters, as far as they concern a process.
    pub(super) fn told(&self, peer: &Peer, seen: &Seen) -> Option<Told> {
        let filters = &self.config.filters;
        if filters.is_empty() {
            return None;
        }
        filters.for_process(peer.uid, seen.executable.as_deref())
    }

    /// Whether a process may be mirrored at all.
    pub(super) fn admit_user(&self, peer: &Peer) -> Result<(), Refusal> {
        match &self.config.admission {
            Admission::All => {}
            Admission::Users(users) if users.contains(&peer.uid) => {}
            Admission::Users(_) => return Err(Refusal::User),
            // Descent can't be asked of a process that has ended and was reaped; a user can.
            Admission::OwnAndDescendants
                if peer.uid == 0
                    || peer.uid == rustix::process::geteuid().as_raw()
                    || peer.descends_from(std::process::id())
                    || peer.left_kin_below(std::process::id()) => {}
            Admission::OwnAndDescendants => return Err(Refusal::Stranger),
        }
        Ok(())
    }
}
