//! Peers that claim to have moved, and that use a proof of address twice.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use barewire_tests::{
    attack::{
        net::{isolated, next_source},
        rig::{Rig, Target},
    },
    full,
};

use crate::client::{Client, PATIENCE};

/// What each stream of the victim may send where something is downloaded.
const CREDIT: u32 = 8 << 20;

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((next_source(), 0)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Reads what has come; its length in all.
fn arrived(socket: &UdpSocket) -> usize {
    let mut buffer = [0; 2_048];
    let mut bytes = 0;
    while let Ok(length) = socket.recv(&mut buffer) {
        bytes += length;
    }
    bytes
}

/// A download in whose midst the client sends from the address of somebody else: bytes sent from there, bytes that
/// went there, and whether the download went on at the old address.
fn move_to_another(target: Target) -> (usize, usize, bool) {
    let mut client = Client::connect_with(target, CREDIT);
    let stream = client.open("/perf/1.0.0").unwrap();
    let wanted: u64 = 1 << 30;
    client.write(stream, &wanted.to_be_bytes());
    client.connection().send_stream(stream).finish().unwrap();
    let begun = client.until(PATIENCE, |client| client.received > 1 << 20);
    assert!(begun || target.sink, "no download");
    let other = socket();
    let (mut sent, mut got) = (0, 0);
    for _ in 0..50 {
        client.connection().ping();
        while let Some(datagram) = client.give() {
            sent += datagram.len();
            other.send_to(&datagram, client.remote()).unwrap();
        }
        std::thread::sleep(Duration::from_millis(5));
        got += arrived(&other);
    }
    let before = client.received;
    let goes_on = client.until(PATIENCE, |client| {
        client.received > before + (256 << 10) || target.sink
    });
    got += arrived(&other);
    (sent, got, goes_on)
}

/// Row 24: a client that seems to move to the address of a victim in the midst of a download.
#[test]
fn nobody_is_followed_to_another_address() {
    let rig = Rig::quic("row 24", "migration");
    let (sent, got, goes_on) = rig.strike(move_to_another);
    println!(
        "row 24: {sent} bytes from another address in the midst of a download: {got} bytes went there, {} are allowed",
        3 * sent
    );
    assert!(sent > 10_000, "the attack has to be one");
    // A server that follows nobody says nothing there at all.
    assert_eq!(got, 0);
    assert!(goes_on, "the connection goes on where it was");
    rig.standard(move_to_another);
    rig.finish(None);
}

/// Whether a datagram is a Retry of version 1.
fn is_retry(datagram: &[u8]) -> bool {
    datagram[0] & 0xf0 == 0xf0
}

/// Half-open handshakes of one address, until it has to prove itself: the one that was told to, its datagram with the
/// token, and the others.
fn prove(target: Target) -> (Client, Vec<u8>, Vec<Client>) {
    let source = next_source();
    let mut others = Vec::new();
    for _ in 0..64 {
        let mut client = Client::begin(target, source, None);
        let hello = client.give().unwrap();
        client.socket.send_to(&hello, target.socket).unwrap();
        let mut buffer = [0; 2_048];
        client.socket.set_nonblocking(false).unwrap();
        client.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = client.socket.recv(&mut buffer).unwrap();
        client.socket.set_nonblocking(true).unwrap();
        if is_retry(&buffer[..length]) {
            client.take(&buffer[..length]);
            let proof = client.give().unwrap();
            return (client, proof, others);
        }
        others.push(client);
    }
    panic!("nobody had to prove an address");
}

/// Sends the same datagram again and again; bytes sent and received.
fn replay(datagram: &[u8], to: SocketAddr, from: &UdpSocket, times: usize) -> (usize, usize) {
    let mut got = 0;
    for nth in 0..times {
        from.send_to(datagram, to).unwrap();
        if nth % 20 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        got += arrived(from);
    }
    std::thread::sleep(Duration::from_millis(200));
    (times * datagram.len(), got + arrived(from))
}

/// Row 24: a token that proves one address is used at others, and again at its own.
#[test]
fn a_proof_of_address_is_worth_nothing_elsewhere() {
    let times = if full() { 20_000 } else { 500 };
    let rig = Rig::quic("row 24", "tokens");
    let seen = rig.strike(|target| {
        let (mut client, proof, others) = prove(target);
        let (sent, got) = replay(&proof, target.socket, &socket(), times);
        // It was for the port too.
        let neighbour = UdpSocket::bind((client.socket.local_addr().unwrap().ip(), 0)).unwrap();
        neighbour.set_nonblocking(true).unwrap();
        let (_, next_door) = replay(&proof, target.socket, &neighbour, times);
        // Whose it is can still use it.
        client.socket.send_to(&proof, target.socket).unwrap();
        let connected = client.until(PATIENCE, |client| client.connected);
        let (_, again) = replay(&proof, target.socket, &client.socket, times);
        drop(others);
        (sent, got, next_door, again, connected)
    });
    let (sent, got, next_door, again, connected) = seen;
    println!(
        "row 24: a token sent {times} times ({sent} bytes): {got} bytes back at another address, {next_door} at another \
         port, {again} at its own once it is used"
    );
    assert!(got <= 3 * sent && next_door <= 3 * sent && again <= 3 * sent);
    // A refusal each time, never a handshake.
    assert!(
        got <= sent / 4 && next_door <= sent / 4,
        "{got} {next_door}"
    );
    assert!(connected, "the owner of the token has to get in");
    if isolated() {
        rig.standard(|target| {
            if target.sink {
                // A sink asks for no proof; it gets the same bytes.
                let hello = Client::begin(target, next_source(), None).give().unwrap();
                replay(&hello, target.socket, &socket(), 100);
            } else {
                let (_, proof, _) = prove(target);
                replay(&proof, target.socket, &socket(), 100);
            }
        });
    }
    rig.finish(Some("address_unproven"));
}
