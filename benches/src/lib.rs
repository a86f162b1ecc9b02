//! Benchmarks: A against B in one run.
