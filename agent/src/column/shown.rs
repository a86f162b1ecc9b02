//! How sessions are shown where packets are made: from where their beginning is known, HTTP/2 as HTTP/1.1, and under the
//! address of who is behind a proxy.

use agent::event::{FlowEvent, FlowSink, WallTime};
use agent::midstream::{Audience, LateSessions, LateStats, Midstream};
use agent::real::{Policy, RealClients, RealStats, Way};
use agent::transform::{Http1, TransformStats};

use crate::config::Http2As;

/// What stands between the flows and the outputs whose packets are made here.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// Sessions whose beginning nobody saw.
    late: LateSessions,
    rest: Retold,
}

/// The outputs whose packets are made here.
pub(super) trait Outputs: FlowSink {
    /// For the log of sessions alone.
    fn log_event(&mut self, event: FlowEvent<'_>);
}

/// What is done to whole streams.
#[derive(Debug, Default)]
struct Retold {
    http1: Option<Http1>,
    real_clients: Option<RealClients>,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShownStats {
    pub(crate) late: LateStats,
    pub(crate) http1: TransformStats,
    pub(crate) real: RealStats,
}

impl Shown {
    /// As was asked for.
    pub(crate) fn new(midstream: Midstream, http2: Http2As, real_clients: Option<Policy>) -> Self {
        Self {
            late: LateSessions::new(midstream),
            rest: Retold {
                http1: match http2 {
                    Http2As::Itself => None,
                    Http2As::Http1 => Some(Http1::new()),
                    Http2As::DecodedHttp1 => Some(Http1::new().with_decoding()),
                },
                real_clients: real_clients.map(RealClients::new),
            },
        }
    }

    /// For another worker, whose flows come out beside ours.
    pub(crate) fn beside(&self) -> Self {
        let Retold {
            http1,
            real_clients,
        } = &self.rest;
        Self {
            late: self.late.beside(),
            rest: Retold {
                http1: http1.as_ref().map(Http1::beside),
                real_clients: real_clients.as_ref().map(RealClients::beside),
            },
        }
    }

    /// Takes an event, and hands on what is to be shown.
    pub(super) fn flow_event(&mut self, event: FlowEvent<'_>, outputs: &mut dyn Outputs) {
        let Self { late, rest } = self;
        late.flow_event(event, &mut |audience, event| {
            rest.tell(audience, event, outputs);
        });
    }

    /// All that happened before `now` has been taken: what has waited long enough waits no more.
    pub(super) fn expire(&mut self, now: WallTime, sink: &mut dyn FlowSink) {
        let act = |real: &mut RealClients, sink: &mut dyn FlowSink| real.expire(now, sink);
        self.rest.let_go(act, sink);
    }

    /// Nothing more comes: nothing waits any more.
    pub(super) fn finish(&mut self, outputs: &mut dyn Outputs) {
        let Self { late, rest } = self;
        late.finish(&mut |audience, event| rest.tell(audience, event, outputs));
        rest.let_go(RealClients::finish, outputs);
    }

    /// The earliest time of what waits here for what follows it.
    pub(crate) fn oldest_held(&self) -> Option<WallTime> {
        let real = self.rest.real_clients.as_ref();
        real.and_then(RealClients::oldest_held)
    }

    /// Counts so far.
    pub(crate) fn stats(&self) -> ShownStats {
        let http1 = self.rest.http1.as_ref().map(Http1::stats);
        let real = self.rest.real_clients.as_ref().map(RealClients::stats);
        ShownStats {
            late: self.late.stats(),
            http1: http1.unwrap_or_default(),
            real: real.unwrap_or_default(),
        }
    }
}

impl Retold {
    fn tell(&mut self, audience: Audience, event: FlowEvent<'_>, outputs: &mut dyn Outputs) {
        match audience {
            Audience::All => self.flow_event(event, outputs),
            Audience::Log => outputs.log_event(event),
        }
    }

    fn flow_event(&mut self, event: FlowEvent<'_>, sink: &mut dyn FlowSink) {
        match (&mut self.http1, &mut self.real_clients) {
            (None, None) => sink.flow_event(event),
            (Some(http1), None) => http1.flow_event(event, sink),
            (None, Some(real)) => real.flow_event(event, sink),
            // A PROXY header stands in front of the connection preface; X-Forwarded-For is read of HTTP/1.1.
            (Some(http1), Some(real)) => match real.way() {
                Way::ProxyProtocol => real.flow_event(event, &mut InHttp1(http1, sink)),
                Way::Xff => http1.flow_event(event, &mut Behind(real, sink)),
            },
        }
    }

    fn let_go(
        &mut self,
        act: impl FnOnce(&mut RealClients, &mut dyn FlowSink),
        sink: &mut dyn FlowSink,
    ) {
        match (&mut self.http1, &mut self.real_clients) {
            (_, None) => {}
            (Some(http1), Some(real)) if real.way() == Way::ProxyProtocol => {
                act(real, &mut InHttp1(http1, sink));
            }
            (_, Some(real)) => act(real, sink),
        }
    }
}

impl ShownStats {
    /// Adds another worker's.
    pub(crate) fn add(&mut self, other: &Self) {
        self.late.add(&other.late);
        self.http1.add(&other.http1);
        self.real.add(&other.real);
    }
}

/// What comes out is told as HTTP/1.1.
struct InHttp1<'a>(&'a mut Http1, &'a mut dyn FlowSink);

impl FlowSink for InHttp1<'_> {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.0.flow_event(event, self.1);
    }
}

/// What comes out is shown under clients' addresses.
struct Behind<'a>(&'a mut RealClients, &'a mut dyn FlowSink);

impl FlowSink for Behind<'_> {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.0.flow_event(event, self.1);
    }
}
