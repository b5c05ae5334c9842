//! Helpers of the tests that need more than one process: foreign peers built on demand, and processes that speak
//! JSON lines.

pub mod peers;
pub mod process;
