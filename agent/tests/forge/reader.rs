//! Reads forged packets as a receiver would: parses with etherparse, reassembles by sequence numbers, and
//! holds every packet to the rules of `agent::forge`.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent::event::{Packet, PacketSink, Side};
use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TcpSlice, TransportSlice};

/// A packet as it was handed to the sink.
pub(crate) struct Captured {
    pub(crate) at: u64,
    pub(crate) frame: Vec<u8>,
    pub(crate) comment: Option<String>,
}

/// Keeps all packets.
#[derive(Default)]
pub(crate) struct Recorder(pub(crate) Vec<Captured>);

impl PacketSink for Recorder {
    fn packet(&mut self, packet: Packet<'_>) -> std::io::Result<()> {
        let comment = packet.comment.map(Into::into);
        self.0.push(Captured {
            at: packet.at.0,
            frame: packet.frame.to_vec(),
            comment,
        });
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What one side said in one conversation. Offsets are the flow's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// Where the conversation begins.
    pub(crate) base: u64,
    /// Runs of bytes, by the offset of the first; what lies between them is missing.
    pub(crate) runs: BTreeMap<u64, Vec<u8>>,
    /// Offsets behind each PSH, with its time.
    pub(crate) pushes: Vec<(u64, u64)>,
}

impl Stream {
    /// Adds bytes; joins them to the run before if they touch.
    pub(crate) fn add(&mut self, offset: u64, bytes: &[u8]) {
        if let Some((start, run)) = self.runs.range_mut(..=offset).next_back() {
            let end = start + run.len() as u64;
            assert!(end <= offset, "bytes at {offset} are told twice");
            if end == offset {
                run.extend_from_slice(bytes);
                return;
            }
        }
        self.runs.insert(offset, bytes.to_vec());
    }
}

/// A conversation from SYN to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dialogue {
    pub(crate) client: Stream,
    pub(crate) server: Stream,
    /// Who said that it says no more, in this order.
    pub(crate) fins: Vec<Side>,
    pub(crate) reset: Option<Side>,
}

impl Dialogue {
    pub(crate) fn stream(&mut self, side: Side) -> &mut Stream {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }
}

const MAX_GAP: u32 = 512 << 20;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// What one packet says.
struct Parsed {
    macs: ([u8; 6], [u8; 6]),
    ends: ((IpAddr, u16), (IpAddr, u16)),
    seq: u32,
    ack: u32,
    flags: u8,
    payload: Vec<u8>,
}

/// A conversation that isn't over.
struct Live {
    flow: String,
    client: (IpAddr, u16),
    client_mac: [u8; 6],
    server_mac: [u8; 6],
    mss: usize,
    /// Of client and server: the first number, the next one expected.
    isn: [u32; 2],
    end: [u32; 2],
    /// Bytes that the other side hasn't acknowledged, without gaps.
    unacknowledged: [usize; 2],
    /// Who has to acknowledge everything with the very next packet.
    owes_ack: Option<usize>,
    /// Packets of the handshake seen.
    handshake: u8,
    fin: [bool; 2],
    over: bool,
    at: u64,
    dialogue: Dialogue,
}

/// Reads all packets. Returns the conversations of each flow id, in order.
pub(crate) fn read(packets: &[Captured], mtu: usize) -> HashMap<String, Vec<Dialogue>> {
    let mut lives: HashMap<_, Live> = HashMap::new();
    let mut done: HashMap<String, Vec<Dialogue>> = HashMap::new();
    for captured in packets {
        assert!(
            captured.frame.len() <= mtu + 14,
            "a frame of {} bytes",
            captured.frame.len()
        );
        let packet = parse(&captured.frame);
        let pair = (
            packet.ends.0.min(packet.ends.1),
            packet.ends.0.max(packet.ends.1),
        );
        if packet.flags == SYN {
            let mut forbidden = None;
            if let Some(old) = lives.remove(&pair) {
                assert!(old.over, "a SYN inside of a conversation");
                assert!(
                    captured.at >= old.at,
                    "a SYN before the end of the last conversation"
                );
                forbidden = Some(if old.client == packet.ends.0 {
                    old.isn[0]
                } else {
                    old.isn[1]
                });
                done.entry(old.flow.clone()).or_default().push(old.dialogue);
            }
            assert_ne!(
                Some(packet.seq),
                forbidden,
                "a SYN with the number of the last one"
            );
            lives.insert(pair, begin(captured, &packet, mtu));
            continue;
        }
        let live = lives.get_mut(&pair).expect("no packet before the SYN");
        assert!(captured.at >= live.at, "time goes back");
        live.at = captured.at;
        take(live, captured, &packet);
    }
    for (_, live) in lives {
        assert!(live.over, "a conversation without an end");
        done.entry(live.flow.clone())
            .or_default()
            .push(live.dialogue);
    }
    // By base offsets: a flow's later conversations begin behind its earlier ones.
    for dialogues in done.values_mut() {
        dialogues.sort_by_key(|dialogue| (dialogue.client.base, dialogue.server.base));
    }
    done
}

