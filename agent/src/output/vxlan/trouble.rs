//! What keeps packets from a sensor, or seems to; from what is seen of it to what people are told.
//!
//! ```text
//!   sent ──── an answer comes ───> Answered: packets go on; probes get no answer for a while ──> recovery
//!     └──── the kernel refuses ──> Refused: packets are lost; two tries in a row succeed ──────> recovery
//! ```
//!
//! Kernels answer to one packet a second, so that none comes to most packets says nothing; to a probe it does. A probe
//! is a datagram without content, which harms nobody.

use std::io;
use std::time::{Duration, Instant};

use super::super::losses::Losses;

/// No answer for so long: they have stopped.
const QUIET: Duration = Duration::from_secs(4);
/// The same where nobody has the address: that takes the kernel three seconds to find each time.
const QUIET_UNREACHED: Duration = Duration::from_secs(10);
/// One probe in this time, each of which would be answered.
const PROBE_EVERY: Duration = Duration::from_millis(1500);
/// So many of them, at least, were not.
const PROBES: u32 = 2;

/// The trouble with one sensor.
#[derive(Debug)]
pub(super) struct Trouble {
    /// The sensor's.
    name: String,
    current: Option<Current>,
    recovered: Option<Losses>,
    complaints: Vec<String>,
    times: u64,
}

#[derive(Debug)]
struct Current {
    kind: Kind,
    losses: Losses,
    lost: u64,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The kernel sends nothing; or it did when it was tried last, once.
    Refused { well: bool },
    /// Somebody answers. Packets go out.
    Answered {
        by: Answer,
        last: Instant,
        probed: Instant,
        /// Sent since the last answer.
        probes: u32,
    },
}

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// The sensor's machine, or another on the way: the packets got there.
    Somebody,
    /// Who has looked for the sensor's machine, or for a way to it: the packets are dropped.
    Unreached,
}

impl Answer {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EHOSTUNREACH | libc::ENETUNREACH) => Self::Unreached,
            _ => Self::Somebody,
        }
    }

    fn quiet(self) -> Duration {
        match self {
            Self::Somebody => QUIET,
            Self::Unreached => QUIET_UNREACHED,
        }
    }
}

