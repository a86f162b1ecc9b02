//! Sessions from their beginning to their end.

use std::collections::HashMap;

use super::record::{self, Counts, Ending};
use super::writer::LogWriter;
use crate::event::{FlowChange, FlowEvent, FlowInfo, FlowSink, Side, WallTime};

/// Counts what passes, and writes a line at each session's end. A session that lives takes about 500 bytes, and its names.
#[derive(Debug)]
pub struct SessionLog {
    live: HashMap<u64, Live>,
    writer: LogWriter,
}

#[derive(Debug)]
struct Live {
    info: FlowInfo,
    began: WallTime,
    last: WallTime,
    counts: Counts,
    finished: [bool; 2],
}

impl SessionLog {
    /// A log that this writes; others may use it, too.
    pub fn new(writer: LogWriter) -> Self {
        Self {
            live: HashMap::new(),
            writer,
        }
    }

    /// Who writes it.
    pub fn writer(&self) -> &LogWriter {
        &self.writer
    }

    /// Writes the lines of sessions that are open, as such, in the order in which they began.
    pub fn finish(&mut self, at: WallTime) {
        let mut open: Vec<_> = self.live.drain().collect();
        open.sort_unstable_by_key(|(flow, _)| *flow);
        for (_, mut live) in open {
            live.last = live.last.max(at);
            write(&self.writer, &live, Ending::Open);
        }
    }
}

impl FlowSink for SessionLog {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        let FlowEvent { flow, at, change } = event;
        if let FlowChange::Begin(info) = change {
            let live = Live {
                info: info.clone(),
                began: at,
                last: at,
                counts: Counts::before(info),
                finished: [false; 2],
            };
            self.live.insert(flow, live);
            return;
        }
        let Some(live) = self.live.get_mut(&flow) else {
            return;
        };
        live.last = at;
        let ending = match change {
            FlowChange::Begin(_) => None,
            FlowChange::Data { from, bytes, .. } => {
                live.counts.bytes[index(from)] += bytes.len() as u64;
                None
            }
            FlowChange::Hole { from, bytes, .. } => {
                live.counts.holes[index(from)] += 1;
                let missing = &mut live.counts.missing[index(from)];
                *missing = missing.saturating_add(bytes);
                None
            }
            FlowChange::Finish { from } => {
                live.finished[index(from)] = true;
                (live.finished == [true; 2]).then_some(Ending::Finished)
            }
            FlowChange::Reset { by, cause } => Some(Ending::Reset(by, cause)),
        };
        if let Some(ending) = ending
            && let Some(live) = self.live.remove(&flow)
        {
            write(&self.writer, &live, ending);
        }
    }
}

fn write(writer: &LogWriter, live: &Live, ending: Ending) {
    let times = (live.began, live.last);
    let line = record::session(&live.info, times, &live.counts, ending);
    writer.push(&line, live.last);
}

fn index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Server => 1,
    }
}
