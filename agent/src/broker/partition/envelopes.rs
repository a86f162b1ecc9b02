//! Envelopes on their way: taken, or refused; handed to the workers; and forgotten once they are put out.

use bytes::Bytes;
use tokio::time::Instant;

use super::{CLOCK_MARGIN_MS, Part, Pending, SILENCE, Source, SourceKey, Told};
use crate::broker::collectors::Refusal;
use crate::broker::envelope::{Kind, Opened};
use crate::broker::publisher::now_ms;
use crate::broker::reader::Received;
use crate::collector::{Feed, Room};
use crate::tunnel::shadow::Shadow;

impl Part<'_> {
    /// Takes an envelope, whatever it is.
    pub(super) fn take(&mut self, subject: &str, received: Received) {
        let stats = &self.context.stats;
        self.caught_up = received.waiting == 0;
        if received.sequence <= self.sequence {
            return;
        }
        if self
            .may_repeat
            .is_some_and(|last| received.sequence <= last)
        {
            stats.may_repeat_bytes.add(received.payload.len() as u64);
        }
        let sequence = received.sequence;
        let opened = self.context.open(subject, received.payload);
        match opened.and_then(|opened| self.admit(opened)) {
            Ok((key, opened)) => match opened.kind {
                Kind::Events if !opened.content.is_empty() => {
                    self.staged = Some((sequence, key, opened));
                }
                kind => {
                    let source = self.sources.get_mut(&key);
                    if let Some(source) = source
                        && kind == Kind::Goodbye
                        && let Some(feed) = source.feed.take()
                    {
                        feed.end();
                    }
                    self.wait_for(sequence, Some(key), opened, true);
                }
            },
            Err(refusal) => {
                self.context.refuse(self.partition, refusal);
                self.pending.push_back(Pending {
                    sequence,
                    source: None,
                    number: 0,
                    made_ms: 0,
                    kind: Kind::Alive,
                    events: Bytes::new(),
                    done: true,
                });
            }
        }
        self.advance();
    }

    /// Whether it comes next, and its agent is let in.
    fn admit(&mut self, opened: Opened) -> Result<(SourceKey, Opened), Refusal> {
        let stats = &self.context.stats;
        let oldest = now_ms().saturating_sub(self.context.max_age_ms() + CLOCK_MARGIN_MS);
        if opened.made_ms < oldest {
            return Err(Refusal::Stale(opened.name));
        }
        let key = (opened.instance, opened.name.clone(), opened.terms.clone());
        let feeds = &self.context.feeds;
        let source = self.sources.entry(key.clone()).or_insert_with(|| Source {
            feed: feeds(&opened.name, &opened.terms),
            number: 0,
            made_ms: 0,
            marked: (0, 0),
            shadow: Shadow::default(),
            heard: Instant::now(),
            gone: false,
        });
        if opened.number <= source.number {
            return Err(Refusal::Again(opened.name));
        }
        stats
            .missing_envelopes
            .add(opened.number - source.number - 1);
        source.number = opened.number;
        source.made_ms = opened.made_ms;
        source.heard = Instant::now();
        match source.feed {
            None if opened.kind == Kind::Events => Err(Refusal::NotLetIn(opened.name)),
            _ => Ok((key, opened)),
        }
    }

    pub(super) fn push_staged(&mut self, room: Option<Room>) {
        let Some((sequence, key, opened)) = self.staged.take() else {
            return;
        };
        let feed = self
            .sources
            .get(&key)
            .and_then(|source| source.feed.clone());
        // Without room the workers have stopped: nothing is acknowledged any more.
        if let (Some(feed), Some(room)) = (&feed, room) {
            let receipt = self.receipt(sequence);
            let stats = &self.context.stats;
            stats.envelopes.add(1);
            stats.event_bytes.add(opened.content.len() as u64);
            let batch = self.batch(sequence, opened.content.clone());
            feed.push(batch, room, receipt);
            self.wait_for(sequence, Some(key), opened, false);
        } else {
            self.wait_for(sequence, Some(key), opened, feed.is_none());
            self.advance();
        }
    }

    fn wait_for(&mut self, sequence: u64, source: Option<SourceKey>, opened: Opened, done: bool) {
        self.pending_bytes += opened.content.len();
        self.pending.push_back(Pending {
            sequence,
            source,
            number: opened.number,
            made_ms: opened.made_ms,
            kind: opened.kind,
            events: opened.content,
            done,
        });
    }

    pub(super) fn hear(&mut self, told: Told) {
        let (Told::Done(seq) | Told::Refused(seq, _)) = &told;
        let Ok(at) = self
            .pending
            .binary_search_by_key(seq, |pending| pending.sequence)
        else {
            return;
        };
        self.pending[at].done = true;
        if let (Told::Refused(_, error), Some(key)) = (told, self.pending[at].source.clone()) {
            self.context.refuse(
                self.partition,
                Refusal::Unreadable(key.1.clone(), error.to_string()),
            );
            if let Some(source) = self.sources.get_mut(&key)
                && let Some(feed) = source.feed.take()
            {
                feed.end();
                source.shadow = Shadow::default();
                source.gone = true;
            }
        }
        self.advance();
    }

    /// Goes on over what has been put out.
    fn advance(&mut self) {
        while let Some(first) = self.pending.pop_front_if(|first| first.done) {
            self.pending_bytes -= first.events.len();
            self.sequence = first.sequence;
            let Some(source) = first.source.and_then(|key| self.sources.get_mut(&key)) else {
                continue;
            };
            source.marked = (first.number, first.made_ms);
            match first.kind {
                Kind::Events if !source.gone => source.shadow.apply(self.partition, &first.events),
                Kind::Goodbye => {
                    source.shadow = Shadow::default();
                    source.gone = true;
                }
                Kind::Events | Kind::Alive => {}
            }
        }
    }

    /// Agents that have gone without a word, and those that needn't be remembered any more.
    pub(super) fn note_silence(&mut self) {
        if self.caught_up && self.pending.is_empty() && self.staged.is_none() {
            for ((_, name, _), source) in &mut self.sources {
                if source.heard.elapsed() < SILENCE {
                    continue;
                }
                if let Some(feed) = source.feed.take() {
                    feed.end();
                    source.shadow = Shadow::default();
                    source.gone = true;
                    self.context.stats.silent_agents.add(1);
                    self.context.notices.say(format!(
                        "agent {name} says nothing for {} s: its sessions in partition {} are ended",
                        SILENCE.as_secs(),
                        self.partition
                    ));
                }
            }
        }
        let oldest = now_ms().saturating_sub(self.context.max_age_ms() + 2 * CLOCK_MARGIN_MS);
        self.sources
            .retain(|_, source| !source.gone || source.made_ms >= oldest);
    }
}

/// Room for what is staged; where its feed is gone, none is needed.
pub(super) async fn room(staged: Option<(Option<Feed>, usize)>) -> Option<Room> {
    let (feed, bytes) = staged?;
    feed?.room(u32::try_from(bytes).unwrap_or(u32::MAX)).await
}
