//! The wrapped crypto provider: mirrors what is made with it, without touching the code that makes it.
//!
//! Being built: so far only the question whether a provider is wrapped.

mod suites;

pub(crate) use suites::is_mirrored;
