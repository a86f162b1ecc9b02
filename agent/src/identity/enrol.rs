//! One enrolment: a request, an answer, and the end of the connection.
//!
//! ```text
//! host ──>  length u32, little-endian │ postcard of EnrolRequest
//! host <──  length u32, little-endian │ postcard of EnrolAnswer
//! ```

use std::net::IpAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::certificate;
use super::collector::{CollectorIdentity, Refusal};
use super::registry::{AgentRecord, Applicant, network_text};
use crate::tunnel::frame::{Reason, Refused, VERSION};

/// Most bytes of either.
pub const MAX_ENROL_BYTES: usize = 16 * 1024;
/// How long one may take to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most addresses of a host that are looked at.
const MAX_HOST_ADDRESSES: usize = 256;

/// What a host asks.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// [`VERSION`].
    pub version: u16,
    /// From the token.
    pub id: [u8; 8],
    /// From the token.
    pub secret: [u8; 16],
    /// A request for a certificate (PKCS #10, DER).
    pub certificate_request: Vec<u8>,
    /// What the host calls itself.
    pub host: String,
    /// The addresses of its interfaces.
    pub addresses: Vec<IpAddr>,
}

impl std::fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("version", &self.version)
            .field("host", &self.host)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

/// What it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnrolAnswer {
    /// It is an agent now.
    Granted(Granted),
    /// It isn't.
    Refused(Refused),
}

/// What makes a host an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// What it is called.
    pub name: String,
    /// DER.
    pub certificate: Vec<u8>,
    /// Where the mirrored ends of its flows may be, for people.
    pub networks: Vec<String>,
}

/// A refusal in words, with what to do.
pub fn refusal_text(reason: Reason) -> &'static str {
    match reason {
        Reason::NoCertificate => {
            "the agent shows no certificate: it has to join first, with `sslcollector join TOKEN`"
        }
        Reason::UnknownCertificate => {
            "the agent's certificate isn't from this collector: join it with `sslcollector join TOKEN`"
        }
        Reason::WrongCollector => {
            "the agent has joined another collector: a token from `sslcollector enroll` on this one lets it in here, too"
        }
        Reason::Revoked => {
            "the agent was revoked: a new token from `sslcollector enroll` lets it in again, with `sslcollector join --again TOKEN`"
        }
        Reason::Expired => {
            "the agent's certificate has run out: join anew with `sslcollector join --again TOKEN`, or look at the clocks"
        }
        Reason::Version => "the two are of different versions: use the same one at both ends",
        Reason::Replayed => "this has come before, from another connection or with another token",
        Reason::Malformed => "what was sent can't be read",
        Reason::Oversized => "what was sent is larger than anything may be",
        Reason::Silent => "nothing came for too long",
        Reason::Unfinished => "it didn't say who it is before others needed its place",
        Reason::TooMany => "too many connections or wrong tokens: wait a minute and try again",
        Reason::TokenUnknown => {
            "the token is unknown here: make one with `sslcollector enroll` on this collector"
        }
        Reason::TokenUsed => {
            "the token was used already: each lets one host in; make another with `sslcollector enroll`. If you don't know who used it, look at `sslcollector agents`"
        }
        Reason::TokenExpired => {
            "the token has run out: make another with `sslcollector enroll`, which is good for 15 minutes or as --valid says"
        }
        Reason::CollectorFault => "the collector can't do its part: its log says why",
    }
}

impl EnrolRequest {
    /// With its length in front.
    ///
    /// # Panics
    /// Never: its fields can be written.
    pub fn encode(&self) -> Vec<u8> {
        framed(self)
    }

    /// Reads what came behind the length, which may come from anybody.
    ///
    /// # Errors
    /// [`Reason::Version`], [`Reason::Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, Reason> {
        let (version, _) = postcard::take_from_bytes::<u16>(body).map_err(|_| Reason::Malformed)?;
        if version != VERSION {
            return Err(Reason::Version);
        }
        let (mut request, rest) =
            postcard::take_from_bytes::<Self>(body).map_err(|_| Reason::Malformed)?;
        if !rest.is_empty() {
            return Err(Reason::Malformed);
        }
        request.addresses.truncate(MAX_HOST_ADDRESSES);
        Ok(request)
    }
}

impl EnrolAnswer {
    /// With its length in front.
    ///
    /// # Panics
    /// Never: its fields can be written.
    pub fn encode(&self) -> Vec<u8> {
        framed(self)
    }

    /// Reads what came behind the length; `None`: it is nothing that an answer could be.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let (answer, rest) = postcard::take_from_bytes(body).ok()?;
        rest.is_empty().then_some(answer)
    }
}

