//! Mirrored programs: no TLS, only what its library would have told the mirror.

use std::io::Read;
use std::time::{Duration, Instant};

use agent::clock::monotonic_now;
use mirror_hook::event::{Direction, Meta, Role};
use mirror_hook::hook::{Conn, Info, Mirror, handshake};

use crate::place::{self, Core};

/// Clear text of one call.
const RECORD_BYTES: usize = 16 * 1024;
/// What a tick begins with.
pub(crate) const MARK: &[u8] = b"sent at ";
const CONNECTIONS: u8 = 16;

fn open(number: u8) -> Conn {
    handshake();
    let mut random = [number; 32];
    random[..4].copy_from_slice(&std::process::id().to_le_bytes());
    let meta = Meta {
        handshake_done: true,
        client_random: Some(random),
        server_random: Some([1; 32]),
        ..Meta::new(Role::Server)
    };
    let mut conn = Conn::new();
    conn.open(&Info { meta, socket: None });
    conn
}

/// Says so many bytes, so many Gbit in a second if the agent reads as much (with `--on-full wait`); prints when it has
/// begun, and when it has said all.
pub(crate) fn bulk(bytes: u64, gbit: f64) -> anyhow::Result<()> {
    // The agent's processor is its own.
    place::run_on(Core::Others)?;
    let mut connections: Vec<_> = (0..CONNECTIONS).map(open).collect();
    let text = vec![b'x'; RECORD_BYTES];
    let mut said = 0_u64;
    let start = Instant::now();
    println!("begun");
    while said < bytes {
        for connection in &mut connections {
            connection.sent(&text);
            said += text.len() as u64;
        }
        #[allow(clippy::cast_precision_loss, reason = "a rate")]
        let due_s = said as f64 * 8.0 / 1e9 / gbit;
        let early_s = due_s - start.elapsed().as_secs_f64();
        if early_s > 0.001 {
            std::thread::sleep(Duration::from_secs_f64(early_s));
        }
    }
    println!("{said}");
    // Until whoever measures has looked.
    let _ = std::io::stdin().read(&mut [0]);
    for mut connection in connections {
        connection.end(Direction::Sent);
        connection.close();
    }
    Ok(())
}

/// Says now and then what time it is.
pub(crate) fn ticks(count: u32, gap_us: u64) -> anyhow::Result<()> {
    let mut connection = open(99);
    for _ in 0..count {
        std::thread::sleep(Duration::from_micros(gap_us));
        let mut text = MARK.to_vec();
        text.extend(format!("{:020}", monotonic_now().0).bytes());
        text.resize(200, b' ');
        connection.sent(&text);
    }
    connection.end(Direction::Sent);
    connection.close();
    Ok(())
}
