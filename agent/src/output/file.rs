//! A capture on a disk, which may be full.
//!
//! Blocks are written whole or not at all: what a failing write has left of one is cut off again, so the file is
//! complete whenever nobody writes to it. A disk that takes no more is waited for. Packets are lost meanwhile, which
//! is counted and said, and [`FileSink::resume`] tells when the flows have to begin anew. A file that is as large as one
//! may be (EFBIG; whoever runs this catches SIGXFSZ) is no different, but that another one takes what follows.
//!
//! ```text
//!            write fails: cut behind the last whole block
//!    Writing ───────────────────────────────────────────> Lost: packets are counted, not written
//!       ^                                                  │ every 500 ms: is there room for a while?
//!       └── a block that tells how many are missing <──────┘ yes
//! ```

use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl, fstatvfs};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::losses::{Losses, SendStats};
use super::pcapng::{PcapngWriter, blocks, frame};
use crate::event::{Packet, PacketSink, WallTime};

/// What is written at once.
const BUFFER_BYTES: usize = 64 << 10;
/// So much has to be free before it goes on: each time costs every live flow a new handshake.
const ROOM_BYTES: u64 = 1 << 20;
/// How often room is looked for at first, and where it is gone again before so much was written.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOOK_SELDOM: Duration = Duration::from_secs(30);

/// Writes a capture to a file.
#[derive(Debug)]
pub struct FileSink {
    name: String,
    file: File,
    /// Where the file ends: behind the last whole block of ours.
    end: u64,
    /// The blocks that every capture begins with.
    header: Vec<u8>,
    /// They aren't in it yet.
    bare: bool,
    /// Packets of ours in it.
    packets: u64,
    /// What waits to be written, and how many packets that are.
    blocks: PcapngWriter<Vec<u8>>,
    waiting: u64,
    /// Why nothing is written at the moment.
    lost: Option<Outage>,
    look_every: Duration,
    looked_at: Instant,
    /// Where the file ended when it was written again.
    resumed_at: u64,
    /// The last packet's time.
    at: WallTime,
    complaints: Vec<String>,
    stats: SendStats,
    /// What the packets that were lost would have taken.
    lost_bytes: u64,
}

#[derive(Debug)]
struct Outage {
    cause: io::Error,
    /// Packets lost in it, and the clear text in them.
    packets: u64,
    text_bytes: u64,
    losses: Losses,
    /// What a failed write left couldn't be cut off.
    spoilt: bool,
}

/// What there is to do for a file that isn't written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hope {
    /// Nothing but wait; or it is written.
    None,
    /// There is room again: [`FileSink::resume`].
    Room,
    /// It is as large as a file may be: [`FileSink::replace`], where others may follow it.
    Next,
    /// Somebody has removed it or changed it: [`FileSink::replace`].
    Elsewhere,
}

impl FileSink {
    /// Begins a capture where the file stands now. One that can't be written yet is waited for. People know it by
    /// `name`.
    ///
    /// # Errors
    /// It has no end to stand at: a pipe, or a device.
    pub fn begin(name: &str, mut file: File) -> io::Result<Self> {
        let end = position(&mut file)?;
        let mut blocks = PcapngWriter::new(Vec::new())?;
        blocks.flush()?;
        let mut sink = Self {
            name: name.to_owned(),
            file,
            end,
            header: blocks.get_mut().clone(),
            bare: true,
            packets: 0,
            blocks,
            waiting: 0,
            lost: None,
            look_every: LOOK_EVERY,
            looked_at: Instant::now(),
            resumed_at: end,
            at: WallTime(0),
            complaints: Vec::new(),
            stats: SendStats::default(),
            lost_bytes: 0,
        };
        sink.write_out()?;
        Ok(sink)
    }

    /// Goes on in another file; what waits has to be written before. Where the one before couldn't be written, this one
    /// isn't before [`FileSink::resume`].
    ///
    /// # Errors
    /// As for [`FileSink::begin`]; it goes on in the one before then.
    pub fn replace(&mut self, mut file: File) -> io::Result<()> {
        self.end = position(&mut file)?;
        self.file = file;
        self.bare = true;
        self.packets = 0;
        self.resumed_at = self.end;
        match &mut self.lost {
            Some(outage) => {
                outage.spoilt = false;
                Ok(())
            }
            None => {
                self.blocks.get_mut().extend_from_slice(&self.header);
                self.write_out()
            }
        }
    }

