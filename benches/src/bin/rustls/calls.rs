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

/// All three, by turns, with a reader that empties the rings as an agent does.
pub(crate) fn calls(place: &Place, figures: &mut Figures, rounds: usize) -> anyhow::Result<()> {
    let mut callers = Vec::new();
    let mut readers = Vec::new();
    for how in How::ALL {
        let mut command = place.contender("calls-as", how)?;
        if how == How::Bare {
            callers.push(Caller::start(&mut command)?);
            continue;
        }
        let reader = Reader::start(&place.path(how.name()), Reads::All)?;
        reader.mirrors(&mut command);
        callers.push(Caller::start(&mut command)?);
        reader.wait_attached()?;
        readers.push((how, reader));
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
        for (index, how) in How::ALL.into_iter().enumerate().skip(1) {
            // Throughput: of a call of the same size, the inverse of its time.
            let ratio = took.ratio(0, index);
            let beside = took.difference(index, 0) - copy.median(0);
            println!(
                "  {:<9} {:>7.0} ns, {ratio:.3} of rustls' throughput, {beside:.0} ns beside a copy",
                how.name(),
                took.median(index)
            );
            let prefix = if how == How::Wrapped { "" } else { "install_" };
            figures.add(&format!("{prefix}ratio_{name}"), ratio);
            if name == "64" {
                figures.add(&format!("{prefix}small_call_ns"), beside);
            }
        }
    }
    drop(callers);
    for (how, reader) in readers {
        let stats = reader.finish()?;
        let records = stats.records + stats.dropped_records;
        println!(
            "  {}: {} of {records} records found the ring full",
            how.name(),
            stats.dropped_records
        );
        let prefix = if how == How::Wrapped { "" } else { "install_" };
        let dropped = stats.dropped_records as f64 / records as f64;
        figures.add(&format!("{prefix}dropped"), dropped);
    }
    Ok(())
}
