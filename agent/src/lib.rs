//! The agent: reads the rings, finds each session's flow, forges its packets, and puts them out.

pub mod cipher;
pub mod clock;
pub mod escape;
pub mod event;
pub mod filter;
pub mod flow;
pub mod forge;
pub mod intake;
pub mod keep;
pub mod output;
pub mod wire;
