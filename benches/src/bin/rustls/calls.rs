//! What a write costs, from the application's call to the records in the transport's hands.

use mirror_benches::caller::Caller;
use mirror_benches::figures::Figures;
use mirror_benches::reader::{Reader, Reads};
use mirror_benches::rounds::Rounds;

use crate::How;
use crate::contender::Place;

/// Sizes of the calls, how many of them make a round, and their names in the figures.
const SIZES: [(u64, u64, &str); 4] = [
    (64, 400, "64"),
    (1 << 10, 300, "1k"),
    (16 << 10, 40, "16k"),
    (1 << 20, 1, "1m"),
];

/// The contenders: how they are made, whether there is an agent, and what their figures begin with. All are compared
/// with the first.
const CONTENDERS: [(How, bool, &str); 5] = [
    (How::Bare, false, ""),
    (How::Wrapped, true, ""),
    (How::Installed, true, "install_"),
    (How::Wrapped, false, "no_agent_"),
    (How::Installed, false, "install_no_agent_"),
];

/// All of them, by turns, with readers that empty the rings as an agent does.
pub(crate) fn calls(place: &Place, figures: &mut Figures, rounds: usize) -> anyhow::Result<()> {
    let mut callers = Vec::new();
    let mut readers = Vec::new();
    for (how, agent, prefix) in CONTENDERS {
        let mut command = place.contender("calls-as", how)?;
        if agent {
            let reader = Reader::start(&place.path(how.name()), Reads::All)?;
            reader.mirrors(&mut command);
            callers.push(Caller::start(&mut command)?);
            reader.wait_attached()?;
            readers.push((how, prefix, reader));
        } else {
            callers.push(Caller::start(&mut command)?);
        }
    }
    for (bytes, calls, name) in SIZES {
        let line = format!("write {bytes} {calls}");
        let took = Rounds::run(rounds, &mut callers, |caller| caller.ask(&line))?;
        let copy = Rounds::run(5, &mut callers[..1], |caller| {
            caller.ask(&format!("copy {bytes} {calls}"))
        })?;
        println!(
            "writing {bytes} bytes: {:.0} ns by rustls, {:.0} ns a copy",
            took.median(0),
            copy.median(0)
        );
        for (index, (how, agent, prefix)) in CONTENDERS.into_iter().enumerate().skip(1) {
            // Throughput: of a call of the same size, the inverse of its time.
            let ratio = took.ratio(0, index);
            let beside = took.difference(index, 0) - if agent { copy.median(0) } else { 0.0 };
            println!(
                "  {:<9} {:<8} {:>7.0} ns, {ratio:.3} of rustls' throughput, {beside:.0} ns {}",
                how.name(),
                if agent { "agent" } else { "no agent" },
                took.median(index),
                if agent { "beside a copy" } else { "more" }
            );
            figures.add(&format!("{prefix}ratio_{name}"), ratio);
            if name == "64" {
                figures.add(&format!("{prefix}small_call_ns"), beside);
            }
        }
    }
    drop(callers);
    for (how, prefix, reader) in readers {
        let stats = reader.finish()?;
        let records = stats.records + stats.dropped_records;
        let dropped = stats.dropped_records;
        println!(
            "  {}: {dropped} of {records} records found the ring full",
            how.name()
        );
        figures.add(&format!("{prefix}dropped"), dropped as f64 / records as f64);
    }
    Ok(())
}
