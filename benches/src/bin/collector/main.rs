#![allow(unsafe_code, reason = "a network namespace of its own")]
//! The way from agents over TLS 1.3 through a collector onto an interface: how much, at what cost, and how soon.
//!
//! ```text
//! collector              everything
//! collector tunnel       the agent alone, ring to tunnel
//! collector flows COUNT  throughput alone, over so many flows
//! collector app-as HOW … a mirrored program: bulk BYTES GBIT, or ticks COUNT MICROSECONDS
//! collector sink STATE … what takes a tunnel, and does nothing else: ADDRESS
//! ```
//!
//! The collector, and the agent whose cost is measured, are the real programs; the sixteen agents of the throughput
//! are this process. All of them share the machine's cores, so beside what passed in a second stands what each
//! program used of the processor for it.

mod app;
mod fleet;
mod latency;
mod place;
mod sink;
mod tunnel;

use std::path::Path;
use std::time::Duration;

use anyhow::bail;

use mirror_benches::figures::Figures;

use self::fleet::{Agents, Load};
use self::place::Place;

/// Agents of the throughput.
const AGENTS: usize = 16;
const ROUND: Duration = Duration::from_secs(5);
/// Clear text of one round of the agent.
const TUNNEL_BYTES: u64 = 512 << 20;
const TUNNEL_ROUNDS: usize = 5;
/// Idle flows whose memory is measured.
const IDLE_FLOWS: usize = 100_000;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["app-as", "bulk", bytes, gbit] => {
            return app::bulk(bytes.parse()?, gbit.parse()?);
        }
        ["sink", state, address] => return sink::run(Path::new(state), address),
        ["app-as", "ticks", count, gap_us] => return app::ticks(count.parse()?, gap_us.parse()?),
        _ => {}
    }
    let mut figures = Figures::default();
    let place = Place::new()?;
    if words == ["tunnel"] {
        tunnel(&place, &mut figures)?;
        println!("{figures}");
        return Ok(());
    }

    if let ["flows", count] = words[..] {
        println!("{}", throughput(&place, count.parse()?)?);
        return Ok(());
    }

    println!(
        "sixteen agents in this process, TLS 1.3 in, interface out; all on this machine's cores:"
    );
    let mut most = None;
    for flows in [1, 100, 10_000, 100_000] {
        let load = throughput(&place, flows)?;
        println!("{flows:>8} live flows: {load}");
        if flows == 100 {
            most = Some(load);
        }
    }
    if let Some(load) = most {
        figures.add("collector_gbit", load.gbit());
        figures.add(
            "collector_gbit_2_processors",
            2.0 * load.gbit_per_processor(),
        );
    }

    let idle_bytes = idle(&place)?;
    println!("memory of one of {IDLE_FLOWS} idle flows: {idle_bytes:.0} bytes");
    figures.add("idle_flow_bytes", idle_bytes);

    tunnel(&place, &mut figures)?;

    for (load, agents, name) in [
        ("little load", None, "latency"),
        (
            "all the load there is room for",
            Some(AGENTS),
            "latency_full",
        ),
    ] {
        let latency = latency::measure(&place, agents)?;
        println!("from write to wire, {load}: {latency}");
        if let Some((p50_ms, p99_ms)) = latency.p50_p99_ms {
            figures.add(&format!("{name}_p50_ms"), p50_ms);
            figures.add(&format!("{name}_p99_ms"), p99_ms);
        }
        #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
        figures.add(&format!("{name}_seen"), latency.seen as f64);
    }
    println!("{figures}");
    Ok(())
}

/// What one processor of an agent brings from a ring into the tunnel.
fn tunnel(place: &Place, figures: &mut Figures) -> anyhow::Result<()> {
    let mut loads = Vec::new();
    for _ in 0..TUNNEL_ROUNDS {
        loads.push(tunnel::measure(place, TUNNEL_BYTES)?);
    }
    loads.sort_by(|one, other| {
        one.gbit_per_processor()
            .total_cmp(&other.gbit_per_processor())
    });
    let [least, .., most] = &loads[..] else {
        bail!("there are several rounds");
    };
    let median = &loads[loads.len() / 2];
    println!(
        "agent, ring to tunnel: {:.2} Gbit/s for each processor ({:.2} to {:.2}); {:.2} Gbit/s passed, by {:.2} processors",
        median.gbit_per_processor(),
        least.gbit_per_processor(),
        most.gbit_per_processor(),
        median.gbit(),
        median.processors(),
    );
    figures.add("agent_tunnel_gbit", median.gbit_per_processor());
    figures.add("agent_tunnel_passed_gbit", median.gbit());
    Ok(())
}

fn throughput(place: &Place, flows: usize) -> anyhow::Result<Load> {
    let collector = place.collector()?;
    let agents = Agents::join(place, &collector, AGENTS)?;
    agents.load(&collector, flows, ROUND)
}

/// Bytes of resident memory that each flow adds.
fn idle(place: &Place) -> anyhow::Result<f64> {
    let collector = place.collector()?;
    let agents = Agents::join(place, &collector, 1)?;
    agents.open(100)?;
    let before = collector.resident_bytes()?;
    agents.open(IDLE_FLOWS)?;
    let after = collector.resident_bytes()?;
    #[allow(clippy::cast_precision_loss, reason = "a mean for people")]
    Ok((after - before) as f64 / IDLE_FLOWS as f64)
}
