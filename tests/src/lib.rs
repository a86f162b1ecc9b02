//! End-to-end tests: real programs, real TLS, judged by other people's tools.
