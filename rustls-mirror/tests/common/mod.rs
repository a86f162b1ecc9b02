//! What the tests of this crate share.
//!
//! ```text
//! let recorder = recorder::start();        // before the process's first connection; any test, any thread
//! let (client, server) = tls::configs();   // or tls::{client_config, server_config}(provider)
//! … a connection to tls::name("some-name") …
//! let recorded = recorder.session("some-name", Role::Client);
//! assert!(recorded.sent() == what_was_sent);
//! ```
//!
//! The recorder is an agent within the test's own process, on the true hook: what a connection's calls
//! have said before [`recorder::Recorder::session`] is called is there, nothing has to be waited for.
//! Each connection needs a server name of its own, by which it is found.
#![allow(
    dead_code,
    reason = "each test binary has this module, and none needs all of it"
)]

pub(crate) mod memory;
pub(crate) mod recorder;
pub(crate) mod tls;
