//! barewire's foreign peer on rust-libp2p.

mod counted;
mod gossip;
mod node;
mod rendezvous;
mod streams;
mod transport;

use std::process::ExitCode;

fn main() -> ExitCode {
    barewire_peer_cli::main::<node::Node>()
}
