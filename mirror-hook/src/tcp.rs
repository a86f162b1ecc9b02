//! What the kernel counts of a TCP connection: `tcp_info` (linux/tcp.h), as getsockopt(2) and sock_diag(7) give it.

/// Closed, or never connected: no counts are told of the connection that was (include/net/tcp_states.h).
pub const CLOSED: u8 = 7;
/// Waits for connections.
pub const LISTENING: u8 = 10;
/// The peer's FIN has come: close-wait, last-ack, closing.
const PEER_FINISHED: [u8; 3] = [8, 9, 11];
/// Ours is sent or waits: fin-wait 1 and 2, last-ack, closing.
const FINISHED: [u8; 4] = [4, 5, 9, 11];

/// The part of a `tcp_info` that says how much has passed. A FIN counts as a byte in the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// State of the connection (include/net/tcp_states.h).
    pub state: u8,
    /// Bytes that the program has put into the socket, whatever of that the network has seen.
    pub put_in: u64,
    /// Bytes that have come in order, and the peer's FIN, whatever of that the program has taken.
    pub arrived: u64,
}

impl TcpInfo {
    /// Bytes of those that have been there since Linux 4.19.
    pub const BYTES: usize = 216;

    /// Reads the structure; `None`: an older kernel's, or numbers that contradict each other.
    pub fn parse(info: &[u8]) -> Option<Self> {
        let info: &[u8; Self::BYTES] = info.first_chunk()?;
        let long = |at: usize| Some(u64::from_ne_bytes(*info.get(at..)?.first_chunk()?));
        let state = info[0];
        // tcpi_notsent_bytes, tcpi_bytes_received, tcpi_bytes_sent, tcpi_bytes_retrans.
        let mut unsent = u64::from(u32::from_ne_bytes(*info[144..].first_chunk()?));
        let (arrived, sent, again) = (long(128)?, long(200)?, long(208)?);
        if FINISHED.contains(&state) {
            unsent = unsent.saturating_sub(1);
        }
        Some(Self {
            state,
            // On their way for the first time, and waiting for that.
            put_in: sent.checked_sub(again)?.checked_add(unsent)?,
            arrived,
        })
    }

    /// Whether the peer's FIN is among what has arrived.
    pub fn peer_has_finished(&self) -> bool {
        PEER_FINISHED.contains(&self.state)
    }
}
