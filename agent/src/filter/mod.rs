//! The operator's filters: which processes and connections are mirrored.
//!
//! ```text
//!   --allow, --deny ──Condition::parse──> Filters ──for_process──> Told ─ page ──> the hook, in its ring
//!                                                                     └─ Policy ─> flow, at binding
//! ```
//!
//! What a rule says of the process (executable, user) is settled here, once for each process that asks;
//! what it says of the connection is judged by [`mirror_hook::filter`], in the hook before text enters the
//! ring, and here again before a session's flow begins: of what the hook wrote before it knew the rules,
//! and of sessions whose addresses it can't know.

mod parse;

#[cfg(test)]
mod tests;

pub use parse::{Condition, RuleError, network};

use std::sync::Arc;

use mirror_hook::filter::{Action, EncodeError, Facts, Process, Rule, Verdict, decide, encode};

/// What becomes of a session whose addresses aren't known when it begins, where a rule asks for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFlow {
    /// The hook excludes it.
    #[default]
    Exclude,
    /// It is mirrored, and the agent decides once it has found the addresses on the wire.
    Mirror,
}

/// All rules. Without any, everything is mirrored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    rules: Vec<(Action, Condition)>,
    unknown_flow: UnknownFlow,
}

/// The policy of one process, as the agent applies it itself.
#[derive(Debug)]
pub struct Policy {
    bytes: Vec<u8>,
    unknown_flow: UnknownFlow,
}

/// What one process is told.
#[derive(Debug)]
pub struct Told {
    /// For the policy pages of its ring.
    pub page: Vec<u8>,
    /// The same for the agent's own use.
    pub policy: Arc<Policy>,
    /// No connection of it can ever be mirrored.
    pub excludes_all: bool,
}

/// Why a session isn't put out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excluded {
    /// The rules say so.
    ByRule,
    /// A rule asks for what nobody has found out.
    Unknown,
}

impl Filters {
    /// Rules, whose order doesn't matter.
    ///
    /// # Errors
    /// They don't fit into a ring's pages.
    pub fn new(
        rules: Vec<(Action, Condition)>,
        unknown_flow: UnknownFlow,
    ) -> Result<Self, EncodeError> {
        let filters = Self {
            rules,
            unknown_flow,
        };
        filters.until_answered()?;
        Ok(filters)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// For a hook which begins before the agent knows its process: the same policy, with the conditions on
    /// the process.
    ///
    /// # Errors
    /// It doesn't fit; not after [`Filters::new`].
    pub fn until_answered(&self) -> Result<Vec<u8>, EncodeError> {
        let rules: Vec<_> = self
            .rules
            .iter()
            .map(|(action, condition)| Rule {
                action: *action,
                flow: condition.flow.clone(),
                process: condition.process.clone(),
            })
            .collect();
        encode(&rules, self.lists_allowed(), self.mirrors_unknown())
    }

    /// What a process is told; nothing where there are no filters. `executable`: its whole path; `None`:
    /// it can't be found out. Then a `deny` that asks for it fits, and an `allow` doesn't.
    pub fn for_process(&self, uid: u32, executable: Option<&[u8]>) -> Option<Told> {
        if self.is_empty() {
            return None;
        }
        let holding = self.rules.iter().filter(|(action, condition)| {
            let wanted = &condition.process;
            let user = wanted.uid.is_none_or(|wanted| wanted == uid);
            let program = wanted.executable.as_ref().is_none_or(|wanted| {
                executable.map_or(*action == Action::Deny, |path| wanted.matches(path))
            });
            user && program
        });
        let rules: Vec<_> = holding
            .map(|(action, condition)| Rule {
                action: *action,
                flow: condition.flow.clone(),
                process: Process::default(),
            })
            .collect();
        let fits_all = |rule: &Rule| rule.flow == mirror_hook::filter::Flow::default();
        let excludes_all = rules
            .iter()
            .any(|rule| rule.action == Action::Deny && fits_all(rule))
            || self.lists_allowed() && !rules.iter().any(|rule| rule.action == Action::Allow);
        // A part of what `new` has encoded.
        let encoded = |mirror| encode(&rules, self.lists_allowed(), mirror).unwrap_or_default();
        Some(Told {
            page: encoded(self.mirrors_unknown()),
            policy: Arc::new(Policy {
                bytes: encoded(false),
                unknown_flow: self.unknown_flow,
            }),
            excludes_all,
        })
    }

    fn lists_allowed(&self) -> bool {
        self.rules
            .iter()
            .any(|(action, _)| *action == Action::Allow)
    }

    fn mirrors_unknown(&self) -> bool {
        self.unknown_flow == UnknownFlow::Mirror
    }
}

impl Policy {
    /// Whether addresses that only the wire showed count, too.
    pub fn takes_wire(&self) -> bool {
        self.unknown_flow == UnknownFlow::Mirror
    }

    /// Judges a session of which nothing more will become known; `None`: it is put out.
    pub fn judge(&self, facts: &Facts<'_>) -> Option<Excluded> {
        match decide(&self.bytes[..], facts) {
            Verdict::Mirror => None,
            Verdict::Exclude => Some(Excluded::ByRule),
            Verdict::Unknown(_) => Some(Excluded::Unknown),
        }
    }
}
