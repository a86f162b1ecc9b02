//! One connection of an agent, from its `Hello` to its end.
//!
//! Reading and writing go on side by side: while the workers have no room, or the quota is used up, nothing is
//! read, and TCP makes the agent's window wait; acknowledgements and pings go out all the same.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, split};
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};

use super::agent::AgentCounts;
use super::fleet::{Closing, Fleet, Phase, Seat};
use super::framed::{Reader, Writer};
use super::pending::Entry;
use crate::clock;
use crate::identity::{AgentRecord, refusal_text};
use crate::tunnel::frame::{
    Frame, Hello, Message, PING_SECONDS, Reason, Refused, Resume, VERSION, Welcome,
};

/// How long it may take to say hello.
const HELLO: Duration = Duration::from_secs(10);
/// Answers that wait to be written; more of them aren't given.
const ANSWERS: usize = 8;

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum End {
    /// The other side, or the way to it, is gone.
    Gone,
    /// We don't want it.
    Refused(Reason, String),
    /// We go.
    Leaving,
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl From<Reason> for End {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason, refusal_text(reason).to_owned())
    }
}

/// Serves a connection on which TLS, if there is any, is ready. `record`: who it is, or why it isn't let in.
pub(super) async fn serve<S>(
    stream: S,
    peer: SocketAddr,
    record: Result<Option<AgentRecord>, Reason>,
    fleet: Arc<Fleet>,
    pending: Entry,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = split(stream);
    let (mut reader, mut writer) = (Reader::new(reader), Writer::new(writer));
    let address = peer.ip().to_canonical();
    let end = match record {
        // Counted where it was found. It takes its time to hear that only as long as nobody needs its place.
        Err(reason) => {
            let dropped = pending.dropped();
            let who = peer.to_string();
            tokio::select! {
                () = part(reason.into(), &who, &fleet, reader, writer) => {}
                () = dropped.notified() => {}
            }
            return;
        }
        Ok(record) => greet(&mut reader, &mut writer, record, address, &fleet, pending).await,
    };
    if let Err(End::Refused(Reason::Unfinished, text)) = end {
        fleet.count(Reason::Unfinished);
        fleet.say_refused(Reason::Unfinished, format!("{peer} refused: {text}"));
        return;
    }
    // Its seat is kept to the very end: who waits for all to be gone waits for their last words.
    let (end, who, _seat) = match end {
        Err(end) => (end, peer.to_string(), None),
        Ok(seat) => {
            let who = format!("{} ({address})", seat.feed.info().agent.name());
            let end = talk(&mut reader, &mut writer, &seat, &fleet).await;
            (end, who, Some(seat))
        }
    };
    if let End::Refused(reason, _) = &end {
        fleet.count(*reason);
    }
    part(end, &who, &fleet, reader, writer).await;
}

/// Says why it ends, and sees that it is heard.
async fn part<S>(end: End, who: &str, fleet: &Fleet, mut reader: Reader<S>, mut writer: Writer<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let message = match end {
        End::Gone => return,
        End::Leaving => Message::Leaving,
        End::Refused(reason, text) => {
            fleet.say_refused(reason, format!("{who} refused: {text}"));
            Message::Refused(Refused { reason, text })
        }
    };
    let _ = timeout(Duration::from_secs(2), async {
        writer.send(&[message]).await?;
        writer.close().await?;
        // Bytes that nobody has read would turn the end into a reset, which may overtake the message.
        reader.drain().await
    })
    .await;
}

