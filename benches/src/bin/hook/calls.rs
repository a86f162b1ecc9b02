//! What a call costs: of libssl with and without the hook, and of the hook alone beside a copy.

use anyhow::ensure;
use mirror_benches::rounds::{Rounds, median};

use crate::figures::Figures;
use crate::programs::{Caller, Place};
use crate::reader::{Reader, Reads};

/// What is in the way of a call.
const CONDITIONS: [&str; 5] = ["stock", "off", "no_agent", "draining", "full"];

/// Sizes of the calls, how many of them make a round, and their names in the figures.
const SIZES: [(u64, u64, &str); 3] = [(64, 400, "64"), (1 << 10, 300, "1k"), (16 << 10, 60, "16k")];

/// SSL_write under each condition, by turns.
pub(crate) fn tls(
    place: &Place,
    figures: &mut Figures,
    mode: &str,
    rounds: usize,
) -> anyhow::Result<()> {
    let draining = Reader::start(&place.path(&format!("draining-{mode}")), Reads::All)?;
    let full = Reader::start(&place.path(&format!("full-{mode}")), Reads::Nothing)?;
    let mut callers = Vec::new();
    for condition in CONDITIONS {
        let library = if condition == "stock" {
            &place.stock
        } else {
            &place.patched
        };
        let mut command = place.tls_calls(library, mode);
        match condition {
            "no_agent" => {
                command.env("SSLCOLLECTOR_SOCKET", place.path("nobody"));
            }
            "draining" => draining.mirrors(&mut command),
            "full" => full.mirrors(&mut command),
            _ => {}
        }
        callers.push(Caller::start(&mut command)?);
    }
    draining.wait_attached()?;
    full.wait_attached()?;
    // Until there is no room any more.
    callers[4].ask("16384 1200")?;
    for (bytes, calls, name) in SIZES {
        let line = format!("{bytes} {calls}");
        let took = Rounds::run(rounds, &mut callers, |caller| caller.ask(&line))?;
        println!(
            "SSL_write of {bytes} bytes, {mode}: {:.0} ns with the stock library",
            took.median(0)
        );
        for (index, condition) in CONDITIONS.iter().enumerate().skip(1) {
            let ratio = took.ratio(index, 0);
            println!(
                "  {condition:<9} {:>7.0} ns, {ratio:.3} x",
                took.median(index)
            );
            figures.add(&format!("ssl_{mode}_{name}_{condition}"), ratio);
            if (mode, name, *condition) == ("socket", "16k", "draining") {
                figures.add("ratio_16k", ratio);
            }
        }
    }
    drop(callers);
    let stats = draining.finish()?;
    let records = stats.records + stats.dropped_records;
    println!(
        "  dropped, while draining: {} of {records} records",
        stats.dropped_records
    );
    figures.add(
        &format!("ssl_{mode}_dropped"),
        stats.dropped_records as f64 / records as f64,
    );
    ensure!(
        full.finish()?.dropped_records > 0,
        "the full ring wasn't full"
    );
    Ok(())
}

/// The hook's own function, beside a copy of as much.
pub(crate) fn alone(place: &Place, figures: &mut Figures, rounds: usize) -> anyhow::Result<()> {
    let draining = Reader::start(&place.path("alone"), Reads::All)?;
    let mut command = place.hook_calls(1)?;
    draining.mirrors(&mut command);
    let mut caller = Caller::start(&mut command)?;
    draining.wait_attached()?;
    let mut worst: f64 = 0.0;
    let mut written = 0;
    for (bytes, calls, name) in SIZES {
        let mut beside = Vec::new();
        let mut hooks = Vec::new();
        for _ in 0..rounds {
            let hook = caller.ask(&format!("hook {bytes} {calls}"))? / calls as f64;
            let copy = caller.ask(&format!("copy {bytes} {calls}"))? / calls as f64;
            written += bytes * calls;
            draining.wait_read(written)?;
            beside.push(hook - copy);
            hooks.push(hook);
        }
        let (beside, hook) = (median(&mut beside), median(&mut hooks));
        println!("the hook with {bytes} bytes: {hook:.0} ns, {beside:.0} ns beside the copy");
        figures.add(&format!("call_{name}_ns"), beside);
        if name != "16k" {
            worst = worst.max(beside);
        }
    }
    figures.add("small_call_ns", worst);
    Ok(())
}