    /// The counts so far, of all files. Bytes are those of the frames.
    pub fn stats(&self) -> SendStats {
        self.stats
    }

    /// What the packets that were lost would have taken in files.
    pub fn lost_bytes(&self) -> u64 {
        self.lost_bytes
    }

    /// Packets in this file.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// Whether packets are lost at the moment.
    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Looks what there is to do for a file that isn't written: `at_once`, or if it is time to.
    pub fn look(&mut self, at_once: bool) -> Hope {
        let Some(outage) = &self.lost else {
            return Hope::None;
        };
        let now = Instant::now();
        if !at_once && now.duration_since(self.looked_at) < self.look_every {
            return Hope::None;
        }
        self.looked_at = now;
        let same = |file: Metadata| file.nlink() > 0 && file.len() == self.end;
        if outage.spoilt || !self.file.metadata().is_ok_and(same) {
            return Hope::Elsewhere;
        }
        match room(&self.file, self.end) {
            Room::Here => Hope::Room,
            // One that takes not even a packet is followed by none that takes more.
            Room::Beside if self.packets > 0 => Hope::Next,
            Room::Beside | Room::None => Hope::None,
        }
    }

    /// Whether another file beside this one could be written for a while now.
    pub fn has_room_beside(&self) -> bool {
        room(&self.file, self.end) != Room::None
    }

    /// Writes again. Returns what was lost: live flows have to begin anew behind it. Nothing: it still can't.
    ///
    /// # Errors
    /// The block that tells of the loss can't be made.
    pub fn resume(&mut self) -> io::Result<Option<Losses>> {
        self.write_out()?;
        let Some(outage) = self.lost.take() else {
            return Ok(None);
        };
        let Outage {
            packets,
            text_bytes,
            ..
        } = outage;
        let unseen = self.bare || self.packets == 0;
        if self.bare {
            self.blocks.get_mut().extend_from_slice(&self.header);
        }
        let words = format!(
            "{packets} packets with {text_bytes} bytes of clear text are missing here: {}",
            outage.cause
        );
        self.blocks.missing(self.at, self.stats.lost, &words)?;
        self.resumed_at = self.end;
        let lines = self.complaints.len();
        self.write_out()?;
        if self.lost.is_some() {
            // As if nothing had been tried.
            self.lost = Some(outage);
            self.complaints.truncate(lines);
            self.stats.outages -= 1;
            return Ok(None);
        }
        self.complaints.push(format!(
            "{} is written again: {packets} packets with {text_bytes} bytes of clear text were LOST, live sessions begin anew",
            self.name
        ));
        Ok(Some(match unseen {
            true => Losses::of_all(),
            false => outage.losses,
        }))
    }

    /// Why it isn't written, if it isn't.
    pub fn failure(&self) -> Option<io::Error> {
        let cause = &self.lost.as_ref()?.cause;
        Some(match cause.raw_os_error() {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::new(cause.kind(), cause.to_string()),
        })
    }

    /// What people should know, a line each; once.
    pub fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// Writes what waits, as many whole blocks as the disk takes. The others are lost.
    fn write_out(&mut self) -> io::Result<()> {
        self.blocks.flush()?;
        let waiting = std::mem::take(&mut self.waiting);
        let mut bytes = std::mem::take(self.blocks.get_mut());
        let (written, cause) = match self.lost {
            Some(_) => (0, None),
            None => write_all(&mut self.file, &bytes),
        };
        if self.lost.is_none() && cause.is_none() {
            self.bare &= bytes.is_empty();
            self.end += bytes.len() as u64;
            self.packets += waiting;
            self.stats.frames += waiting;
        } else {
            self.lose(&bytes, written, cause);
        }
        bytes.clear();
        *self.blocks.get_mut() = bytes;
        Ok(())
    }