async fn greet<S>(
    reader: &mut Reader<S>,
    writer: &mut Writer<S>,
    record: Option<AgentRecord>,
    address: IpAddr,
    fleet: &Arc<Fleet>,
    pending: Entry,
) -> Result<Seat, End>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let dropped = pending.dropped();
    let hello = tokio::select! {
        hello = timeout(HELLO, read_hello(reader)) => hello.map_err(|_| Reason::Silent)??,
        () = dropped.notified() => return Err(Reason::Unfinished.into()),
    };
    drop(pending);
    if hello.version != VERSION {
        return Err(Reason::Version.into());
    }
    let seat = fleet.enter(record, address, &hello)?;
    // The time on the way is taken for nothing until there was a ping.
    if seat.clock_was_measured(difference(hello.clock_ns, now_ns())) {
        say_difference(&seat, fleet);
    }
    let welcome = Welcome {
        version: VERSION,
        epoch: fleet.epoch,
        resume: seat.resume,
        clock_ns: now_ns(),
    };
    writer.send(&[Message::Welcome(welcome)]).await?;
    Ok(seat)
}

async fn read_hello<S: AsyncRead>(reader: &mut Reader<S>) -> Result<Hello, End> {
    match reader.frame().await? {
        Frame::Message(Message::Hello(hello)) if hello.oldest > 0 => Ok(hello),
        _ => Err(Reason::Malformed.into()),
    }
}

/// Until one of both sides ends it.
async fn talk<S>(reader: &mut Reader<S>, writer: &mut Writer<S>, seat: &Seat, fleet: &Fleet) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (answer, answers) = mpsc::channel(ANSWERS);
    let end = tokio::select! {
        end = listen(reader, seat, fleet, answer) => end,
        end = speak(writer, seat, fleet, answers) => end,
    };
    if matches!(&end, End::Refused(Reason::Malformed | Reason::Oversized, _)) {
        // What such an agent says next can't be relied on either.
        seat.end_source();
    }
    end
}

/// Reads, for as long as something is to be read.
async fn listen<S: AsyncRead>(
    reader: &mut Reader<S>,
    seat: &Seat,
    fleet: &Fleet,
    answer: mpsc::Sender<Message>,
) -> End {
    let mut phase = fleet.phase();
    let mut ear = Ear {
        seat,
        fleet,
        answer,
        preamble: seat.resume == Resume::Anew,
        best_round_ns: u64::MAX,
        said_goodbye: false,
    };
    if ear.preamble {
        seat.feed.preamble_begins();
    }
    loop {
        let heard = async {
            let frame = reader.frame().await?;
            ear.hear(frame).await
        };
        tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase > Phase::Running) => break,
            heard = heard => match heard {
                Ok(()) => {}
                // While a batch waited for room.
                Err(End::Leaving) => break,
                Err(end) => return end,
            }
        }
    }
    // Whoever speaks ends it, behind the last acknowledgement.
    std::future::pending().await
}

/// What is known while frames are heard.
struct Ear<'a> {
    seat: &'a Seat,
    fleet: &'a Fleet,
    answer: mpsc::Sender<Message>,
    preamble: bool,
    best_round_ns: u64,
    said_goodbye: bool,
}

