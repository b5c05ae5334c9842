//! What gets two nodes through the routers between them, as state machines without I/O: they read no clock and no socket, and draw no
//! randomness of their own. The node drives them.

pub mod autonat;
pub mod dcutr;
pub mod mapping;
pub mod relay;
