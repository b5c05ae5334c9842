//! Helpers of the tests that need more than one process: foreign peers built on demand, processes that speak
//! JSON lines, and networks with latency.

pub mod debian;
pub mod peers;
pub mod process;
pub mod usage;
pub mod wan;
