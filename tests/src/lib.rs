//! End-to-end tests: real programs, real TLS, judged by other people's tools.
//!
//! ```text
//! peers (nginx, curl, …), patched or stock ──TLS── peers
//!    │ what they sent and stored themselves          │ sslcollector run -w capture.pcapng
//!    v                                               v
//! the truth  ── byte-equal ──  streams <── decode <── reader
//!                              rules        tshark, capinfos, Suricata
//! ```
//!
//! Nothing here uses code of the agent or of the hook. What the hook or the agent says of itself is
//! never evidence; only its clear errors and its summary are looked at.

pub mod apache;
pub mod applications;
pub mod attach;
pub mod attacks;
pub mod away;
pub mod bio;
pub mod carried;
pub mod chromium;
pub mod clear;
pub mod client;
pub mod crowd;
pub mod curl;
pub mod decode;
pub mod dialogue;
pub mod disk;
pub mod examples;
pub mod exchange;
pub mod faults;
pub mod fleet;
pub mod footprint;
pub mod growing;
pub mod haproxy;
pub mod http1;
pub mod http2;
pub mod judges;
pub mod lanes;
pub mod link;
pub mod load;
pub mod manager;
pub mod memory;
pub mod monitors;
pub mod native;
pub mod nats;
pub mod needles;
pub mod network;
pub mod nginx;
pub mod onwire;
pub mod place;
pub mod postgres;
pub mod process;
pub mod program;
pub mod reader;
pub mod redis;
pub mod rules;
pub mod sensor;
pub mod service;
pub mod sessions;
pub mod siege;
pub mod sslcollector;
pub mod streams;
pub mod stunnel;
pub mod synth;
pub mod talkers;
pub mod told;
pub mod tuples;
pub mod user;
pub mod way;
