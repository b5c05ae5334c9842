//! Helpers of the tests that need more than one process: foreign peers built on demand, processes that speak
//! JSON lines, control groups, network namespaces, and links with latency.

use std::time::Duration;

pub mod attack;
pub mod cgroup;
pub mod debian;
pub mod gossip;
pub mod nat;
pub mod netns;
pub mod peers;
pub mod process;
pub mod usage;
pub mod wan;

/// Whether the tests run at full size and hold the targets: `BAREWIRE_FULL=1`.
#[must_use]
pub fn full() -> bool {
    std::env::var_os("BAREWIRE_FULL").is_some()
}

/// Holds a measured time against its target. A machine that does other things at the same time says little about a
/// time: there only five times the target is a failure, unless the tests run at full size.
///
/// # Panics
/// When it is missed.
pub fn within(what: &str, took: Duration, target: Duration) {
    let limit = if full() { target } else { 5 * target };
    assert!(took <= limit, "{what}: {took:?}, the target is {target:?}");
}

/// Leaves a test out for what this machine lacks. In CI, which has everything, that is a failure.
///
/// # Panics
/// When [`peers::required`].
pub fn skip(reason: &str) {
    assert!(!peers::required(), "CI may not skip: {reason}");
    println!("skipped: {reason}");
}
