//! The agent: reads the rings, finds each session's flow, forges its packets, and puts them out.

pub mod broker;
// The fuzz targets' properties are tests here, too, and know the library by its name.
#[cfg(test)]
extern crate self as agent;

pub mod cipher;
pub mod clock;
pub mod collector;
pub mod community;
pub mod container;
#[cfg(test)]
mod corpus;
mod endpoints;
pub mod escape;
pub mod event;
pub mod filter;
pub mod flow;
pub mod forge;
pub mod helper;
pub mod identity;
pub mod intake;
pub mod keep;
pub mod midstream;
pub mod output;
pub mod real;
mod retold;
pub mod transform;
pub mod tunnel;
pub mod wire;
