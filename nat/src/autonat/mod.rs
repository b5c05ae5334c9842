//! AutoNAT: a node finds out at which of its addresses others can reach it, by asking some to dial it.
//!
//! In version 2 a [`Message::DialRequest`] names addresses, of which the server dials one and says the request's nonce on the
//! connection that it makes. Who asks for a dial to where it may not be itself pays for it first, in bytes. In version 1 the server
//! dials the address at which it sees the client, and is believed.
//!
//! [`Server`] decides what to dial, for whom and how often; [`Client`] whom to ask about which address and what to believe.

mod client;
mod limiter;
mod message;
mod server;
mod tested;
mod v1;

pub use self::{
    client::{
        AnswerError, Client, ClientConfig, DialBackError, Probe, ProbeId, Progress, Version,
        same_stack,
    },
    limiter::{Rates, Ticket},
    message::{
        DATA_CHUNK, DIAL_BACK_RESPONSE, DialBack, DialResponse, DialStatus, MAX_ADDRS,
        MAX_DIAL_BACK, MAX_MESSAGE, MAX_REQUEST, Message, MessageError, ResponseStatus,
    },
    server::{
        DialOne, MAX_DATA, MAX_V1_DIALS, MIN_DATA, Payment, PaymentError, Refusal, Server,
        ServerConfig, V1Refusal,
    },
    tested::{Network, Reachability, TestedAddr},
    v1::{V1_MAX_MESSAGE, V1Message, V1Status},
};

/// Protocol id of requests, version 2.
pub const DIAL_REQUEST_PROTOCOL: &str = "/libp2p/autonat/2/dial-request";
/// Protocol id of what a server opens on the connection it makes, version 2.
pub const DIAL_BACK_PROTOCOL: &str = "/libp2p/autonat/2/dial-back";
/// Protocol id of version 1.
pub const V1_PROTOCOL: &str = "/libp2p/autonat/1.0.0";
