//! placeholder of the second backend
