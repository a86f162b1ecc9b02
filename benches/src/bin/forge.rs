//! What forging costs: clear text to frames with checksums, against copying the same clear text.

use std::hint::black_box;
use std::io;

use agent::event::{FlowChange, FlowEvent, FlowSink, Packet, PacketSink, Side, WallTime};
use agent::forge::{ForgeConfig, Forger, Mtu, SequenceKey, View};
use mirror_benches::{compare, flow_info};

/// Clear text of one round.
const ROUND_BYTES: usize = 64 << 20;

const COPY_OFFSET: usize = 1984;

/// Takes frames as an output would, without a system call.
#[derive(Debug, Default)]
struct Nowhere {
    frame_bytes: u64,
}

impl PacketSink for Nowhere {
    fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
        self.frame_bytes += black_box(packet.frame).len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn main() {
    let mut figures = Vec::new();
    for size in [64_usize, 1024, 16 * 1024] {
        let text = vec![b'x'; size];
        // Not at the same offset in its page as the text: some processors stall on that.
        let mut copy = vec![0; size + COPY_OFFSET];
        let config = ForgeConfig {
            key: SequenceKey::new([1; 16]),
            mtu: Mtu::default(),
            view: View::default(),
        };
        let mut forger = Forger::new(config, Nowhere::default());
        let info = flow_info();
        let begin = FlowChange::Begin(&info);
        forger.flow_event(FlowEvent {
            flow: 1,
            at: WallTime(1),
            change: begin,
        });
        let mut offset = 0;
        let calls = ROUND_BYTES / size.max(1024);
        let result = compare(
            || {
                for _ in 0..calls {
                    let change = FlowChange::Data {
                        from: Side::Server,
                        offset,
                        bytes: &text,
                    };
                    forger.flow_event(FlowEvent {
                        flow: 1,
                        at: WallTime(1),
                        change,
                    });
                    offset += size as u64;
                }
            },
            || {
                for _ in 0..calls {
                    copy[COPY_OFFSET..].copy_from_slice(black_box(&text));
                    black_box(&mut copy);
                }
            },
        );
        assert_eq!(
            forger.stats().violations,
            0,
            "the benchmark broke the forger's contract"
        );
        let gbit = (calls * size * 8) as f64 / result.a.as_secs_f64() / 1e9;
        let ns = result.a.as_secs_f64() * 1e9 / calls as f64;
        println!(
            "{size:>6} bytes: {ns:>8.0} ns a record, {gbit:>6.2} Gbit/s, {:.1} x a copy",
            result.ratio
        );
        figures.push(format!(
            "\"forge_{size}_gbit_per_s\":{gbit:.2},\"forge_{size}_vs_copy\":{:.2}",
            result.ratio
        ));
    }
    println!("FIGURES {{{}}}", figures.join(","));
}
