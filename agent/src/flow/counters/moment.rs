//! Looks at which a socket stood where a session did, and what they say of the other sockets. Pure.

use super::history::Session;
use super::{Counts, Look, Sample};

/// A look at which a socket stood where a session did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment<'p> {
    pub(super) look: &'p Look,
    /// The look's number.
    pub(super) number: u64,
    pub(super) sample: &'p Sample,
    /// The session's counts, unless it was in the middle of a call.
    pub(super) least: Counts,
    /// Its next word, which shows that its own socket was still there.
    pub(super) most: Option<Counts>,
}

impl Moment<'_> {
    pub(super) fn range(&self) -> (Counts, Option<Counts>) {
        (self.least, self.most)
    }

    /// Whether another session stood with another socket then, and not with this one.
    pub(super) fn shows_elsewhere(&self, rival: &Session) -> bool {
        let mut with = rival.stood_with(self.number).peekable();
        with.peek().is_some() && with.all(|socket| socket != self.sample.socket)
    }
}

/// Whether a socket can't be the session's, whatever it may have carried in front of TLS.
pub(super) fn is_excluded(session: &Session, other: u64, moments: &[Moment<'_>]) -> bool {
    // Less has come in than the session has read of it.
    if session.behind.contains(&other) {
        return true;
    }
    let Some((first, before)) = moments
        .first()
        .and_then(|first| Some((first, first.look.of(other)?)))
    else {
        return true;
    };
    // Once may be chance, where a program holds back what its library has written.
    let twice = moments.iter().any(|moment| moment.least != first.least);
    moments.iter().any(|moment| match moment.look.of(other) {
        // It wasn't there, and the session's own was.
        None => moment.most.is_some(),
        Some(then) => {
            // Looks of the process and at it may overlap: which is newer isn't known then.
            let is_later = moment.look.began > first.look.ended;
            let may = |of: fn(&Counts) -> u64| {
                let moved = of(&then.counts).checked_sub(of(&before.counts));
                let may = |moved| may_move(moved, first.range(), moment.range(), of);
                !is_later || moved.is_some_and(may)
            };
            // What was written last may still be held back, where nothing shows the contrary; at the end of a call
            // it often is.
            let sent_apart = !first.look.told
                && !moment.look.told
                && moment.most.is_some()
                && (then.counts.sent < moment.least.sent || !may(|counts| counts.sent));
            let apart = sent_apart || !may(|counts| counts.received);
            twice && apart
        }
    })
}

/// Whether that may be how much was added between two looks, at which the count was within these.
fn may_move(
    moved: u64,
    before: (Counts, Option<Counts>),
    then: (Counts, Option<Counts>),
    of: fn(&Counts) -> u64,
) -> bool {
    let least = |most: Counts| of(&then.0).saturating_sub(of(&most));
    let most = |most: Counts| of(&most).saturating_sub(of(&before.0));
    before.1.is_none_or(|before| moved >= least(before))
        && then.1.is_none_or(|then| moved <= most(then))
}
