//! The yamux session of this project.
