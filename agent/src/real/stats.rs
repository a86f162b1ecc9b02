//! What became of flows behind proxies.

use crate::event::RealClientWay;

/// Why one side of a session isn't followed from some place on: nobody knows any more whose requests there are, or which of
/// them is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The client's text is no HTTP/1.x, or the server spoke first.
    NotHttp,
    /// It is HTTP/2.
    Http2,
    /// A head, or what waits in all, is too large.
    Size,
    /// A head took too long, or the session ended within it.
    Time,
    /// Text is missing.
    Hole,
    /// A request's end can't be told, or can be told in two ways.
    Framing,
    /// An answer's end can't be told, or one came that nobody had asked for.
    Answer,
    /// Too many clients, or requests, wait for answers at once.
    Crowd,
    /// It was joined when it had begun.
    Late,
}

impl Stop {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::NotHttp,
        Self::Http2,
        Self::Size,
        Self::Time,
        Self::Hole,
        Self::Framing,
        Self::Answer,
        Self::Crowd,
        Self::Late,
    ];

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::NotHttp => "no HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::Size => "a head too large",
            Self::Time => "a head not complete in time",
            Self::Hole => "a hole",
            Self::Framing => "a request without one clear end",
            Self::Answer => "an answer without one clear end",
            Self::Crowd => "too many clients at once",
            Self::Late => "joined late",
        }
    }
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RealStats {
    /// Sessions whose client is a trusted proxy.
    pub sessions: u64,
    /// Flows that got a client's address by `X-Forwarded-For`.
    pub by_x_forwarded_for: u64,
    /// … by `Forwarded`.
    pub by_forwarded: u64,
    /// … by a PROXY header.
    pub by_proxy_protocol: u64,
    /// Flows that keep the proxy's address.
    pub kept: u64,
    /// Requests that name no client.
    pub silent: u64,
    /// Requests whose fields name something else than an address.
    pub unusable: u64,
    /// Requests whose two fields name two clients.
    pub conflicts: u64,
    /// Sessions without a PROXY header where one was expected.
    pub headerless: u64,
    /// Bytes of PROXY headers, which are in no flow.
    pub header_bytes: u64,
    /// Sessions that aren't followed from some place on, by the first [`Stop`], in the order of [`Stop::ALL`].
    pub stopped: [u64; Stop::ALL.len()],
}

impl RealStats {
    pub(super) fn begun(&mut self, way: Option<RealClientWay>) {
        *match way {
            Some(RealClientWay::XForwardedFor) => &mut self.by_x_forwarded_for,
            Some(RealClientWay::Forwarded) => &mut self.by_forwarded,
            Some(RealClientWay::ProxyProtocol) => &mut self.by_proxy_protocol,
            None => &mut self.kept,
        } += 1;
    }

    pub(super) fn stopped(&mut self, why: Stop) {
        self.stopped[why as usize] += 1;
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        let Self {
            sessions,
            by_x_forwarded_for,
            by_forwarded,
            by_proxy_protocol,
            kept,
            silent,
            unusable,
            conflicts,
            headerless,
            header_bytes,
            stopped,
        } = other;
        self.sessions += sessions;
        self.by_x_forwarded_for += by_x_forwarded_for;
        self.by_forwarded += by_forwarded;
        self.by_proxy_protocol += by_proxy_protocol;
        self.kept += kept;
        self.silent += silent;
        self.unusable += unusable;
        self.conflicts += conflicts;
        self.headerless += headerless;
        self.header_bytes += header_bytes;
        let pairs = self.stopped.iter_mut().zip(stopped);
        pairs.for_each(|(sum, count)| *sum += count);
    }
}
