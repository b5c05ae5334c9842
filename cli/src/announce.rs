//! Says where a node can be reached, and when that changes.

use barewire_base::{Multiaddr, PeerId};
use barewire_node::State;
use serde_json::json;
use tokio::sync::watch;

use crate::output;

/// Prints the addresses of a node, each once for as long as it holds.
pub(crate) struct Announcer {
    peer: PeerId,
    json: bool,
    state: watch::Receiver<State>,
    listening: Vec<Multiaddr>,
    external: Vec<Multiaddr>,
    mapped: Vec<Multiaddr>,
}

impl Announcer {
    pub(crate) fn new(peer: PeerId, json: bool, state: watch::Receiver<State>) -> Self {
        Self {
            peer,
            json,
            state,
            listening: Vec::new(),
            external: Vec::new(),
            mapped: Vec::new(),
        }
    }

    /// Prints what has changed since the last call.
    pub(crate) fn update(&mut self) {
        let State {
            addresses: listening,
            external_addrs: external,
            mapped_addrs: mapped,
            ..
        } = self.state.borrow_and_update().clone();
        for addr in missing(&self.listening, &listening) {
            self.say("not_listening", "not listening any more on", addr);
        }
        for addr in missing(&listening, &self.listening) {
            self.say("listening", "listening on", addr);
        }
        for addr in missing(&self.external, &external) {
            self.say("external_address_lost", "not seen any more at", addr);
        }
        for addr in missing(&external, &self.external) {
            self.say("external_address", "seen by others at", addr);
        }
        for addr in missing(&self.mapped, &mapped) {
            self.say("mapped_address_lost", "not mapped any more at", addr);
        }
        for addr in missing(&mapped, &self.mapped) {
            self.say("mapped_address", "mapped by the router at", addr);
        }
        (self.listening, self.external, self.mapped) = (listening, external, mapped);
    }

    /// Prints a wildcard that was bound; its addresses are announced one by one.
    pub(crate) fn bound(&self, addr: &Multiaddr) {
        self.say("bound", "bound to", addr);
    }

    /// Prints changes for as long as the node is there.
    pub(crate) async fn follow(mut self) {
        while self.state.changed().await.is_ok() {
            self.update();
        }
    }

    fn say(&self, event: &str, text: &str, addr: &Multiaddr) {
        // An address too long for a peer id is printed without.
        let full = addr.clone().with_peer(self.peer);
        let addr = full.unwrap_or_else(|_| addr.clone()).to_string();
        let value = json!({"event": event, "peer": self.peer.to_string(), "addr": addr});
        output::event(self.json, &value, || format!("{text} {addr}"));
    }
}

fn missing<'a>(all: &'a [Multiaddr], among: &[Multiaddr]) -> Vec<&'a Multiaddr> {
    all.iter().filter(|addr| !among.contains(addr)).collect()
}
