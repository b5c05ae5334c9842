//! First packets from addresses that nobody has.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use barewire_tests::{
    attack::{
        net::{bytes_on, isolated},
        rig::{Rig, Target, window},
    },
    full,
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::initials;

/// Addresses the flood claims to come from.
const SOURCES: u32 = 10_000;
/// A protocol number with which the sender writes the IP header itself.
const RAW: i32 = 255;

/// A datagram in the packet that carries it.
fn packet(source: SocketAddr, to: SocketAddr, datagram: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(ip)) = (source.ip(), to.ip()) else {
        panic!("only IPv4 is flooded");
    };
    let udp = u16::try_from(8 + datagram.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp).to_be_bytes());
    // No fragments, 64 hops, UDP; the kernel fills the checksum in.
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(from.octets());
    packet.extend(ip.octets());
    packet.extend(source.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp.to_be_bytes());
    // No checksum.
    packet.extend([0, 0]);
    packet.extend_from_slice(datagram);
    packet
}

/// Sends each datagram from another address, evenly over `spread`.
fn flood(to: SocketAddr, datagrams: &[Vec<u8>], spread: Duration) {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW))).unwrap();
    let begun = Instant::now();
    let count = u32::try_from(datagrams.len()).unwrap();
    for (nth, datagram) in (0..).zip(datagrams) {
        let host = u32::from(Ipv4Addr::new(10, 232, 0, 1)) + nth % SOURCES;
        let port = 1_024 + (nth / SOURCES) as u16;
        let source = SocketAddr::from((Ipv4Addr::from(host), port));
        let packet = packet(source, to, datagram);
        // A full queue drops it.
        socket.send_to(&packet, &to.into()).ok();
        let due = begun + spread * nth / count;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// Row 23: a flood of first packets from ten thousand addresses that nobody has.
#[test]
fn first_packets_from_invented_addresses() {
    if !isolated() {
        barewire_tests::skip("row 23: addresses can be invented only between network namespaces");
        return;
    }
    let (per_second, spread) = if full() {
        (20_000, Duration::from_secs(20))
    } else {
        (5_000, Duration::from_secs(4))
    };
    let rig = Rig::quic("row 23", "flood");
    let count = per_second * spread.as_secs() as usize;
    let datagrams = initials(rig.victim.socket, count);
    let over = AtomicBool::new(false);
    let (counted, took, (dialled, failed)) = std::thread::scope(|scope| {
        let honest = scope.spawn(|| rig.honest_dials(&over));
        let (counted, took) = rig.strike(|target| {
            let before = bytes_on("eth0").unwrap();
            let begun = Instant::now();
            flood(target.socket, &datagrams, spread);
            let took = begun.elapsed();
            // The last answers.
            std::thread::sleep(Duration::from_millis(500));
            let after = bytes_on("eth0").unwrap();
            ((after.0 - before.0, after.1 - before.1), took)
        });
        over.store(true, Ordering::Relaxed);
        (counted, took, honest.join().unwrap())
    });
    let (back, thrown) = counted;
    let ratio = back as f64 / thrown as f64;
    println!(
        "row 23: {count} first packets from {SOURCES} addresses in {took:.1?}: {thrown} bytes in, {back} out, {ratio:.2} \
         times (3.0 are allowed); honest dials {dialled} of {}",
        dialled + failed
    );
    assert!(thrown >= count as u64 * 1_200, "the flood has to arrive");
    assert!(ratio <= 3.0, "{ratio}");
    assert!(dialled >= 5, "{dialled}");
    assert!(
        dialled * 100 >= (dialled + failed) * 95,
        "{failed} of {} dials failed",
        dialled + failed
    );
    let few = per_second * window().as_secs() as usize;
    let some = &datagrams[..few.min(datagrams.len())];
    rig.standard(|target: Target| flood(target.socket, some, window()));
    rig.finish(Some("address_unproven"));
}