    /// Of these blocks so many bytes were written, or none. Keeps the whole ones, and counts the others as lost.
    fn lose(&mut self, bytes: &[u8], written: usize, cause: Option<io::Error>) {
        if let Some(cause) = cause {
            self.stats.outages += 1;
            self.complaints.push(trouble(&self.name, &cause));
            // Room that is gone at once is looked for less often.
            self.look_every =
                match self.end - self.resumed_at < ROOM_BYTES && self.stats.outages > 1 {
                    true => (self.look_every * 2).min(LOOK_SELDOM),
                    false => LOOK_EVERY,
                };
            self.looked_at = Instant::now();
            self.lost = Some(Outage {
                cause,
                packets: 0,
                text_bytes: 0,
                losses: Losses::default(),
                spoilt: false,
            });
        }
        let Some(outage) = &mut self.lost else {
            return;
        };
        let begun = if self.bare { self.header.len() } else { 0 };
        let mut kept = 0;
        for (start, block) in blocks(bytes) {
            let end = start + block.len();
            let frame = frame(block);
            if end <= written && written >= begun {
                kept = end;
                let packets = u64::from(frame.is_some());
                self.packets += packets;
                self.stats.frames += packets;
            } else if let Some(frame) = frame {
                let text_bytes = outage.losses.note(frame);
                outage.packets += 1;
                outage.text_bytes += text_bytes;
                self.stats.lost += 1;
                self.stats.bytes -= frame.len() as u64;
                self.stats.lost_text_bytes += text_bytes;
                self.lost_bytes += block.len() as u64;
            }
        }
        self.bare &= kept == 0;
        self.end += kept as u64;
        if written > 0 {
            outage.spoilt = cut(&mut self.file, self.end, written - kept).is_err();
        }
    }
}

impl PacketSink for FileSink {
    /// Keeps the packet until enough wait, or they are flushed. The disk's trouble is no error: it is counted.
    fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
        self.at = packet.at;
        self.blocks.packet(packet)?;
        self.waiting += 1;
        self.stats.bytes += packet.frame.len() as u64;
        match self.blocks.waiting_bytes() >= BUFFER_BYTES {
            true => self.write_out(),
            false => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.waiting {
            0 => Ok(()),
            _ => self.write_out(),
        }
    }
}

/// What people are told.
fn trouble(name: &str, cause: &io::Error) -> String {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match cause.kind() {
        StorageFull | QuotaExceeded => format!(
            "no room left for {name}: packets are LOST until there is; free some space, and it goes on by itself"
        ),
        FileTooLarge => format!(
            "{name} is as large as a file may be (ulimit -f, LimitFSIZE=, or its file system's limit): packets are LOST \
             until another one is begun, by --rotate-size or SIGHUP, or the limit is raised (prlimit --fsize)"
        ),
        _ => format!("can't write {name}: {cause}; packets are LOST until it can be written"),
    }
}

/// Where a file is written next.
fn position(file: &mut File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a pipe or a device",
        ));
    }
    match fcntl_getfl(&*file)?.contains(OFlags::APPEND) {
        true => Ok(metadata.len()),
        false => file.stream_position(),
    }
}

