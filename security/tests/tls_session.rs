//! Handshakes and records of TLS: honest ones in any shape, against rustls' own connections, and the
//! ways a peer can break them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod tls_common;

use barewire_base::{Fault, Keypair};
use barewire_security::{
    Alert, MAX_PLAINTEXT, MAX_SEALED, OpenError, Opened, Opener, Sealer,
    tls::{CertificateError, Error, Handshake},
};
use bytes::BytesMut;
use proptest::prelude::*;
use tls_common::{Node, YAMUX, handshake, node, run, rustls_client, sessions};

fn drain(opener: &mut Opener, wire: &mut BytesMut) -> Result<Vec<u8>, OpenError> {
    let mut plaintext = Vec::new();
    loop {
        match opener.open_in_place(wire)? {
            Opened::Record {
                plaintext: range,
                consumed,
            } => {
                plaintext.extend_from_slice(&wire[range]);
                drop(wire.split_to(consumed));
            }
            Opened::KeyUpdate { consumed } => drop(wire.split_to(consumed)),
            Opened::NeedMore { .. } | Opened::Closed => return Ok(plaintext),
        }
    }
}

fn direction() -> (Sealer, Opener) {
    let (client, server) = sessions();
    (client.split().0, server.split().1)
}

fn seal(sealer: &mut Sealer, plaintext: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    sealer.seal([plaintext].into_iter(), &mut out).unwrap();
    out
}

#[test]
fn both_learn_who_the_other_is_and_agree_on_the_muxer() {
    let (client, server) = (node(1, &[YAMUX]), node(2, &[YAMUX, "/other"]));
    let (a, b) = handshake(&client, &server, Some(server.identity.peer_id())).unwrap();
    assert_eq!(a.peer_id, server.identity.peer_id());
    assert_eq!(b.peer_id, client.identity.peer_id());
    assert_eq!(&b.public_key, client.identity.public());
    assert_eq!(
        (a.muxer.as_deref(), b.muxer.as_deref()),
        (Some(YAMUX), Some(YAMUX))
    );
    // A side that names none, like rust-libp2p, has both negotiate it afterwards.
    for (client, server) in [(node(1, &[]), &server), (client, &node(3, &[]))] {
        let (a, b) = handshake(&client, server, None).unwrap();
        assert_eq!((a.muxer, b.muxer), (None, None));
    }
}

#[test]
fn a_wrong_peer_learns_nothing_of_who_dialled() {
    let (client, server) = (node(1, &[YAMUX]), node(2, &[YAMUX]));
    let stranger = Keypair::from_seed(&[9; 32]).peer_id();
    let mut dialler = Handshake::client(&client.config, Some(stranger)).unwrap();
    let mut listener = Handshake::server(&server.config).unwrap();
    let error = run(&mut dialler, &mut listener).unwrap_err();
    let refusal = Error::Certificate(CertificateError::PeerIdMismatch {
        expected: stranger,
        found: server.identity.peer_id(),
    });
    assert_eq!(error, (Some(refusal.clone()), None));
    assert_eq!(refusal.fault(), Fault::Peer);
    // It repeats the error, and the other is told by an alert.
    assert_eq!(dialler.handle_input(&mut []), Err(refusal));
    let mut alert = BytesMut::new();
    assert!(dialler.poll_transmit(&mut alert));
    let told = listener.handle_input(&mut alert).unwrap_err();
    assert_eq!(
        told,
        Error::Alert(Alert(rustls::AlertDescription::CertificateUnknown))
    );
    assert!(listener.finish().is_err());
}

#[test]
fn records_of_all_lengths() {
    let (mut sealer, mut opener) = direction();
    for length in [
        0,
        1,
        100,
        16_383,
        16_384,
        16_385,
        32_768,
        49_152,
        65_518,
        MAX_PLAINTEXT,
    ] {
        let plaintext: Vec<u8> = (0..length).map(|n| n as u8).collect();
        let promised = sealer.sealed_len(length);
        let mut wire = seal(&mut sealer, &plaintext);
        assert!(wire.len() <= promised && promised <= MAX_SEALED, "{length}");
        let records = length.div_ceil(16_384).max(1);
        assert_eq!(
            wire.len(),
            length + records * 22,
            "as few records as hold {length}"
        );
        assert_eq!(drain(&mut opener, &mut wire).unwrap(), plaintext);
        assert!(wire.is_empty());
    }
    let mut out = BytesMut::from(&b"before"[..]);
    let long = vec![0; MAX_PLAINTEXT + 1];
    assert!(sealer.seal([&long[..]].into_iter(), &mut out).is_err());
    assert_eq!(&out[..], b"before");
    assert_eq!(
        drain(&mut opener, &mut seal(&mut sealer, b"on")).unwrap(),
        b"on"
    );
}

