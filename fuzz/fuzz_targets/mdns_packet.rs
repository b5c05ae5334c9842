//! mDNS packets, and a beacon that is given them: nothing panics, what is remembered is bounded, and answers are not amplified.
#![no_main]

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use barewire_base::{Keypair, Multiaddr, PeerId};
use barewire_node::mdns::{
    Beacon, MdnsConfig, Output,
    packet::{MAX_ADDRESSES, MAX_SENT, Packet, parse, query, response},
};
use libfuzzer_sys::fuzz_target;

static OWN: LazyLock<PeerId> = LazyLock::new(|| Keypair::from_seed(&[7; 32]).peer_id());
static OTHER: LazyLock<PeerId> = LazyLock::new(|| Keypair::from_seed(&[8; 32]).peer_id());

#[derive(Arbitrary, Debug)]
enum Op {
    Packet(Vec<u8>),
    Query,
    Told { ttl: u16, port: u16 },
    Pass { millis: u16 },
    Addresses(u8),
}

fn addrs(count: u8) -> Vec<Multiaddr> {
    let one = |port| {
        format!("/ip4/192.0.2.1/tcp/{port}")
            .parse()
            .expect("an address")
    };
    (0..count % 32).map(one).collect()
}

fuzz_target!(|ops: Vec<Op>| {
    let begun = Instant::now();
    let mut now = begun;
    let mut beacon = Beacon::new(MdnsConfig::default(), *OWN, "n".repeat(32), now);
    let mut sent = 0u64;
    for op in ops.into_iter().take(256) {
        match op {
            Op::Packet(bytes) => {
                if let Ok(Packet::Response(told)) = parse(&bytes) {
                    assert!(told.len() <= MAX_ADDRESSES);
                    assert!(told.iter().all(|one| one.addr.peer_id().is_some()));
                }
                beacon.handle_packet(now, &bytes);
            }
            Op::Query => beacon.handle_packet(now, &query()),
            Op::Told { ttl, port } => {
                let addr: Multiaddr = format!("/ip4/192.0.2.1/tcp/{port}")
                    .parse()
                    .expect("an address");
                let addr = addr.with_peer(*OTHER).expect("no peer yet");
                beacon.handle_packet(now, &response("x", ttl.into(), &[addr]));
            }
            Op::Pass { millis } => now += Duration::from_millis(millis.into()),
            Op::Addresses(count) => beacon.set_addresses(now, &addrs(count)),
        }
        while let Some(output) = beacon.poll_output(now, 0.0) {
            match output {
                Output::Send(packet) => {
                    assert!(packet.len() <= MAX_SENT);
                    assert!(parse(&packet).is_ok());
                    sent += 1;
                }
                Output::Found { peer, addr } => {
                    assert_ne!(peer, *OWN);
                    assert!(addr.peer_id().is_none_or(|named| named != peer));
                }
            }
        }
        assert!(beacon.known() <= 1_000);
        assert!(beacon.poll_timeout() > now);
    }
    // An answer a second and the questions of this node.
    let seconds = now.duration_since(begun).as_secs();
    assert!(sent <= 2 * seconds + 4, "{sent} packets in {seconds} s");
});