/// Writes as much as can be written; how many bytes that is, and why it isn't all.
fn write_all(file: &mut File, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

/// Ends the file at `end`, behind which a write has left so many bytes.
fn cut(file: &mut File, end: u64, left: usize) -> io::Result<()> {
    // What somebody else has written there isn't ours to cut.
    if file.metadata()?.len() != end + left as u64 {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    file.set_len(end)?;
    file.seek(SeekFrom::Start(end)).map(drop)
}

/// Where bytes could be written for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Here,
    /// In another file alone: this one is as large as one may be.
    Beside,
    None,
}

/// Where there is room for more than a file has that ends at `end`. Nothing of it changes.
fn room(file: &File, end: u64) -> Room {
    let on_disk = || {
        fstatvfs(file).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) >= ROOM_BYTES)
    };
    let or_none = |has_room: bool, room| if has_room { room } else { Room::None };
    // Some file systems look at the limit when they write, not before.
    let most = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
    let left = most.saturating_sub(end);
    if left == 0 || left < ROOM_BYTES.min(most / 2) {
        return or_none(on_disk(), Room::Beside);
    }
    match fallocate(file, FallocateFlags::KEEP_SIZE, end, ROOM_BYTES.min(left)) {
        // What was reserved is given back: others may need it first.
        Ok(()) => or_none(file.set_len(end).is_ok(), Room::Here),
        // It isn't the process's limit: it is the file system's.
        Err(Errno::FBIG) => or_none(on_disk(), Room::Beside),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => or_none(on_disk(), Room::Here),
        Err(_) => Room::None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use mirror_tests::reader::Capture;

    use super::*;
    use crate::event::{FlowChange, FlowEvent, FlowSink, Side};
    use crate::forge::testing::info;
    use crate::forge::{ForgeConfig, Forger, Mtu, SequenceKey, View};

    fn forger(file: File) -> Forger<FileSink> {
        let config = ForgeConfig {
            key: SequenceKey::new([7; 16]),
            mtu: Mtu::default(),
            view: View::default(),
        };
        Forger::new(config, FileSink::begin("out", file).unwrap())
    }

    fn say(forger: &mut Forger<FileSink>, offset: u64, bytes: &[u8]) {
        let change = FlowChange::Data {
            from: Side::Client,
            offset,
            bytes,
        };
        forger.flow_event(FlowEvent {
            flow: 1,
            at: WallTime(5 + offset),
            change,
        });
    }

    /// The blocks that a writer makes are found again, and so is what is in them.
    #[test]
    fn blocks_are_taken_apart() {
        let mut writer = PcapngWriter::new(Vec::new()).unwrap();
        let frames: Vec<Vec<u8>> = (1..9_u8).map(|size| vec![size; size.into()]).collect();
        for frame in &frames {
            let comment = (frame.len() % 2 == 0).then_some("a comment");
            let at = WallTime(7);
            let packet = Packet { at, frame, comment };
            writer.packet(packet).unwrap();
        }
        writer.flush().unwrap();
        let bytes = writer.get_mut().clone();
        let found: Vec<_> = blocks(&bytes)
            .filter_map(|(_, block)| frame(block))
            .collect();
        assert_eq!(found, frames);
        let (last, block) = blocks(&bytes).last().unwrap();
        assert_eq!(last + block.len(), bytes.len());
    }

    /// A disk that takes so many bytes and no more: whatever was written, the file ends with a whole block, and what
    /// it hasn't is counted.
    #[test]
    fn a_torn_block_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let mut forger = forger(File::create(&path).unwrap());
        let flow = info("10.0.0.1:40000", "10.0.0.2:443");
        forger.flow_event(FlowEvent {
            flow: 1,
            at: WallTime(1),
            change: FlowChange::Begin(&flow),
        });
        say(&mut forger, 0, &[1; 4000]);
        let sink = forger.sink_mut();
        sink.blocks.flush().unwrap();
        let bytes = std::mem::take(sink.blocks.get_mut());
        let whole: Vec<_> = blocks(&bytes)
            .map(|(start, block)| start + block.len())
            .collect();
        for taken in 0..=bytes.len() {
            let mut file = File::create(&path).unwrap();
            let header = sink.header.clone();
            file.write_all(&header).unwrap();
            file.write_all(&bytes[..taken]).unwrap();
            sink.file = file;
            sink.end = header.len() as u64;
            sink.lost = None;
            sink.stats = SendStats {
                bytes: 1 << 20,
                ..SendStats::default()
            };
            let cause = io::Error::from(io::ErrorKind::StorageFull);
            sink.lose(&bytes, taken, Some(cause));
            let kept = whole
                .iter()
                .rfind(|end| **end <= taken)
                .copied()
                .unwrap_or(0);
            let length = std::fs::metadata(&path).unwrap().len();
            assert_eq!(length, (header.len() + kept) as u64);
            assert_eq!(sink.end, length);
            let capture = Capture::read(&path).unwrap();
            let packets = capture.packets.len() as u64;
            assert_eq!(sink.stats.frames, packets);
            assert_eq!(sink.stats.lost + packets, whole.len() as u64);
            let text: usize = capture
                .packets
                .iter()
                .map(|packet| text_of(&packet.frame))
                .sum();
            assert_eq!(sink.stats.lost_text_bytes, (4000 - text) as u64);
            let outage = sink.lost.as_ref().unwrap();
            assert!(!outage.spoilt);
            let client: SocketAddr = flow.tuple.client;
            let first = outage.losses.first(client, flow.tuple.server);
            assert_eq!(first.is_some(), text < 4000);
        }
    }

    fn text_of(frame: &[u8]) -> usize {
        crate::wire::FramePlace::of(frame).unwrap().text_bytes
    }
}
