#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::{
    identity::SignatureError,
    proto::{put_bytes_field, put_varint_field},
};

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn keypair() -> Keypair {
    Keypair::from_seed(&[7; 32])
}

fn record(addrs: &[&str]) -> PeerRecord {
    PeerRecord {
        peer_id: keypair().peer_id(),
        seq: 1_700_000_000,
        addrs: addrs.iter().map(|addr| addr.parse().unwrap()).collect(),
    }
}

/// A payload sealed in one of the two forms.
fn seal(legacy: bool, payload: Vec<u8>) -> Vec<u8> {
    let (domain, payload_type) = if legacy {
        (LEGACY_DOMAIN, LEGACY_PAYLOAD_TYPE)
    } else {
        (DOMAIN, PAYLOAD_TYPE)
    };
    SignedEnvelope::seal(&keypair(), domain, payload_type, payload)
        .unwrap()
        .encode()
}

/// A record's payload with raw address entries.
fn payload(peer_id: &[u8], addrs: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes_field(1, peer_id, &mut out);
    put_varint_field(2, 5, &mut out);
    for addr in addrs {
        let mut entry = Vec::new();
        put_bytes_field(1, addr, &mut entry);
        put_bytes_field(3, &entry, &mut out);
    }
    out
}

#[test]
fn records_made_by_others() {
    let mut read = 0;
    for line in include_str!("../../testdata/records.txt").lines() {
        if line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, seq, envelope] = fields[..] else {
            panic!("{line}")
        };
        let record = PeerRecord::from_envelope(&hex(envelope)).unwrap();
        assert_eq!(record.seq, seq.parse().unwrap(), "{name}");
        let addrs: Vec<String> = record.addrs.iter().map(ToString::to_string).collect();
        assert_eq!(
            addrs,
            [
                "/ip4/192.0.2.1/tcp/4001",
                "/ip6/2001:db8::1/udp/4001/quic-v1"
            ]
        );
        read += 1;
    }
    assert_eq!(read, 6);
}

#[test]
fn sign_and_read_back() {
    for addrs in [
        &[][..],
        &["/ip4/192.0.2.1/tcp/1"],
        &["/ip6/::1/udp/1/quic-v1", "/dns/a/tcp/1/wss"],
    ] {
        let record = record(addrs);
        assert_eq!(
            PeerRecord::from_envelope(&record.sign(&keypair()).unwrap()),
            Ok(record)
        );
    }
    for seq in [0, u64::MAX] {
        let record = PeerRecord { seq, ..record(&[]) };
        assert_eq!(
            PeerRecord::from_envelope(&record.sign(&keypair()).unwrap()),
            Ok(record)
        );
    }
}

#[test]
fn our_form_is_the_one_go_and_js_accept() {
    let bytes = record(&[]).sign(&keypair()).unwrap();
    let envelope = SignedEnvelope::decode(&bytes).unwrap();
    assert_eq!(envelope.payload_type(), [3, 1]);
    assert!(envelope.open("libp2p-peer-record", &[3, 1]).is_ok());
    // The sequence number is on the wire even when it is zero.
    let zero = PeerRecord {
        seq: 0,
        ..record(&[])
    }
    .sign(&keypair())
    .unwrap();
    let envelope = SignedEnvelope::decode(&zero).unwrap();
    assert!(
        envelope
            .open(DOMAIN, PAYLOAD_TYPE)
            .unwrap()
            .ends_with(&[0x10, 0])
    );
}

#[test]
fn addresses_that_would_spoil_the_record_are_not_signed() {
    let odd = [
        "/unix/a",
        "/ip4/1.2.3.4/ipcidr/8",
        "/ip4/1.2.3.4/tcp/1/x-parity-ws/a",
        "/ip4/1.2.3.4/tcp/1",
    ];
    let mut record = record(&odd);
    record.addrs.push(Multiaddr::empty());
    let read = PeerRecord::from_envelope(&record.sign(&keypair()).unwrap()).unwrap();
    assert_eq!(read.addrs, ["/ip4/1.2.3.4/tcp/1".parse().unwrap()]);
}

#[test]
fn both_forms_are_read_and_not_mixed() {
    let id = keypair().peer_id();
    for legacy in [false, true] {
        let bytes = seal(legacy, payload(id.as_bytes(), &[]));
        assert_eq!(
            PeerRecord::from_envelope(&bytes).map(|record| record.peer_id),
            Ok(id)
        );
    }
    let wrong_signature = Err(PeerRecordError::Envelope(SignatureError.into()));
    for (domain, payload_type) in [
        (DOMAIN, LEGACY_PAYLOAD_TYPE),
        (LEGACY_DOMAIN, PAYLOAD_TYPE),
        (LEGACY_DOMAIN, b"?"),
    ] {
        let mixed = SignedEnvelope::seal(&keypair(), domain, payload_type, vec![])
            .unwrap()
            .encode();
        assert_eq!(PeerRecord::from_envelope(&mixed), wrong_signature);
    }
    let voucher = SignedEnvelope::seal(&keypair(), DOMAIN, &[3, 2], vec![])
        .unwrap()
        .encode();
    let other_type = PeerRecordError::Envelope(EnvelopeError::PayloadType);
    assert_eq!(PeerRecord::from_envelope(&voucher), Err(other_type));
}

#[test]
fn records_of_other_peers_are_refused() {
    let other = Keypair::from_seed(&[8; 32]).peer_id();
    let signer = keypair().peer_id();
    let wrong = PeerRecordError::WrongSigner {
        record: other,
        signer,
    };
    let bytes = seal(false, payload(other.as_bytes(), &[]));
    assert_eq!(PeerRecord::from_envelope(&bytes), Err(wrong));
    let text = wrong.to_string();
    assert!(text.contains(&other.to_string()) && text.contains(&signer.to_string()));
    let foreign = PeerRecord {
        peer_id: other,
        ..record(&[])
    };
    assert_eq!(foreign.sign(&keypair()), Err(wrong));
}

#[test]
fn a_bad_address_does_not_spoil_the_record() {
    let good: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
    let id = keypair().peer_id();
    let entries: [&[u8]; 4] = [b"", b"\xff\x7f", good.as_bytes(), b"\x35\x00"];
    let record = PeerRecord::from_envelope(&seal(true, payload(id.as_bytes(), &entries))).unwrap();
    assert_eq!(record.addrs, [good]);
    let mut no_addresses = payload(id.as_bytes(), &[]);
    put_bytes_field(3, b"", &mut no_addresses);
    assert_eq!(
        PeerRecord::from_envelope(&seal(false, no_addresses))
            .unwrap()
            .addrs,
        []
    );
}

#[test]
fn malformed_records() {
    let id = keypair().peer_id();
    let flood: Vec<&[u8]> = vec![b""; 1000];
    let mut entry_flood = payload(id.as_bytes(), &[]);
    put_bytes_field(3, &[0x0a, 0].repeat(5), &mut entry_flood);
    for (payload, error) in [
        (vec![], PeerIdError::Malformed.into()),
        (payload(b"\x12\x20", &[]), PeerIdError::Malformed.into()),
        (b"\x08\x01".to_vec(), PeerRecordError::Malformed),
        (b"\x0a".to_vec(), ScanError::Truncated.into()),
        (
            payload(id.as_bytes(), &flood),
            ScanError::TooManyFields(256).into(),
        ),
        (entry_flood, ScanError::TooManyFields(4).into()),
    ] {
        assert_eq!(PeerRecord::from_envelope(&seal(false, payload)), Err(error));
    }
}
