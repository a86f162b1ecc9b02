//! Hosts join a collector and come in; others are refused, each for its own reason.

mod enrolment;
mod tunnels;
mod world;
