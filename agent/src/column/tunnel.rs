//! Sessions to collectors, as they are: packets are forged there.

use std::sync::Arc;
use std::time::Instant;

use agent::identity::{Address, AgentIdentity};
use agent::tunnel::frame::Instance;
use agent::tunnel::outbox::{Outbox, OutboxStats};
use agent::tunnel::window::{Window, WindowStats};
use agent::tunnel::{Collector, Security, Sender, SenderConfig, SharedWindow, Spool, TunnelStatus};
use anyhow::Context;

use super::EndStats;
use super::away::{AwayEnd, Way};
use crate::config::TunnelChoice;

/// A sender for each window.
pub(super) struct TunnelWay {
    choice: TunnelChoice,
    /// What becomes of them when they begin.
    waiting: Vec<(SenderConfig, SharedWindow)>,
    senders: Vec<Sender>,
    spools: Vec<Spool>,
    complaints: Vec<String>,
}

/// What a tunnel has done.
#[derive(Clone, Debug)]
pub(crate) struct TunnelStats {
    /// What was told.
    pub(crate) outbox: OutboxStats,
    /// Bytes that wait on disk.
    pub(crate) spooled_bytes: u64,
    /// Each way it goes.
    pub(crate) links: Vec<LinkStats>,
}

/// What one sender has done.
#[derive(Clone, Debug)]
pub(crate) struct LinkStats {
    /// The collectors that it may go to, for people.
    pub(crate) collectors: String,
    /// How its connection stands.
    pub(crate) status: TunnelStatus,
    /// What became of its batches.
    pub(crate) window: WindowStats,
}

impl TunnelWay {
    pub(super) fn open(choice: &TunnelChoice) -> anyhow::Result<AwayEnd<Self>> {
        let collectors = collectors(choice)?;
        let groups: Vec<Vec<Collector>> = match choice.spread {
            true => collectors.into_iter().map(|one| vec![one]).collect(),
            false => vec![collectors],
        };
        let windows: Vec<_> = groups
            .iter()
            .map(|_| SharedWindow::new(Window::new(choice.window_bytes)))
            .collect();
        let spool = |window: &SharedWindow| {
            let spool = choice.spool.as_ref();
            spool.map(|(directory, bytes)| {
                Spool::start(window.clone(), directory, *bytes).with_context(|| {
                    format!(
                        "can't keep a file in {}: give another --spool",
                        directory.display()
                    )
                })
            })
        };
        let spools: anyhow::Result<Vec<_>> = windows.iter().filter_map(spool).collect();
        let spools = spools?;
        let config = |(collectors, window): (Vec<Collector>, &SharedWindow)| {
            let config = SenderConfig {
                collectors,
                compression: choice.compression,
                instance: Instance(crate::run::random()?),
            };
            Ok((config, window.clone()))
        };
        let waiting: anyhow::Result<Vec<_>> =
            groups.into_iter().zip(&windows).map(config).collect();
        let complaints = choice.plaintext.then(|| {
            format!("{choice} is in CLEAR TEXT (--insecure-plaintext): everybody on the way can read and change what is mirrored")
        });
        let way = Self {
            choice: choice.clone(),
            waiting: waiting?,
            senders: Vec::new(),
            spools,
            complaints: complaints.into_iter().collect(),
        };
        Ok(AwayEnd::new(Outbox::new(windows), way))
    }
}

/// The collectors, with what proves who is who.
fn collectors(choice: &TunnelChoice) -> anyhow::Result<Vec<Collector>> {
    let identity = match choice.plaintext {
        true => None,
        false => Some(AgentIdentity::load(&choice.state)?),
    };
    let collector = |address: &Address| {
        let security = match &identity {
            None => Security::Plaintext,
            Some(identity) => {
                let membership = identity.membership(&address.host, address.port)?;
                Security::Tls(Arc::new(membership))
            }
        };
        Ok(Collector {
            address: address.clone(),
            security,
        })
    };
    choice.collectors.iter().map(collector).collect()
}

impl Way for TunnelWay {
    fn begin(&mut self) -> anyhow::Result<()> {
        for (config, window) in self.waiting.drain(..) {
            let sender = Sender::start(config, window).context("can't start the tunnel")?;
            self.senders.push(sender);
        }
        Ok(())
    }

    fn finish(&mut self) {
        let until = Instant::now() + self.choice.linger;
        self.senders.iter().for_each(|sender| sender.finish(until));
        self.senders.iter_mut().for_each(Sender::join);
        for sender in &self.senders {
            let waiting = sender.window().lock().stats().waiting_batches;
            if waiting > 0 {
                self.complaints.push(format!(
                    "{} didn't acknowledge {waiting} batches within {} s (--linger): what they say may be MISSING there",
                    sender.collectors(),
                    self.choice.linger.as_secs(),
                ));
            }
        }
    }

    fn take_complaints(&mut self) -> Vec<String> {
        let mut complaints = std::mem::take(&mut self.complaints);
        complaints.extend(self.senders.iter().flat_map(Sender::take_complaints));
        complaints.extend(self.spools.iter().flat_map(Spool::take_complaints));
        complaints
    }

    fn stats(&self, outbox: OutboxStats) -> EndStats {
        let link = |sender: &Sender| LinkStats {
            collectors: sender.collectors().to_owned(),
            status: sender.status(),
            window: sender.window().lock().stats(),
        };
        EndStats {
            tunnel: Some(TunnelStats {
                outbox,
                spooled_bytes: self.spools.iter().map(Spool::bytes).sum(),
                links: self.senders.iter().map(link).collect(),
            }),
            ..EndStats::default()
        }
    }
}
