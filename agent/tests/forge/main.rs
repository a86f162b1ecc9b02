//! The forger, judged by a reader that shares no code with it, and by other people's programs.

mod contract;
mod judges;
mod model;
mod reader;
mod sessions;
