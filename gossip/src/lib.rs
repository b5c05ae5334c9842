//! Gossipsub as a state machine: no socket, no clock, no randomness of its own.
//!
//! [`Router`] speaks `/meshsub/1.0.0` to `/meshsub/1.3.0` and `/floodsub/1.0.0`. It is told what happened and the time, and says
//! what to send, to deliver, to verify and to validate. With the same seed and the same calls it does the same, so that tests,
//! fuzzers and simulations of thousands of nodes run the code that runs in a node.
//!
//! # The owner's loop
//!
//! ```text
//! connect / disconnect / receive        ─┐
//! subscribe / unsubscribe / publish     ─┤   poll_output() until None      next_frame(peer) whenever the
//! verified / validated                  ─┼─▶ (verify, validate, deliver, ─▶ peer's stream has room
//! handle_timeout at poll_timeout        ─┘    connect, ready, events)
//! ```
//!
//! Per peer the owner keeps one outgoing stream, on which only it writes, and reads the peer's own stream with a [`FrameReader`]. It
//! writes what [`Router::next_frame`] returns and never anything else.
//!
//! ```
//! use std::{collections::HashMap, time::{Duration, Instant}};
//!
//! use barewire_base::{Budget, Keypair};
//! use barewire_gossip::{
//!     Acceptance, Author, Config, FrameReader, NewPeer, Output, PeerKey, PublishOptions, Router, SubscribeOptions, Verifier,
//!     Version,
//! };
//!
//! /// A node's side of the loop; `wires` stands for the streams.
//! struct Driver {
//!     router: Router,
//!     verifier: Verifier,
//!     readers: HashMap<PeerKey, FrameReader>,
//!     delivered: Vec<Vec<u8>>,
//! }
//!
//! impl Driver {
//!     fn new(keypair: &Keypair, seed: u64, now: Instant) -> Self {
//!         let router = Router::new(Config::lan(), keypair.peer_id(), seed, now).expect("a preset is valid");
//!         Self { router, verifier: Verifier::new(), readers: HashMap::new(), delivered: Vec::new() }
//!     }
//!
//!     fn connect(&mut self, now: Instant, peer: &Keypair, outbound: bool) -> PeerKey {
//!         let new = NewPeer::new(peer.peer_id(), Version::V1_3).outbound(outbound);
//!         let key = self.router.connect(now, new).expect("there is room for a peer");
//!         self.readers.insert(key, FrameReader::new(self.router.max_rpc_len(), Budget::unlimited()));
//!         key
//!     }
//!
//!     /// Bytes that arrived on the peer's stream.
//!     fn read(&mut self, now: Instant, from: PeerKey, chunk: bytes::Bytes) {
//!         let Some(reader) = self.readers.get_mut(&from) else { return };
//!         let router = &mut self.router;
//!         // Either error means: reset the stream.
//!         reader.push(chunk, |frame| { let _ = router.receive(now, from, &frame.body); }).expect("well framed");
//!     }
//!
//!     /// Does what the router asks for; returns the bytes for each peer's stream.
//!     fn turn(&mut self, now: Instant) -> Vec<(PeerKey, bytes::Bytes)> {
//!         let mut out = Vec::new();
//!         while let Some(output) = self.router.poll_output() {
//!             match output {
//!                 // A real driver marks the peer and takes frames one by one, as its stream accepts them.
//!                 Output::Ready(peer) => while let Some(frame) = self.router.next_frame(now, peer) {
//!                     out.extend(frame.chunks.into_iter().map(|chunk| (peer, chunk)));
//!                 },
//!                 // A real driver collects these and spreads them over threads.
//!                 Output::Verify(request) => {
//!                     let valid = self.verifier.verify(&request.message);
//!                     self.router.verified(now, request.handle, valid);
//!                 }
//!                 Output::Validate(message) => self.router.validated(now, message.handle, Acceptance::Accept),
//!                 Output::Deliver(message) => self.delivered.push(message.data().to_bytes().to_vec()),
//!                 _ => {} // Connect: dial. Event: log and count. Partial…: the application.
//!             }
//!         }
//!         out
//!     }
//! }
//!
//! let (anna, bert) = (Keypair::from_seed(&[1; 32]), Keypair::from_seed(&[2; 32]));
//! let mut now = Instant::now();
//! let (mut a, mut b) = (Driver::new(&anna, 1, now), Driver::new(&bert, 2, now));
//! let (to_b, to_a) = (a.connect(now, &bert, true), b.connect(now, &anna, false));
//! for driver in [&mut a, &mut b] {
//!     driver.router.subscribe(now, "news", SubscribeOptions::default()).expect("a topic");
//! }
//! let author = Author::signed(&anna, 1);
//! for round in 0..20 {
//!     if round == 10 {
//!         let message = author.message("news", b"hello".as_slice().into());
//!         let receipt = a.router.publish(now, &message, PublishOptions::default()).expect("published");
//!         assert_eq!(receipt.accepted(), 1);
//!     }
//!     for (_, chunk) in a.turn(now) { b.read(now, to_a, chunk); }
//!     for (_, chunk) in b.turn(now) { a.read(now, to_b, chunk); }
//!     now += Duration::from_millis(100);
//!     for driver in [&mut a, &mut b] {
//!         if driver.router.poll_timeout().is_some_and(|at| at <= now) { driver.router.handle_timeout(now); }
//!     }
//! }
//! assert_eq!(b.delivered, [b"hello"]);
//! ```

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests"
    )
)]

mod cache;
mod config;
mod events;
mod gater;
mod limits;
mod message;
mod payload;
mod peers;
mod queue;
mod random;
mod router;
pub mod rpc;
pub mod score;
mod slab;
mod topics;
mod verify;

pub use config::{
    Config, ConfigError, MAX_MESSAGE_SIZE, PartialLimits, QueueLimits, RPC_OVERHEAD, RttPreference,
    SeenStrategy, SubscriptionFilter, TopicConfig, TopicPredicate,
};
pub use events::{
    Acceptance, ConnectRequest, Delivery, DropReason, Event, MessageHandle, Metrics, Misbehaviour,
    Output, PartialReceived, PeerKey, PeerStatus, PruneReason, Receipt, VerifyRequest, Version,
};
pub use gater::GaterParams;
pub use limits::PeerLimits;
pub use message::{
    Author, CustomIdFn, MessageId, MessageIdFn, OutgoingMessage, RejectReason, SeqnoPolicy,
    SignaturePolicy,
};
pub use payload::Payload;
pub use queue::OutFrame;
pub use router::{
    ConnectError, NewPeer, PartialError, PublishError, PublishOptions, Router, Sizes,
    SubscribeError, SubscribeOptions,
};
pub use rpc::{Frame, FrameError, FrameReader, RpcError, RpcLimits};
pub use score::{ScoreParams, Thresholds, TopicScoreParams};
pub use verify::{Verifier, verify_batch};
