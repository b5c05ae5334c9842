//! Circuit relay v2.
