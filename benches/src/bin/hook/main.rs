//! What the hook costs an application: nothing while it is off, and how much while it mirrors.
//!
//! ```text
//! hook [PART...]      counts, alone, looks, threads, socket, null, nginx; without any: all but null
//! ```
//!
//! Everything is A against B by turns in one run; docs/performance.md says what each figure means.

mod calls;
mod counts;
mod nginx;
mod programs;

use mirror_benches::{figures, reader};

fn main() -> anyhow::Result<()> {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let has = |part: &str| match parts.is_empty() {
        true => part != "null",
        false => parts.iter().any(|given| given == part),
    };
    let place = programs::Place::new()?;
    let mut figures = figures::Figures::default();
    if has("counts") {
        counts::counts(&place, &mut figures)?;
    }
    if has("alone") {
        calls::alone(&place, &mut figures, 101)?;
    }
    if has("looks") {
        calls::looks(&place, &mut figures, 21)?;
    }
    if has("threads") {
        calls::threads(&place, &mut figures, 15)?;
    }
    for mode in ["socket", "null"] {
        if has(mode) {
            calls::tls(&place, &mut figures, mode, 81)?;
        }
    }
    if has("nginx") {
        nginx::nginx(&place, &mut figures, 4)?;
    }
    println!("{figures}");
    Ok(())
}
