//! The ring against an oracle, and under loom.