fn framed(message: &impl Serialize) -> Vec<u8> {
    let body = postcard::to_stdvec(message).expect("messages can be written");
    let length = u32::try_from(body.len()).expect("messages are short");
    [&length.to_le_bytes()[..], &body].concat()
}

impl CollectorIdentity {
    /// Serves one connection of `sslcollector join`, on which TLS has agreed on [`ENROL_ALPN`](super::ENROL_ALPN),
    /// and ends it; within 30 s. A refusal is counted.
    ///
    /// # Errors
    /// Why the host wasn't enrolled; it has been told.
    pub async fn serve_enrolment<S>(
        &self,
        mut stream: S,
        peer: IpAddr,
    ) -> Result<AgentRecord, Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let outcome = self.hear(&mut stream, peer).await;
        let answer = match &outcome {
            Ok((record, certificate)) => EnrolAnswer::Granted(Granted {
                name: record.name.clone(),
                certificate: certificate.clone(),
                networks: record.networks.iter().map(network_text).collect(),
            }),
            Err(refusal) => {
                self.refusals().add(refusal.reason);
                EnrolAnswer::Refused(Refused {
                    reason: refusal.reason,
                    text: refusal_text(refusal.reason).into(),
                })
            }
        };
        // Who doesn't take the answer has its token used all the same: that it came is known only to itself.
        let _ = timeout(PATIENCE, async {
            stream.write_all(&answer.encode()).await?;
            stream.shutdown().await?;
            // Bytes that nobody has read would turn the end into a reset, which may overtake the answer.
            let mut rest = [0; 1024];
            let mut left = MAX_ENROL_BYTES;
            while left > 0 {
                match stream.read(&mut rest).await? {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
            Ok::<_, std::io::Error>(())
        })
        .await;
        outcome.map(|(record, _)| record)
    }

    async fn hear<S>(&self, stream: &mut S, peer: IpAddr) -> Result<(AgentRecord, Vec<u8>), Refusal>
    where
        S: AsyncRead + Unpin,
    {
        let entered = self.inner.limits.enter(peer, Instant::now())?;
        let body = timeout(PATIENCE, read_body(stream))
            .await
            .map_err(|_| Reason::Silent)??;
        let request = EnrolRequest::decode(&body)?;
        let identity = self.clone();
        // Writes to disk, and waits for the lock.
        let outcome = tokio::task::spawn_blocking(move || identity.decide(&request)).await;
        let outcome = outcome.map_err(|_| Reason::CollectorFault)?;
        if matches!(&outcome, Err(refusal) if refusal.reason == Reason::TokenUnknown) {
            entered.was_wrong(Instant::now());
        }
        outcome
    }

    fn decide(&self, request: &EnrolRequest) -> Result<(AgentRecord, Vec<u8>), Refusal> {
        let key =
            certificate::requested_key(&request.certificate_request).ok_or(Reason::Malformed)?;
        let mut applicant = Applicant {
            id: request.id,
            secret: request.secret,
            key: super::KeyId::of_key(&key),
            host: &request.host,
            addresses: &request.addresses,
            certificate_until: 0,
        };
        self.enrol(&mut applicant, &key)
    }
}

async fn read_body(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Reason> {
    let length = stream.read_u32_le().await.map_err(|_| Reason::Malformed)? as usize;
    if length > MAX_ENROL_BYTES {
        return Err(Reason::Oversized);
    }
    let mut body = vec![0; length];
    let read = stream.read_exact(&mut body).await;
    read.map_err(|_| Reason::Malformed)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_a_reason(mut bytes: Vec<u8>, versioned: bool) {
            if versioned {
                bytes.insert(0, 1);
            }
            let _ = EnrolRequest::decode(&bytes);
            let _ = EnrolAnswer::decode(&bytes);
            let _ = certificate::requested_key(&bytes);
        }
    }

    #[test]
    fn what_is_sent_is_read() {
        let request = EnrolRequest {
            version: VERSION,
            id: [1; 8],
            secret: [2; 16],
            certificate_request: vec![3; 300],
            host: "web1".into(),
            addresses: vec!["::1".parse().unwrap()],
        };
        let framed = request.encode();
        assert_eq!(EnrolRequest::decode(&framed[4..]), Ok(request.clone()));
        for end in 4..framed.len() {
            assert_eq!(
                EnrolRequest::decode(&framed[4..end]),
                Err(Reason::Malformed)
            );
        }
        let longer = [&framed[4..], &[0]].concat();
        assert_eq!(EnrolRequest::decode(&longer), Err(Reason::Malformed));
        let other = EnrolRequest {
            version: VERSION + 1,
            ..request
        };
        assert_eq!(
            EnrolRequest::decode(&other.encode()[4..]),
            Err(Reason::Version)
        );
    }
}