fn begin(captured: &Captured, packet: &Parsed, mtu: usize) -> Live {
    assert!(![0, 674_711_609].contains(&packet.seq));
    assert!(packet.payload.is_empty() && packet.ack == 0);
    let comment = captured
        .comment
        .as_deref()
        .expect("the first packet has the metadata");
    let field = |name: &str| {
        let mut words = comment.split(' ');
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    let offset = |name| field(name).map_or(0, |digits| digits.parse().unwrap());
    let mut dialogue = Dialogue::default();
    dialogue.client.base = offset("client_offset");
    dialogue.server.base = offset("server_offset");
    Live {
        flow: field("flow").unwrap().into(),
        client: packet.ends.0,
        client_mac: packet.macs.0,
        server_mac: packet.macs.1,
        mss: mtu - if packet.ends.0.0.is_ipv4() { 40 } else { 60 },
        isn: [packet.seq, 0],
        end: [packet.seq.wrapping_add(1), 0],
        unacknowledged: [0; 2],
        owes_ack: None,
        handshake: 1,
        fin: [false; 2],
        over: false,
        at: captured.at,
        dialogue,
    }
}

fn take(live: &mut Live, captured: &Captured, packet: &Parsed) {
    assert!(!live.over, "a packet behind the end");
    let own = usize::from(packet.ends.0 != live.client);
    let other = 1 - own;
    let side = [Side::Client, Side::Server][own];
    let macs = [live.client_mac, live.server_mac];
    assert_eq!(
        packet.macs,
        (macs[own], macs[other]),
        "Ethernet addresses of the conversation"
    );
    assert!(packet.flags & ACK != 0);
    if packet.flags & RST == 0 {
        assert_eq!(captured.comment, None, "metadata on the first packet only");
    }
    if live.handshake == 1 {
        assert_eq!(
            (own, packet.flags),
            (1, SYN | ACK),
            "the server answers the SYN"
        );
        assert!(![0, 674_711_609].contains(&packet.seq));
        assert!(packet.payload.is_empty());
        live.isn[1] = packet.seq;
        live.end[1] = packet.seq.wrapping_add(1);
        live.owes_ack = Some(0);
        live.handshake = 2;
        assert_eq!(packet.ack, live.end[0]);
        return;
    }
    assert_eq!(
        packet.ack, live.end[other],
        "acknowledges exactly what was told"
    );
    live.unacknowledged[other] = 0;
    if let Some(debtor) = live.owes_ack.take() {
        assert_eq!(
            (own, packet.flags),
            (debtor, ACK),
            "the receiver acknowledges at once"
        );
        assert!(packet.payload.is_empty());
    }
    if live.handshake == 2 {
        assert_eq!(packet.seq, live.end[0]);
        live.handshake = 3;
        return;
    }
    if packet.payload.is_empty() {
        assert_eq!(packet.seq, live.end[own], "the number that is expected");
    }
    match packet.flags {
        RST_ACK => {
            assert!(packet.payload.is_empty());
            live.dialogue.reset = Some(side);
            live.over = true;
        }
        FIN_ACK => {
            assert!(packet.payload.is_empty() && !live.fin[own]);
            live.fin[own] = true;
            live.end[own] = live.end[own].wrapping_add(1);
            live.owes_ack = Some(other);
            live.dialogue.fins.push(side);
        }
        ACK | PSH_ACK if !packet.payload.is_empty() => {
            data(live, captured.at, packet, own, side);
            if packet.flags == PSH_ACK {
                live.owes_ack = Some(other);
            }
        }
        ACK => {}
        other => panic!("flags {other:#04x}"),
    }
    if live.fin == [true; 2] && live.owes_ack.is_none() {
        live.over = true;
    }
}

const RST_ACK: u8 = RST | ACK;
const FIN_ACK: u8 = FIN | ACK;
const PSH_ACK: u8 = PSH | ACK;

fn data(live: &mut Live, at: u64, packet: &Parsed, own: usize, side: Side) {
    assert!(!live.fin[own], "data behind FIN");
    assert!(packet.payload.len() <= live.mss, "payload above the MSS");
    let gap = packet.seq.wrapping_sub(live.end[own]);
    assert!(
        gap <= MAX_GAP,
        "a number behind the expected one, or a gap of {gap}"
    );
    let length = u32::try_from(packet.payload.len()).unwrap();
    live.end[own] = packet.seq.wrapping_add(length);
    live.unacknowledged[own] += packet.payload.len();
    assert!(
        live.unacknowledged[own] <= 16 << 10,
        "more than 16 KiB unacknowledged"
    );
    let stream = live.dialogue.stream(side);
    // No test says 4 GiB in one conversation: relative numbers are offsets.
    let relative = packet.seq.wrapping_sub(live.isn[own]).wrapping_sub(1);
    let offset = stream.base + u64::from(relative);
    stream.add(offset, &packet.payload);
    if packet.flags & PSH != 0 {
        stream.pushes.push((offset + u64::from(length), at));
    }
}

fn parse(frame: &[u8]) -> Parsed {
    let sliced = SlicedPacket::from_ethernet(frame).expect("a frame");
    let ethernet = sliced
        .link
        .unwrap()
        .to_header()
        .unwrap()
        .ethernet2()
        .unwrap();
    for mac in [ethernet.source, ethernet.destination] {
        assert_eq!(mac[0], 2, "locally administered");
    }
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
        panic!("no TCP");
    };
    let (source, destination): (IpAddr, IpAddr) = match sliced.net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.total_len) + 14, frame.len());
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert!(header.dont_fragment && !header.more_fragments);
            assert_eq!(header.time_to_live, 64);
            assert!(header.options.is_empty());
            let sum = tcp
                .calc_checksum_ipv4(header.source, header.destination)
                .unwrap();
            assert_eq!(sum, tcp.checksum(), "TCP checksum");
            (
                Ipv4Addr::from(header.source).into(),
                Ipv4Addr::from(header.destination).into(),
            )
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            assert_eq!(usize::from(header.payload_length) + 54, frame.len());
            assert_eq!((header.hop_limit, header.flow_label.value()), (64, 0));
            let sum = tcp
                .calc_checksum_ipv6(header.source, header.destination)
                .unwrap();
            assert_eq!(sum, tcp.checksum(), "TCP checksum");
            (
                Ipv6Addr::from(header.source).into(),
                Ipv6Addr::from(header.destination).into(),
            )
        }
        NetSlice::Arp(_) => panic!("not IP"),
    };
    check_options(&tcp, source);
    assert_eq!(tcp.window_size(), 65_535);
    Parsed {
        macs: (ethernet.source, ethernet.destination),
        ends: (
            (source, tcp.source_port()),
            (destination, tcp.destination_port()),
        ),
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        flags: tcp.slice()[13],
        payload: tcp.payload().to_vec(),
    }
}

fn check_options(tcp: &TcpSlice<'_>, source: IpAddr) {
    let options: Vec<_> = tcp.options_iterator().map(Result::unwrap).collect();
    if !tcp.syn() {
        assert_eq!(options, []);
        return;
    }
    let mss = if source.is_ipv4() { 1460 } else { 1440 };
    use TcpOptionElement::{MaximumSegmentSize, Noop, WindowScale};
    assert_eq!(options, [MaximumSegmentSize(mss), Noop, WindowScale(14)]);
}
