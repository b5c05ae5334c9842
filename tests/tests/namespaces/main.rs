//! Whole nodes in network namespaces: what the kernel counts, and what a router hides. Needs root and `ip`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod counts;
mod router;
