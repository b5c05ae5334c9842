//! `/rendezvous/1.0.0`: registering with a point, and finding who else has.
//!
//! A [`Point`] serves; a [`Client`] keeps a node registered with points and finds others there. [`ask`] sends one
//! request. All of them speak the id of `@canvas-js/libp2p-rendezvous` too. What the messages mean is in the core,
//! `barewire-rendezvous`.

mod ask;
mod client;
mod point;
mod store;

pub use barewire_rendezvous::{
    Answer, CANVAS_PROTOCOL, ClientConfig, ClientError, Limits, MemoryStore, PROTOCOL,
    Registration, RegistrationStore, Request, Status, StoreError,
};

pub use self::{
    ask::{AskError, Registered, ask, discover, register},
    client::{Client, ClientEvent},
    point::Point,
    store::RedbStore,
};