proptest! {
    #[test]
    fn any_gather_list_in_any_pieces(
        lengths in proptest::collection::vec(0_usize..20_000, 0..6),
        cut in 1_usize..5_000,
    ) {
        let (mut sealer, mut opener) = direction();
        let parts: Vec<Vec<u8>> = lengths.iter().enumerate()
            .map(|(n, length)| vec![n as u8 + 1; *length])
            .collect();
        let whole = parts.concat();
        prop_assume!(whole.len() <= MAX_PLAINTEXT);
        let mut wire = BytesMut::new();
        sealer.seal(parts.iter().map(Vec::as_slice), &mut wire).unwrap();
        let (mut arrived, mut plaintext) = (BytesMut::new(), Vec::new());
        for piece in wire.chunks(cut) {
            arrived.extend_from_slice(piece);
            plaintext.extend(drain(&mut opener, &mut arrived).unwrap());
        }
        prop_assert_eq!(plaintext, whole);
    }
}

#[test]
fn a_changed_repeated_or_reordered_record_is_refused() {
    let plaintext = [7; 64];
    let length = seal(&mut direction().0, &plaintext).len();
    for at in 0..length {
        let (mut sealer, mut opener) = direction();
        let mut wire = seal(&mut sealer, &plaintext);
        wire[at] ^= 1;
        wire.extend_from_slice(&[0; 300]);
        let refused = opener.open_in_place(&mut wire);
        // The length's high byte may ask for more than there is.
        let waits = matches!(refused, Ok(Opened::NeedMore { .. }));
        assert!(
            refused.is_err() || (at == 3 && waits),
            "byte {at}: {refused:?}"
        );
    }
    let (mut sealer, mut opener) = direction();
    let first = seal(&mut sealer, b"first");
    let second = seal(&mut sealer, b"second");
    assert_eq!(drain(&mut opener, &mut first.clone()).unwrap(), b"first");
    assert_eq!(
        drain(&mut opener, &mut first.clone()),
        Err(OpenError::Tampered)
    );
    // For good.
    assert_eq!(
        drain(&mut opener, &mut second.clone()),
        Err(OpenError::Tampered)
    );
    let (mut sealer, mut opener) = direction();
    seal(&mut sealer, b"lost");
    let mut wire = seal(&mut sealer, b"second");
    assert_eq!(drain(&mut opener, &mut wire), Err(OpenError::Tampered));
}

#[test]
fn keys_change_when_asked_and_at_the_limit_of_the_cipher() {
    let (client, server) = sessions();
    let ((mut sealer, mut back), (mut answer, mut opener)) = (client.split(), server.split());
    for round in 0_u8..40 {
        let mut wire = BytesMut::new();
        sealer.update_keys_for_testing_only(&mut wire).unwrap();
        sealer.seal([&[round][..]].into_iter(), &mut wire).unwrap();
        assert_eq!(drain(&mut opener, &mut wire).unwrap(), [round]);
        // The other side answers with new keys of its own in front of its next record.
        let mut wire = seal(&mut answer, &[round]);
        assert_eq!(wire.len(), 27 + 23);
        assert!(matches!(
            back.open_in_place(&mut wire),
            Ok(Opened::KeyUpdate { consumed: 27 })
        ));
        drop(wire.split_to(27));
        assert_eq!(drain(&mut back, &mut wire).unwrap(), [round]);
        // Once.
        let mut wire = seal(&mut answer, &[round]);
        assert_eq!(wire.len(), 23);
        assert_eq!(drain(&mut back, &mut wire).unwrap(), [round]);
    }
}

#[test]
fn no_key_seals_more_records_than_are_safe() {
    let (mut sealer, mut opener) = direction();
    let limit = 1 << 24;
    sealer.advance_nonce_for_testing_only(limit - 2);
    opener.advance_nonce_for_testing_only(limit - 2);
    let plaintext = vec![1; MAX_PLAINTEXT];
    let mut wire = seal(&mut sealer, &plaintext);
    assert_eq!(wire.len(), MAX_SEALED);
    assert_eq!(drain(&mut opener, &mut wire).unwrap(), plaintext);
    assert_eq!(
        drain(&mut opener, &mut seal(&mut sealer, b"on")).unwrap(),
        b"on"
    );
}

#[test]
fn the_end_is_said_and_heard() {
    let (mut sealer, mut opener) = direction();
    let mut wire = seal(&mut sealer, b"last");
    sealer.end(None, &mut wire);
    assert_eq!(drain(&mut opener, &mut wire).unwrap(), b"last");
    assert_eq!(opener.open_in_place(&mut wire), Ok(Opened::Closed));
    assert_eq!(opener.open_in_place(&mut []), Ok(Opened::Closed));

    let (mut sealer, mut opener) = direction();
    let mut wire = BytesMut::new();
    sealer.end(Some(&OpenError::Tampered), &mut wire);
    let alert = OpenError::Alert(Alert(rustls::AlertDescription::BadRecordMac));
    assert_eq!(drain(&mut opener, &mut wire), Err(alert));
}