impl Ear<'_> {
    async fn hear(&mut self, frame: Frame) -> Result<(), End> {
        let seat = self.seat;
        let message = match frame {
            Frame::Batch(batch) if self.said_goodbye || (batch.seq == 0) != self.preamble => {
                return Err(Reason::Malformed.into());
            }
            Frame::Batch(batch) => {
                let bytes = batch.event_bytes;
                let room = seat.feed.room(bytes).await.ok_or(End::Leaving)?;
                seat.push(batch, room)
                    .map_err(|why| why.map_or(End::Gone, End::from))?;
                let waited = seat.quota.pay(bytes).await;
                if !waited.is_zero() {
                    let counts = &seat.feed.info().agent.counts;
                    let us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
                    AgentCounts::add(&counts.held_back_us, us);
                }
                return Ok(());
            }
            Frame::Message(message) => message,
        };
        match message {
            Message::PreambleEnd if self.preamble => {
                self.preamble = false;
                seat.feed.preamble_ends();
            }
            // Who asks more often than answers are read gets none.
            Message::Ping { sent_ns } => {
                let _ = self.answer.try_send(Message::Pong {
                    sent_ns,
                    answered_ns: now_ns(),
                });
            }
            Message::Pong {
                sent_ns,
                answered_ns,
            } => self.measure(sent_ns, answered_ns),
            Message::Goodbye => {
                self.said_goodbye = true;
                seat.end_source();
            }
            Message::Renew(request) => self.renew(request).await?,
            _ => return Err(Reason::Malformed.into()),
        }
        Ok(())
    }

    /// The shortest way there and back tells most of the clocks.
    fn measure(&mut self, sent_ns: u64, answered_ns: u64) {
        let now = now_ns();
        let Some(round) = now.checked_sub(sent_ns) else {
            return;
        };
        if round <= self.best_round_ns.saturating_mul(2) {
            self.best_round_ns = self.best_round_ns.min(round);
            if self
                .seat
                .clock_was_measured(difference(answered_ns, sent_ns + round / 2))
            {
                say_difference(self.seat, self.fleet);
            }
        }
    }

    async fn renew(&mut self, request: Vec<u8>) -> Result<(), End> {
        let (Some(identity), Some(record)) =
            (self.fleet.identity.clone(), self.seat.record.clone())
        else {
            return Err(Reason::Malformed.into());
        };
        // Writes to disk.
        let signed =
            tokio::task::spawn_blocking(move || identity.sign_renewal(&request, &record)).await;
        match signed {
            Ok(Ok(certificate)) => {
                let _ = self.answer.try_send(Message::Renewed(certificate));
                Ok(())
            }
            Ok(Err(refusal)) => Err(End::Refused(refusal.reason, refusal.to_string())),
            Err(_) => Err(Reason::CollectorFault.into()),
        }
    }
}

/// Writes acknowledgements, pings and answers, until it is to end.
async fn speak<S: AsyncWrite>(
    writer: &mut Writer<S>,
    seat: &Seat,
    fleet: &Fleet,
    mut answers: mpsc::Receiver<Message>,
) -> End {
    let mut phase = fleet.phase();
    let mut closing = seat.closing.clone();
    let mut ping = interval(Duration::from_secs(PING_SECONDS));
    let mut acknowledged = match seat.resume {
        Resume::From(_) => 0,
        Resume::Anew => seat.oldest - 1,
    };
    loop {
        let mut leaving = false;
        let message = tokio::select! {
            () = seat.acks.changed() => None,
            Some(answer) = answers.recv() => Some(answer),
            _ = ping.tick() => Some(Message::Ping { sent_ns: now_ns() }),
            _ = phase.wait_for(|phase| *phase == Phase::Leaving) => {
                leaving = true;
                None
            }
            why = closing.wait_for(Option::is_some) => return match why.as_deref() {
                Ok(Some(Closing::Refused(reason))) => (*reason).into(),
                _ => End::Gone,
            },
        };
        if let Some(error) = seat.acks.refused() {
            return End::Refused(Reason::Malformed, error.to_string());
        }
        let through = seat.acks.through();
        let ack = (through > acknowledged).then_some(Message::Ack { through });
        acknowledged = acknowledged.max(through);
        let messages: Vec<_> = ack.into_iter().chain(message).collect();
        if writer.send(&messages).await.is_err() {
            return End::Gone;
        }
        if leaving {
            return End::Leaving;
        }
    }
}

fn say_difference(seat: &Seat, fleet: &Fleet) {
    let agent = &seat.feed.info().agent;
    let difference_ns = agent
        .counts
        .clock_difference_ns
        .load(std::sync::atomic::Ordering::Relaxed);
    let way = if difference_ns > 0 {
        "ahead of"
    } else {
        "behind"
    };
    let ms = difference_ns.unsigned_abs() / 1_000_000;
    fleet.say(format!(
        "the clock of {} is {ms} ms {way} ours: its times are corrected by that",
        agent.name()
    ));
}

/// One clock minus another.
fn difference(one_ns: u64, other_ns: u64) -> i64 {
    i64::try_from(i128::from(one_ns) - i128::from(other_ns)).unwrap_or(i64::MAX)
}

fn now_ns() -> u64 {
    clock::wall_now().0
}
