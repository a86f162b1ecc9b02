//! The agent: reads the rings, finds each session's flow, forges its packets, and puts them out.

pub mod event;
