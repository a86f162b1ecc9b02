//! Marks of a partition: where a successor goes on, and with which flows.

use std::time::Duration;

use async_nats::jetstream::kv;
use bytes::Bytes;
use tokio::time::Instant;

use super::{Part, Source};
use crate::broker::collectors::{Context, mark_key};
use crate::broker::connect::Backoff;
use crate::broker::mark::{Mark, SourceMark};
use crate::tunnel::batch::{BatchWriter, MAX_BATCH_BYTES};
use crate::tunnel::shadow::Shadow;

/// How often what has been put out is removed from the stream.
const PURGE_INTERVAL: Duration = Duration::from_secs(30);
/// And where agents may be waiting for its room.
const TIGHT_PURGE_INTERVAL: Duration = Duration::from_secs(2);

/// The last mark, with our number on it. `None`: its number is larger than ours.
pub(super) async fn take_mark(
    context: &Context,
    partition: u16,
    fence: u64,
) -> Option<(Mark, u64)> {
    let mut backoff = Backoff::new();
    loop {
        match claim(context, partition, fence).await {
            Ok(claimed) => return claimed,
            Err(error) => context.note_unmarked(partition, &*error),
        }
        backoff.wait().await;
    }
}

/// One attempt at it. An error: the broker doesn't answer, or somebody has just written another one.
async fn claim(
    context: &Context,
    partition: u16,
    fence: u64,
) -> Result<Option<(Mark, u64)>, async_nats::Error> {
    let key = mark_key(partition);
    let entry = context.marks.entry(key.clone()).await?;
    let written = entry.filter(|entry| entry.operation == kv::Operation::Put);
    let (mut mark, revision) = match written {
        None => (Mark::default(), None),
        Some(entry) => match context.marker.open(partition, &entry.value) {
            Ok(mark) => (mark, Some(entry.revision)),
            Err(error) => {
                context.stats.refused_marks.add(1);
                context.notices.say(format!(
                    "the mark of partition {partition} can't be used: {error}; reading on with the oldest batch that the \
                     broker has"
                ));
                (Mark::default(), Some(entry.revision))
            }
        },
    };
    if mark.fence > fence {
        return Ok(None);
    }
    if mark.fence != 0 && mark.fence != fence && !mark.handed_over {
        context.stats.takeovers.add(1);
    }
    mark.fence = fence;
    let unclean = Mark {
        handed_over: false,
        ..mark.clone()
    };
    let sealed = context.marker.seal(partition, &unclean);
    let revision = match revision {
        None => context.marks.create(&key, sealed).await?,
        Some(revision) => context.marks.update(&key, sealed, revision).await?,
    };
    context.unmarked.over(partition);
    Ok(Some((mark, revision)))
}

impl Part<'_> {
    /// Begins the flows of the mark anew.
    pub(super) async fn tell_live_flows(&mut self, sources: Vec<SourceMark>) {
        for source in sources {
            let mut shadow = Shadow::default();
            let mut feed = None;
            if !source.gone {
                feed = (self.context.feeds)(&source.name, &source.terms);
            }
            if let Some(feed) = &feed {
                feed.preamble_begins();
                for events in source.flows {
                    shadow.apply(self.partition, &events);
                    let batch = self.batch(0, Bytes::from(events));
                    let Some(room) = feed.room(batch.event_bytes).await else {
                        break;
                    };
                    feed.push(batch, room, self.receipt(0));
                }
                feed.preamble_ends();
            }
            self.context.stats.continued_flows.add(shadow.len() as u64);
            let key = (source.instance, source.name, source.terms);
            self.sources.insert(
                key,
                Source {
                    feed,
                    number: source.number,
                    made_ms: source.made_ms,
                    marked: (source.number, source.made_ms),
                    shadow,
                    heard: Instant::now(),
                    gone: source.gone,
                },
            );
        }
    }

    /// Writes a mark if there is something new. False: somebody else has the partition.
    pub(super) async fn write_mark(&mut self, handed_over: bool) -> bool {
        if self.sequence == self.marked_sequence && !handed_over {
            return true;
        }
        let partition = self.partition;
        let mark = Mark {
            fence: self.fence,
            sequence: self.sequence,
            handed_over,
            sources: self
                .sources
                .iter()
                .map(|((instance, name, terms), source)| SourceMark {
                    instance: *instance,
                    name: name.clone(),
                    terms: terms.clone(),
                    number: source.marked.0,
                    made_ms: source.marked.1,
                    flows: flows(&source.shadow),
                    gone: source.gone,
                })
                .collect(),
        };
        let sealed = self.context.marker.seal(partition, &mark);
        let key = mark_key(partition);
        let context = self.context;
        let error = match context.marks.update(&key, sealed, self.revision).await {
            Ok(revision) => {
                self.is_marked(&mark, revision);
                return true;
            }
            Err(error) => error,
        };
        match context.marks.entry(key).await {
            Ok(Some(entry)) => match context.marker.open(partition, &entry.value) {
                // It was written all the same.
                Ok(found) if found == mark => {
                    self.is_marked(&mark, entry.revision);
                    true
                }
                Ok(found) if found.fence == self.fence => {
                    self.revision = entry.revision;
                    context.note_unmarked(partition, &error);
                    true
                }
                Ok(found) => found.fence < self.fence,
                Err(_) => false,
            },
            Ok(None) => false,
            // The broker isn't there: the permit ends by itself.
            Err(_) => {
                context.note_unmarked(partition, &error);
                true
            }
        }
    }

    fn is_marked(&mut self, mark: &Mark, revision: u64) {
        self.revision = revision;
        self.marked_sequence = mark.sequence;
        self.context.stats.marks.add(1);
        self.context.unmarked.over(self.partition);
    }

    /// Removes from the stream what nobody needs any more.
    pub(super) async fn purge(&mut self, subject: &str) {
        let interval = match self.context.is_tight() {
            true => TIGHT_PURGE_INTERVAL,
            false => PURGE_INTERVAL,
        };
        let due = self.purged_at.elapsed() >= interval;
        if due && self.marked_sequence > self.purged_sequence {
            self.purged_at = Instant::now();
            if self.context.purge(subject, self.marked_sequence).await {
                self.purged_sequence = self.marked_sequence;
            }
        }
    }
}

/// Live flows as batches of beginnings.
fn flows(shadow: &Shadow) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    let mut writer = BatchWriter::default();
    for (_, flow) in shadow.order() {
        let Some(event) = shadow.begin(flow) else {
            continue;
        };
        if !writer.push(&event) {
            batches.push(writer.take().to_vec());
            // Into an empty one fits what has fitted before.
            let _ = writer.push(&event);
        }
    }
    if !writer.is_empty() {
        batches.push(writer.take().to_vec());
    }
    debug_assert!(batches.iter().all(|batch| batch.len() <= MAX_BATCH_BYTES));
    batches
}
