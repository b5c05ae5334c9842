//! Helpers of the tests that need more than one process: foreign peers built on demand, processes that speak
//! JSON lines, control groups, and networks with latency.

pub mod cgroup;
pub mod peers;
pub mod process;
pub mod usage;
pub mod wan;
