//! The agent's end in this process: reads rings as the agent does, and makes nothing of what it reads.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use agent::event::SessionChange;
use agent::intake::{Intake, IntakeConfig, IntakeStats};
use anyhow::{anyhow, ensure};

/// A thread that reads rings. It ends when this is dropped.
#[derive(Debug)]
pub struct Reader {
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    attached: Arc<AtomicBool>,
    /// Bytes of clear text, those included that were dropped.
    text_bytes: Arc<AtomicU64>,
    thread: Option<JoinHandle<IntakeStats>>,
}

/// What becomes of the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reads {
    /// They are read.
    All,
    /// They are granted, and then left alone.
    Nothing,
}

impl Reader {
    /// Listens at `socket` for one process to come.
    ///
    /// # Errors
    /// The socket can't be made.
    pub fn start(socket: &Path, reads: Reads) -> anyhow::Result<Self> {
        let socket = socket.to_owned();
        let mut intake = Intake::new(IntakeConfig::private(socket.clone()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let attached = Arc::new(AtomicBool::new(false));
        let text_bytes = Arc::new(AtomicU64::new(0));
        let (stopped, came, seen) = (
            Arc::clone(&stop),
            Arc::clone(&attached),
            Arc::clone(&text_bytes),
        );
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if reads == Reads::Nothing && came.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                let outcome = intake.poll(&mut |event| {
                    let bytes = match std::hint::black_box(event).change {
                        SessionChange::Data { bytes, .. } => bytes.len() as u64,
                        SessionChange::Lost { from, to, .. } => to - from,
                        _ => 0,
                    };
                    seen.fetch_add(bytes, Ordering::Relaxed);
                });
                if !outcome.more {
                    intake.wait(Duration::from_millis(20));
                }
                // The pages come in steps.
                if outcome.attached > 0 {
                    while intake.poll(&mut |_| {}).worked {}
                    came.store(true, Ordering::Release);
                }
            }
            intake.stats()
        });
        Ok(Self {
            socket,
            stop,
            attached,
            text_bytes,
            thread: Some(thread),
        })
    }

    /// Lets a program that is going to be started find this reader.
    pub fn mirrors(&self, command: &mut Command) {
        let user = rustix::process::geteuid().as_raw();
        command
            .env("SSLCOLLECTOR_SOCKET", &self.socket)
            .env("SSLCOLLECTOR_AGENT_UID", user.to_string());
    }

    /// Waits until so much clear text was read, in all.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_read(&self, bytes: u64) -> anyhow::Result<()> {
        let begin = Instant::now();
        while self.text_bytes.load(Ordering::Relaxed) < bytes {
            ensure!(
                begin.elapsed() < Duration::from_secs(20),
                "{} of {bytes} bytes were read: some were dropped",
                self.text_bytes.load(Ordering::Relaxed)
            );
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(())
    }

    /// Waits until a process has been given its ring.
    ///
    /// # Errors
    /// It takes too long.
    pub fn wait_attached(&self) -> anyhow::Result<()> {
        let begin = Instant::now();
        while !self.attached.load(Ordering::Acquire) {
            ensure!(
                begin.elapsed() < Duration::from_secs(20),
                "nobody asked for a ring"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Ends it; what it has counted.
    ///
    /// # Errors
    /// It has panicked.
    pub fn finish(mut self) -> anyhow::Result<IntakeStats> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or_else(|| anyhow!("runs once"))?;
        thread.join().map_err(|_| anyhow!("the reader panicked"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
