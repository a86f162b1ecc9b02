//! nginx at the peer of a network, with the distribution's library: whom clients and proxies ask, and who logs what they asked.

use rustix::process::Signal;

use crate::network::{Network, PEER_WORDS};
use crate::nginx::{LogEntry, Nginx, Options};
use crate::place::Place;
use crate::process::Process;

/// It, in the place whose files it serves.
#[derive(Debug)]
pub struct Away<'a> {
    nginx: Nginx<'a>,
    process: Process,
}

impl<'a> Away<'a> {
    /// Starts it.
    ///
    /// # Panics
    /// If it doesn't come up.
    pub fn start(network: &Network, place: &'a Place) -> Self {
        let options = Options {
            addresses: PEER_WORDS,
            ..Options::default()
        };
        let nginx = Nginx::with(place, options);
        let process = network.serve_in_peer(&nginx.service());
        Self { nginx, process }
    }

    /// Where it speaks TLS.
    pub fn port(&self) -> u16 {
        self.nginx.port
    }

    /// Ends it; its log.
    ///
    /// # Panics
    /// If it doesn't end well.
    pub fn end(mut self) -> Vec<LogEntry> {
        self.process.signal(Signal::QUIT);
        assert!(self.process.wait().success(), "nginx");
        self.nginx.log()
    }
}
