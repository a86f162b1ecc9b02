//! Packets in order of time in a file, which may be followed by others. A disk that takes no more is waited for.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use agent::event::{FlowEvent, FlowSink, PacketSink, WallTime};
use agent::forge::{ForgeConfig, Forger, Mtu, SequenceKey, View};
use agent::helper::Helper;
use agent::output::{FileSink, Hope, Reorder};
use anyhow::Context;

use super::stream::StreamEnd;
use super::{End, EndStats};
use crate::rotation::{CaptureFile, RotationChoice};

/// When a next file that couldn't be begun is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// A file.
pub(super) struct FileEnd {
    forger: Forger<Reorder<FileSink>>,
    /// What follows it; nothing behind standard output.
    file: Option<CaptureFile>,
    /// Another file is to be begun as soon as it can be.
    wants_next: bool,
    /// Since when the next file can't be begun, as of the last attempt.
    stuck: Option<Instant>,
    /// What is to be told by the next call that can.
    error: Option<io::Error>,
    complaints: Vec<String>,
}

/// Opens the file `path`; what isn't one (a pipe, a device) is written as standard output is.
pub(super) fn open(
    path: &Path,
    rotation: RotationChoice,
    key: &SequenceKey,
    helper: Option<(Helper, u32)>,
) -> anyhow::Result<Box<dyn End>> {
    let opened = CaptureFile::open(path, rotation, helper);
    let (next, file) = opened
        .with_context(|| format!("can't write {}: give another file with -w", path.display()))?;
    end_for(&path.display().to_string(), file, Some(next), key)
}

/// Opens standard output.
pub(super) fn open_stdout(key: &SequenceKey) -> anyhow::Result<Box<dyn End>> {
    let stdout = rustix::io::dup(rustix::stdio::stdout());
    let stdout = stdout.context("can't write standard output")?;
    end_for("standard output", stdout.into(), None, key)
}

fn end_for(
    name: &str,
    file: File,
    next: Option<CaptureFile>,
    key: &SequenceKey,
) -> anyhow::Result<Box<dyn End>> {
    let config = ForgeConfig {
        key: *key,
        mtu: Mtu::default(),
        view: View::default(),
    };
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    if !is_file {
        return Ok(Box::new(StreamEnd::new(name, file, config)));
    }
    let sink = FileSink::begin(name, file).with_context(|| format!("can't write {name}"))?;
    Ok(Box::new(FileEnd {
        forger: Forger::new(config, Reorder::new(sink)),
        file: next,
        wants_next: false,
        stuck: None,
        error: None,
        complaints: Vec::new(),
    }))
}

impl FileEnd {
    fn sink(&mut self) -> &mut FileSink {
        self.forger.sink_mut().sink_mut()
    }

    /// Completes the file, and goes on in another, if it can be begun.
    fn begin_next(&mut self, at: WallTime) -> io::Result<()> {
        let Some(file) = self.file.as_ref().filter(|file| !file.is_last()) else {
            self.wants_next = false;
            return Ok(());
        };
        let tried = self.stuck.is_some_and(|tried| tried.elapsed() < TRY_AGAIN);
        self.wants_next = true;
        if tried {
            return Ok(());
        }
        let next = match file.next() {
            Ok(next) => next,
            Err(error) => {
                if self.stuck.replace(Instant::now()).is_none() {
                    self.complaints.push(format!(
                        "can't begin another file ({error}): goes on in the one before until it can"
                    ));
                }
                return Ok(());
            }
        };
        self.wants_next = false;
        self.stuck = None;
        self.forger.turn_over(at);
        let window = self.forger.sink_mut();
        window.finish()?;
        window.begin_anew();
        window.sink_mut().replace(next)?;
        let bytes = self.file_bytes();
        if let Some(file) = &mut self.file {
            file.began(bytes);
        }
        Ok(())
    }

