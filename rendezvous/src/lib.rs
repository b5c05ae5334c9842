//! Rendezvous (`/rendezvous/1.0.0`) without I/O: the messages, the registry of a point, and the client that
//! stays registered with points and asks them who else is there.
//!
//! Both state machines are told the time and the random numbers they need. The [`Registry`] answers
//! each [`Request`] at once; what has changed is handed out as [`Change`]s, for a [`RegistrationStore`]
//! to keep. The [`Client`] says which requests to send to which point, and is told what came of them.

mod client;
mod cookie;
mod limits;
mod log;
mod message;
mod peers;
mod registry;
mod store;

pub use client::{
    Client, ClientConfig, ClientError, Discovered, Failed, Outgoing, Output, PointId,
};
pub use limits::Limits;
pub use message::{
    Answer, MAX_MESSAGE, MAX_NAMESPACE, MessageError, Registration, Request, Status, decode_answer,
    decode_request,
};
pub use registry::{Change, Form, Records, Registry, Stored};
pub use store::{MemoryStore, RegistrationStore, StoreError};

/// Protocol id of the specification.
pub const PROTOCOL: &str = "/rendezvous/1.0.0";
/// Protocol id of `@canvas-js/libp2p-rendezvous`, which speaks the same messages.
pub const CANVAS_PROTOCOL: &str = "/canvas/rendezvous/1.0.0";
