//! A host's programs below one agent that serves them all: nginx and curl by the patched library, a service on
//! rustls' streams, and one by the provider that rustls is given. Their peers are stock programs.

use std::net::IpAddr;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::curl::{Tls, Transfer, Truth};
use crate::examples::{end, server_at, start_as};
use crate::judges::HttpEvent;
use crate::network::{HOST, HOST_WORDS, Network, PEER, PEER_WORDS};
use crate::nginx::{Nginx, Options};
use crate::onwire::clear_text;
use crate::place::Place;
use crate::process::{Process, output_of, until};
use crate::service::Agent;

/// What fits what a program may write before the agent has looked at it.
const PAGE: usize = 20_000;
const LARGE: usize = 300_000;

/// The programs. They run until [`Applications::end`].
#[derive(Debug)]
pub struct Applications<'a> {
    place: &'a Place,
    network: &'a Network,
    agent: &'a Agent,
    nginx: Nginx<'a>,
    services: Vec<Process>,
    /// Of nginx first.
    ports: Vec<u16>,
    stock: Nginx<'a>,
    done: usize,
}

impl<'a> Applications<'a> {
    /// Files that they serve.
    pub const SIZES: [usize; 3] = [0, PAGE, LARGE];

    /// Starts them on this thread's host, and a stock nginx at the peer, whose files are in `away`.
    ///
    /// # Panics
    /// If one doesn't come up.
    pub fn start(
        network: &'a Network,
        place: &'a Place,
        away: &'a Place,
        agent: &'a Agent,
    ) -> Self {
        let nginx_at = |place: &'a Place, addresses| {
            let options = Options {
                addresses,
                ..Options::default()
            };
            Nginx::with(place, options)
        };
        let nginx = nginx_at(place, HOST_WORDS);
        nginx.start_with(|command| agent.prepare(command));
        let mut ports = vec![nginx.port];
        let mut services = Vec::new();
        for name in ["hyper-server", "axum-service"] {
            let service = server_at(place, name, "[::]");
            let mut command = Command::new("env");
            agent.prepare(&mut command);
            services.push(start_as(&service, command.stderr(Stdio::null())));
            ports.push(service.port);
        }
        let stock = nginx_at(away, PEER_WORDS);
        let words = stock.command(true);
        output_of(network.in_peer(&words[0]).args(&words[1..]));
        Self {
            place,
            network,
            agent,
            nginx,
            services,
            ports,
            stock,
            done: 0,
        }
    }

    /// The peer asks each service by IPv4 and by IPv6, and curl, mirrored, asks the peer's nginx. Returns what
    /// a monitor has to see of it, in order.
    ///
    /// # Panics
    /// If a transfer fails.
    pub fn talk(&mut self) -> Vec<HttpEvent> {
        let mut truths = Vec::new();
        // What a program says before the agent has looked at it is bounded.
        for port in self.ports.clone() {
            truths.push(self.asked(HOST[0], port, Transfer::get("get", 0)));
        }
        let length =
            |truth: &Truth| truth.response.len() + truth.request.as_ref().map_or(0, Vec::len);
        let bytes: usize = truths.iter().map(length).sum();
        until("all that was said at the agent", || {
            self.agent.signal(Signal::USR1);
            (clear_text(&self.agent.said())? >= bytes as u64).then_some(())
        });
        for port in self.ports.clone() {
            for address in HOST {
                truths.push(self.asked(address, port, Transfer::get("get", LARGE)));
                truths.push(self.asked(address, port, Transfer::post(PAGE)));
                truths.push(self.asked(address, port, Transfer::many(PAGE, 3)));
            }
        }
        for address in PEER {
            truths.push(self.ask(address, Transfer::get("get", PAGE)));
            truths.push(self.ask(address, Transfer::post(PAGE)));
        }
        let events = truths.iter().flat_map(|truth| {
            let transactions = truth.transactions.iter();
            transactions.map(|transaction| HttpEvent {
                port: truth.port,
                method: transaction.method.into(),
                url: transaction.url.clone(),
                status: transaction.status,
                length: transaction.received.len() as u64,
            })
        });
        let mut events: Vec<_> = events.collect();
        assert!(events.iter().all(|event| event.status == 200), "{events:?}");
        events.sort();
        events
    }

    /// A stock curl at the peer asks one of the services.
    fn asked(&mut self, address: IpAddr, port: u16, transfer: Transfer) -> Truth {
        let command = self.network.in_peer("sh");
        self.transfer(command, (address, port), transfer)
    }

    /// curl on this host, mirrored, asks the peer.
    fn ask(&mut self, address: IpAddr, transfer: Transfer) -> Truth {
        let mut command = Command::new("sh");
        self.agent.prepare(&mut command);
        let port = self.stock.port;
        self.transfer(command, (address, port), transfer)
    }

    fn transfer(&mut self, mut shell: Command, server: (IpAddr, u16), transfer: Transfer) -> Truth {
        self.done += 1;
        let name = format!("{}-{}", self.done, transfer.name);
        let transfer = Transfer { name, ..transfer };
        let script = transfer.script(self.place, server, Tls::V1_3);
        output_of(shell.args(["-c", &script]));
        transfer.truth(self.place)
    }

    /// Ends them in good order.
    ///
    /// # Panics
    /// If one doesn't.
    pub fn end(self) {
        self.services.into_iter().for_each(end);
        self.nginx.quit();
        self.stock.quit();
    }
}