/// A look of the process at its own sockets, where an agent asks for that: an announcement with it, beside one without.
pub(crate) fn looks(place: &Place, figures: &mut Figures, rounds: usize) -> anyhow::Result<()> {
    // All of them within what may be spent on looks at once.
    const CALLS: u64 = 10;
    for connections in [1, 10, 50] {
        let mut readers = Vec::new();
        let mut callers = Vec::new();
        for asked in [false, true] {
            let socket = place.path(&format!("looks-{connections}-{asked}"));
            let reader = Reader::start(&socket, Reads::All)?;
            let mut command = place.look_calls(connections)?;
            reader.mirrors(&mut command);
            if asked {
                command.env("SSLCOLLECTOR_TELL_SOCKETS", "1");
            }
            callers.push(Caller::start(&mut command)?);
            reader.wait_attached()?;
            readers.push(reader);
        }
        let line = CALLS.to_string();
        let took = Rounds::run(rounds, &mut callers, |caller| caller.ask(&line))?;
        let look_us = took.difference(1, 0) / CALLS as f64 / 1e3;
        println!("a look at {connections} connections: {look_us:.1} us");
        figures.add(&format!("look_{connections}_us"), look_us);
        drop(callers);
        for reader in readers {
            reader.finish()?;
        }
    }
    Ok(())
}

/// Sixteen threads at once, against one, and against as many that only copy.
pub(crate) fn threads(place: &Place, figures: &mut Figures, rounds: usize) -> anyhow::Result<()> {
    for (bytes, calls, name) in [(1 << 10, 9600, "1k"), (16 << 10, 640, "16k")] {
        let mut pairs = Vec::new();
        for threads in [1, 16] {
            let reader = Reader::start(
                &place.path(&format!("threads-{name}-{threads}")),
                Reads::All,
            )?;
            let mut command = place.hook_calls(threads)?;
            reader.mirrors(&mut command);
            let caller = Caller::start(&mut command)?;
            reader.wait_attached()?;
            pairs.push((threads as u64, 0, caller, reader));
        }
        let copies = |pairs: &mut (u64, u64, Caller, Reader)| {
            pairs.2.ask(&format!("copy {bytes} {}", calls / pairs.0))
        };
        let hooks = |pairs: &mut (u64, u64, Caller, Reader)| {
            let (threads, written, caller, reader) = pairs;
            let took = caller.ask(&format!("hook {bytes} {}", calls / *threads))?;
            *written += bytes * calls;
            // Nothing else is asked of the machine before all has been read.
            reader.wait_read(*written)?;
            Ok::<_, anyhow::Error>(took)
        };
        let copied = Rounds::run(rounds, &mut pairs, copies)?;
        let hooked = Rounds::run(rounds, &mut pairs, hooks)?;
        let speed = |rounds: &Rounds, index| (bytes * calls) as f64 / rounds.median(index);
        println!(
            "{bytes} bytes a call: one thread {:.2} GB/s, 16 threads {:.2} GB/s; copies alone {:.2} and {:.2} GB/s",
            speed(&hooked, 0),
            speed(&hooked, 1),
            speed(&copied, 0),
            speed(&copied, 1)
        );
        figures.add(&format!("ring_threads_ratio_{name}"), hooked.ratio(0, 1));
        figures.add(
            &format!("ring_vs_copy_{name}"),
            speed(&hooked, 1) / speed(&copied, 1),
        );
    }
    Ok(())
}