/// Our side against rustls' own connection in the other role: the bytes are those of TLS.
#[test]
fn rustls_reads_and_writes_the_same_records() {
    use std::io::{Read, Write};

    let (client, server) = (node(1, &[YAMUX]), node(2, &[YAMUX]));
    let mut foreign = rustls_client(&client, &server);
    let mut ours = Handshake::server(&server.config).unwrap();
    let (mut to_us, mut to_them) = (BytesMut::new(), BytesMut::new());
    while !ours.is_finished() || foreign.is_handshaking() {
        let mut bytes = Vec::new();
        while foreign.wants_write() {
            foreign.write_tls(&mut bytes).unwrap();
        }
        to_us.extend_from_slice(&bytes);
        let taken = ours.handle_input(&mut to_us).unwrap();
        drop(to_us.split_to(taken));
        ours.poll_transmit(&mut to_them);
        while !to_them.is_empty() {
            let read = foreign.read_tls(&mut &to_them[..]).unwrap();
            drop(to_them.split_to(read));
            foreign.process_new_packets().unwrap();
        }
    }
    assert_eq!(foreign.alpn_protocol(), Some(YAMUX.as_bytes()));
    let suite = foreign.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    let (mut sealer, mut opener) = ours.finish().unwrap().session.split();
    for round in 0..3_u8 {
        let sent = vec![round + 1; 40_000];
        let mut wire = seal(&mut sealer, &sent);
        let mut got = vec![0; 40_000];
        let mut at = 0;
        while at < got.len() {
            let read = foreign.read_tls(&mut &wire[..]).unwrap();
            drop(wire.split_to(read));
            let state = foreign.process_new_packets().unwrap();
            let readable = state.plaintext_bytes_to_read();
            foreign
                .reader()
                .read_exact(&mut got[at..at + readable])
                .unwrap();
            at += readable;
        }
        assert_eq!(got, sent);
        // It asks for new keys of ours, changes its own, and still reads us in the next round.
        foreign.refresh_traffic_keys().unwrap();
        foreign.writer().write_all(&sent[..10_000]).unwrap();
        let mut bytes = Vec::new();
        while foreign.wants_write() {
            foreign.write_tls(&mut bytes).unwrap();
        }
        let mut wire = BytesMut::from(&bytes[..]);
        assert_eq!(drain(&mut opener, &mut wire).unwrap(), sent[..10_000]);
    }
    foreign.send_close_notify();
    let mut bytes = Vec::new();
    foreign.write_tls(&mut bytes).unwrap();
    assert_eq!(opener.open_in_place(&mut bytes), Ok(Opened::Closed));
    let mut end = BytesMut::new();
    sealer.end(None, &mut end);
    foreign.read_tls(&mut &end[..]).unwrap();
    assert!(foreign.process_new_packets().unwrap().peer_has_closed());
}

/// The input may come in any pieces, also byte by byte.
#[test]
fn a_handshake_in_pieces() {
    let Node { config, .. } = node(1, &[YAMUX]);
    for size in [1, 7, 100, 5_000] {
        let mut client = Handshake::client(&config, None).unwrap();
        let mut server = Handshake::server(&config).unwrap();
        let mut wires = [BytesMut::new(), BytesMut::new()];
        while !(client.is_finished() && server.is_finished()) {
            let mut out = BytesMut::new();
            client.poll_transmit(&mut out);
            for piece in out.chunks(size) {
                wires[0].extend_from_slice(piece);
                let taken = server.handle_input(&mut wires[0]).unwrap();
                drop(wires[0].split_to(taken));
            }
            let mut out = BytesMut::new();
            server.poll_transmit(&mut out);
            for piece in out.chunks(size) {
                wires[1].extend_from_slice(piece);
                let taken = client.handle_input(&mut wires[1]).unwrap();
                drop(wires[1].split_to(taken));
            }
        }
    }
}

/// What follows the last handshake record in the same segment is left for the record layer.
#[test]
fn surplus_is_left() {
    let Node { config, .. } = node(1, &[YAMUX]);
    let mut client = Handshake::client(&config, None).unwrap();
    let mut server = Handshake::server(&config).unwrap();
    let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
    client.poll_transmit(&mut up);
    assert_eq!(server.handle_input(&mut up), Ok(up.len()));
    server.poll_transmit(&mut down);
    assert_eq!(client.handle_input(&mut down), Ok(down.len()));
    up.clear();
    client.poll_transmit(&mut up);
    let flight = up.len();
    let mut sealer = client.finish().unwrap().session.split().0;
    sealer.seal([&b"early"[..]].into_iter(), &mut up).unwrap();
    assert_eq!(server.handle_input(&mut up), Ok(flight));
    drop(up.split_to(flight));
    let mut opener = server.finish().unwrap().session.split().1;
    assert_eq!(drain(&mut opener, &mut up).unwrap(), b"early");
}
