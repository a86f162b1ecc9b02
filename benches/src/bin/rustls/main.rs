//! What mirroring costs a program that uses rustls: by the wrappers and by a wrapped provider, against bare rustls.
//!
//! ```text
//! rustls [PART...]        calls, server; without any: both
//! rustls calls-as HOW …   one of the contenders: bare, wrapped or installed
//! rustls server-as HOW …
//! ```
//!
//! Everything is A against B by turns in one run; docs/performance.md says what each figure means.

mod calls;
mod contender;
mod server;

use mirror_benches::figures::Figures;

/// How a contender's connections are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// By rustls itself.
    Bare,
    /// By this project's wrappers.
    Wrapped,
    /// By rustls with a wrapped provider.
    Installed,
}

impl How {
    const ALL: [Self; 3] = [Self::Bare, Self::Wrapped, Self::Installed];

    fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Wrapped => "wrapped",
            Self::Installed => "installed",
        }
    }
}

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let how = |name: &str| How::ALL.into_iter().find(|how| how.name() == name);
    if let [part, name, certificate, key] = words[..]
        && let Some(how) = how(name)
    {
        return match part {
            "calls-as" => contender::calls(how, certificate, key),
            _ => server::serve(how, certificate, key),
        };
    }
    let has = |part: &str| words.is_empty() || words.contains(&part);
    let place = contender::Place::new()?;
    let mut figures = Figures::default();
    if has("calls") {
        calls::calls(&place, &mut figures, 61)?;
    }
    if has("server") {
        server::server(&place, &mut figures, 6)?;
    }
    println!("{figures}");
    Ok(())
}