    /// Goes on with a file that isn't written, if that can be. Looks `at_once`, or when it is time to.
    fn recover(&mut self, at: WallTime, at_once: bool) -> io::Result<()> {
        let mut hope = self.sink().look(at_once);
        let next = self.file.as_ref().filter(|file| !file.is_last());
        match (hope, next) {
            (Hope::Elsewhere, None) => return self.sink().failure().map_or(Ok(()), Err),
            (Hope::Elsewhere, Some(_)) => self.begin_next(at)?,
            (Hope::Next, Some(file)) if file.is_rotated() => self.begin_next(at)?,
            _ => {}
        }
        if matches!(hope, Hope::Elsewhere | Hope::Next) {
            hope = self.sink().look(true);
        }
        if hope == Hope::Room {
            // What was forged before, and waits for its time, goes on from what is lost.
            self.forger.sink_mut().finish()?;
            if let Some(losses) = self.sink().resume()? {
                let first = |from, to| losses.first(from, to);
                self.forger.restart_all(first, at);
            }
        }
        Ok(())
    }

    fn is_full(&mut self) -> bool {
        let Some(file) = self.file.take() else {
            return false;
        };
        let is_full = file.is_full(|| self.file_bytes());
        self.file = Some(file);
        is_full
    }

    fn is_old(&self) -> bool {
        self.file.as_ref().is_some_and(CaptureFile::is_old)
    }

    /// Whether another file may follow for its size or time. While the disk is full, none follows one without
    /// packets: it would push out one that has some.
    fn may_turn(&mut self) -> bool {
        let sink = self.sink();
        !sink.is_lost() || sink.packets() > 0
    }

    /// Begins another file because somebody has asked for it, or one couldn't be begun before. That pushes out none, as
    /// time does, before it can be written itself.
    fn turn_as_asked(&mut self, at: WallTime) -> io::Result<()> {
        let waits = self.stuck.is_some_and(|tried| tried.elapsed() < TRY_AGAIN);
        if waits || !self.may_turn() {
            return Ok(());
        }
        if self.sink().has_room_beside() {
            return self.begin_next(at);
        }
        if self.stuck.replace(Instant::now()).is_none() {
            self.complaints.push(
                "no room for another file: goes on in the one before until there is; free some space"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// What the packets that were forged take in files, about: each has a block of its own.
    fn file_bytes(&mut self) -> u64 {
        const BLOCK_BYTES: u64 = 36;
        let stats = self.forger.stats();
        let bytes = stats.frame_bytes + stats.packets * BLOCK_BYTES;
        bytes.saturating_sub(self.sink().lost_bytes())
    }
}

impl End for FileEnd {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.forger.flow_event(event);
        // Here, since a turn may bring more than a file shall have.
        if self.is_full() && self.may_turn() && self.error.is_none() {
            self.error = self.begin_next(event.at).err();
        }
    }

    fn release(&mut self, until: WallTime) -> io::Result<()> {
        self.error.take().map_or(Ok(()), Err)?;
        self.forger.take_error().map_or(Ok(()), Err)?;
        let window = self.forger.sink_mut();
        window.release(until)?;
        window.sink_mut().flush()?;
        self.recover(until, false)?;
        if self.is_old() && self.may_turn() {
            return self.begin_next(until);
        }
        match self.wants_next {
            true => self.turn_as_asked(until),
            false => Ok(()),
        }
    }

    fn turn_over(&mut self, at: WallTime) -> io::Result<()> {
        self.wants_next = self.file.is_some();
        match self.wants_next {
            true => self.turn_as_asked(at),
            false => Ok(()),
        }
    }

    fn finish(&mut self, at: WallTime) -> io::Result<()> {
        self.error.take().map_or(Ok(()), Err)?;
        self.recover(at, true)?;
        self.forger.finish(at);
        self.forger.take_error().map_or(Ok(()), Err)?;
        self.forger.sink_mut().finish()?;
        self.sink().failure().map_or(Ok(()), Err)
    }

    fn take_complaints(&mut self) -> Vec<String> {
        let mut complaints = std::mem::take(&mut self.complaints);
        complaints.extend(self.sink().take_complaints());
        complaints
    }

    fn stats(&mut self) -> EndStats {
        EndStats {
            forge: Some(self.forger.stats()),
            window: self.forger.sink_mut().stats(),
            sent: self.sink().stats(),
            ..EndStats::default()
        }
    }
}