impl Trouble {
    /// None yet with a sensor of this name.
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            current: None,
            recovered: None,
            complaints: Vec::new(),
            times: 0,
        }
    }

    /// The sensor's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How often there was some.
    pub(super) fn times(&self) -> u64 {
        self.times
    }

    /// Whether nothing can be sent.
    pub(super) fn is_refused(&self) -> bool {
        let kind = self.current.as_ref().map(|current| current.kind);
        matches!(kind, Some(Kind::Refused { .. }))
    }

    /// See [`super::VxlanSink::take_recovery`].
    pub(super) fn take_recovery(&mut self) -> Option<Losses> {
        self.recovered.take()
    }

    /// See [`super::VxlanSink::take_complaints`].
    pub(super) fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// People should know this.
    pub(super) fn complain(&mut self, complaint: String) {
        self.complaints.push(complaint);
    }

    /// This frame can't be sent.
    pub(super) fn lost(&mut self, frame: &[u8]) {
        if let Some(current) = &mut self.current {
            current.losses.note(frame);
            current.lost += 1;
        }
    }

    /// This frame was sent: perhaps nobody got it.
    pub(super) fn sent(&mut self, frame: &[u8]) {
        if let Some(current) = &mut self.current {
            current.losses.note(frame);
        }
    }

    /// Looks whether it is over. `probe` sends one, if it is time to.
    pub(super) fn look(&mut self, now: Instant, probe: impl FnOnce() -> io::Result<()>) {
        let over = match self.current.as_mut().map(|current| &mut current.kind) {
            None => false,
            Some(Kind::Refused { well }) => {
                let works = probe().is_ok();
                std::mem::replace(well, works) && works
            }
            Some(Kind::Answered { probed, probes, .. })
                if now.duration_since(*probed) >= PROBE_EVERY =>
            {
                *probed = now;
                *probes += 1;
                // In the place of a send that follows, an answer is told.
                if let Err(error) = probe() {
                    self.answered(&error, now);
                }
                false
            }
            Some(Kind::Answered {
                by, last, probes, ..
            }) => *probes >= PROBES && now.duration_since(*last) >= by.quiet(),
        };
        if over && let Some(current) = self.current.take() {
            let name = &self.name;
            self.complaints.push(match current.kind {
                Kind::Refused { .. } => format!(
                    "packets to {name} are sent again; {} were lost, live flows begin anew",
                    current.lost
                ),
                Kind::Answered { .. } => {
                    format!("nobody answers packets to {name} any more; live flows begin anew")
                }
            });
            self.recovered = Some(current.losses);
        }
    }

    /// Somebody on the way, or at its end, has answered packets that were sent.
    pub(super) fn answered(&mut self, error: &io::Error, now: Instant) {
        let by = Answer::of(error);
        let kind = |probed| Kind::Answered {
            by,
            last: now,
            probed,
            probes: 0,
        };
        let name = &self.name;
        let complaint = match by {
            Answer::Somebody => format!(
                "packets to {name} are answered ({error}): nobody listens there, but perhaps on the interface; they \
                 go on being sent"
            ),
            Answer::Unreached => format!(
                "packets to {name} reach nobody ({error}): look whether the sensor is up, and whether the way leads \
                 there; they go on being sent"
            ),
        };
        match &mut self.current {
            None => self.begin(kind(now), complaint),
            Some(current) => match current.kind {
                Kind::Refused { .. } => {}
                Kind::Answered {
                    by: before, probed, ..
                } => {
                    current.kind = kind(probed);
                    if before != by {
                        self.complaints.push(complaint);
                    }
                }
            },
        }
    }

    /// The kernel doesn't send.
    pub(super) fn refused(&mut self, error: &io::Error) {
        let kind = Kind::Refused { well: false };
        if let Some(Current {
            kind: before @ Kind::Refused { .. },
            ..
        }) = &mut self.current
        {
            *before = kind;
            return;
        }
        let name = &self.name;
        let complaint =
            format!("packets to {name} can't be sent ({error}): they are lost until they can");
        self.begin(kind, complaint);
    }

    /// What was lost before is still lost.
    fn begin(&mut self, kind: Kind, complaint: String) {
        self.times += 1;
        self.complaints.push(complaint);
        let before = self.current.take();
        self.current = Some(Current {
            kind,
            losses: before.map(|current| current.losses).unwrap_or_default(),
            lost: 0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn answers_are_told_once_until_probes_get_none() {
        let mut trouble = Trouble::new("sensor".into());
        let begin = Instant::now();
        let at = |s| begin + Duration::from_secs(s);
        for _ in 0..3 {
            trouble.answered(&error(libc::ECONNREFUSED), at(0));
            trouble.sent(b"frame");
        }
        let said = trouble.take_complaints();
        assert!(
            said.len() == 1 && said[0].contains("are answered"),
            "{said:?}"
        );
        // Nobody has its address any more: that is another thing.
        trouble.answered(&error(libc::EHOSTUNREACH), at(1));
        let said = trouble.take_complaints();
        assert!(
            said.len() == 1 && said[0].contains("reach nobody"),
            "{said:?}"
        );
        // Without a probe on the way, silence says nothing; one is answered later, or in the place of the next one.
        trouble.look(at(60), || Ok(()));
        trouble.answered(&error(libc::EHOSTUNREACH), at(61));
        trouble.look(at(70), || Err(error(libc::EHOSTUNREACH)));
        let mut probes = 0;
        for time in 71..80 {
            trouble.look(at(time), || {
                probes += 1;
                Ok(())
            });
            assert!(trouble.take_recovery().is_none() && trouble.take_complaints().is_empty());
        }
        assert_eq!(probes, 4);
        trouble.look(at(81), || Ok(()));
        trouble.look(at(81), || panic!("it isn't time for another one"));
        assert!(trouble.take_recovery().is_some());
        let said = trouble.take_complaints();
        assert!(said[0].contains("any more"), "{said:?}");
        assert_eq!(trouble.times(), 1);
    }

    #[test]
    fn what_is_refused_is_lost_until_two_tries_succeed() {
        let mut trouble = Trouble::new("sensor".into());
        let now = Instant::now();
        trouble.refused(&error(libc::ENETUNREACH));
        trouble.refused(&error(libc::ENETUNREACH));
        trouble.lost(b"frame");
        trouble.answered(&error(libc::ECONNREFUSED), now);
        assert!(trouble.is_refused());
        for (works, over) in [(true, false), (false, false), (true, false), (true, true)] {
            trouble.look(now, || {
                works.then_some(()).ok_or_else(|| error(libc::ENETUNREACH))
            });
            assert_eq!(trouble.take_recovery().is_some(), over);
        }
        let said = trouble.take_complaints();
        assert!(
            said.len() == 2 && said[1].contains("1 were lost"),
            "{said:?}"
        );
        assert!(!trouble.is_refused());
    }
}
