//! The bytes that PROTOCOLS.md shows of our extension are those that the router sends and understands.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use barewire_gossip::{Config, MAX_MESSAGE_SIZE, PeerLimits, RPC_OVERHEAD, Version};
use common::{
    Net, Victim, control,
    proto::{ControlExtensions, ControlMessage},
};

const DOCUMENT: &str = include_str!("../../PROTOCOLS.md");

#[test]
fn max_message_size() {
    let (_, rest) = DOCUMENT
        .split_once("```hex max-message-size\n")
        .expect("the block");
    let hex = rest.split_once("\n```").unwrap().0;
    let mut victim = Victim::new(&Config::default());
    let peer = victim.attacker(Version::V1_3);
    let now = victim.net.now;
    let frame = victim.router().next_frame(now, peer).unwrap();
    let sent: String = frame
        .chunks
        .concat()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(sent, hex);
    // Below version 1.3 nothing is said.
    let older = victim.attacker(Version::V1_2);
    assert!(victim.router().next_frame(now, older).is_none());
}

#[test]
fn it_is_a_permission_and_bounded() {
    let mut config = Config::default();
    config.topic_defaults.max_message_size = MAX_MESSAGE_SIZE;
    for (announced, allowed) in [
        (0, false),
        (u64::MAX, true),
        (3 << 20, true),
        (2 << 20, false),
    ] {
        let mut victim = Victim::new(&config);
        victim.net.subscribe(0, "t");
        let peer = victim.attacker(Version::V1_3);
        let extensions = ControlExtensions {
            max_message_size: Some(announced),
            ..Default::default()
        };
        victim.send(
            peer,
            &control(ControlMessage {
                extensions: Some(extensions),
                ..Default::default()
            }),
        );
        victim.send(peer, &common::subscribe("t"));
        let receipt = victim
            .net
            .publish(0, "t", vec![0; (3 << 20) - RPC_OVERHEAD]);
        assert_eq!(receipt.accepted() == 1, allowed, "{announced}");
        // Limits learnt later do not take it back.
        victim.router().set_limits(peer, PeerLimits::GO);
        let receipt = victim
            .net
            .publish(0, "t", vec![1; (3 << 20) - RPC_OVERHEAD]);
        assert_eq!(receipt.accepted() == 1, allowed, "{announced}");
        let penalties = |net: &Net| net.nodes[0].router.metrics().penalties;
        assert_eq!(penalties(&victim.net), 0);
        let again = ControlExtensions::default();
        victim.send(
            peer,
            &control(ControlMessage {
                extensions: Some(again),
                ..Default::default()
            }),
        );
        assert_eq!(penalties(&victim.net), 10, "extensions are said once");
    }
}
