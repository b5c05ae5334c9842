//! barewire's foreign peer on litep2p.

mod node;
mod streams;

use std::process::ExitCode;

fn main() -> ExitCode {
    barewire_peer_cli::main::<node::Node>()
}
