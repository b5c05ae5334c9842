//! What the router remembers of messages: ids for minutes, messages for some heartbeats.

mod promises;
mod records;
mod seen;
mod seqnos;

pub(crate) use promises::Promises;
pub(crate) use records::{MAX_RIVALS, Records, State};
pub(crate) use seen::Seen;
pub(crate) use seqnos::Seqnos;
