//! Helpers of the tests that need more than one process: foreign peers built on demand, processes that speak
//! JSON lines, control groups, and networks with latency.

pub mod cgroup;
pub mod debian;
pub mod peers;
pub mod process;
pub mod usage;
pub mod wan;

/// Leaves a test out for what this machine lacks. In CI, which has everything, that is a failure.
///
/// # Panics
/// When [`peers::required`].
pub fn skip(reason: &str) {
    assert!(!peers::required(), "CI may not skip: {reason}");
    println!("skipped: {reason}");
}
