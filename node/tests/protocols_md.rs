//! The bytes and ids that PROTOCOLS.md shows are those that this node sends and compares.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use barewire_base::multistream::optimistic_proposal;
use barewire_mux::{Role, StreamMuxer, yamux};
use barewire_node::{
    Config, Keypair,
    protocols::{echo, hold},
};

const DOCUMENT: &str = include_str!("../../PROTOCOLS.md");

/// The bytes of the block with this name.
fn block(name: &str) -> Vec<u8> {
    let (_, rest) = DOCUMENT
        .split_once(&format!("```hex {name}\n"))
        .unwrap_or_else(|| panic!("no block {name}"));
    let (hex, _) = rest.split_once("```").unwrap();
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

#[test]
fn echo() {
    let request = [&optimistic_proposal(echo::PROTOCOL)[..], b"hello"].concat();
    assert_eq!(block("echo-request"), request);
    assert_eq!(block("echo-answer"), request);
}

#[test]
fn hold() {
    assert_eq!(block("hold-proposal"), optimistic_proposal(hold::PROTOCOL));
}

#[test]
fn agent_version() {
    let agent = Config::default().identify.agent_version;
    assert!(
        agent.as_bytes().starts_with(&block("agent-prefix")),
        "{agent}"
    );
}

#[test]
fn peer_ids_and_their_order() {
    let ids = [1, 2].map(|seed| Keypair::from_seed(&[seed; 32]).peer_id());
    for id in &ids {
        let hex: String = id
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert!(
            DOCUMENT.contains(&format!("| {id} | {hex} |")),
            "{id} {hex}"
        );
    }
    // The table of connections compares by this order.
    assert!(ids[1] < ids[0]);
}

#[test]
fn supplanted() {
    let now = std::time::Instant::now();
    let budget = barewire_base::Budget::unlimited();
    let mut session = yamux::Session::new(Role::Client, yamux::Config::default(), budget, now);
    session.close(0x1004);
    let mut out = barewire_base::TransmitBuf::new(100);
    assert!(session.poll_transmit(now, &mut out));
    assert_eq!(
        out.parts().collect::<Vec<_>>().concat(),
        block("supplanted")
    );
}
