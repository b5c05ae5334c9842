//! Signed envelopes and peer records: arbitrary bytes, and arbitrary records signed and changed.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use barewire_base::{Keypair, Multiaddr, envelope::SignedEnvelope, peer_record::PeerRecord};
use libfuzzer_sys::fuzz_target;

static KEYPAIR: LazyLock<Keypair> = LazyLock::new(|| Keypair::from_seed(&[7; 32]));

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// An envelope as a peer might send it.
    Raw(&'a [u8]),
    /// A payload signed as a peer record, in either form.
    Payload { legacy: bool, payload: &'a [u8] },
    /// A record signed and then changed in one byte.
    Changed {
        seq: u64,
        addrs: Vec<&'a [u8]>,
        at: u16,
        xor: u8,
    },
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Raw(bytes) => {
        if let Ok(envelope) = SignedEnvelope::decode(bytes) {
            let again = SignedEnvelope::decode(&envelope.encode());
            assert_eq!(again.as_ref(), Ok(&envelope));
            let _ = envelope.open("domain", envelope.payload_type());
        }
        let _ = PeerRecord::from_envelope(bytes);
    }
    Input::Payload { legacy, payload } => {
        let (domain, payload_type) = if legacy {
            ("libp2p-routing-state", &b"/libp2p/routing-state-record"[..])
        } else {
            ("libp2p-peer-record", &[3, 1][..])
        };
        let sealed = SignedEnvelope::seal(&KEYPAIR, domain, payload_type, payload.to_vec())
            .expect("the domain is not empty");
        assert_eq!(sealed.open(domain, payload_type), Ok(payload));
        if let Ok(record) = PeerRecord::from_envelope(&sealed.encode()) {
            assert_eq!(record.peer_id, KEYPAIR.peer_id());
            // What was understood can be signed again.
            assert!(PeerRecord::from_envelope(&record.sign(&KEYPAIR).expect("own record")).is_ok());
        }
    }
    Input::Changed {
        seq,
        addrs,
        at,
        xor,
    } => {
        let addrs: Vec<_> = addrs
            .iter()
            .take(200)
            .filter_map(|bytes| Multiaddr::from_bytes(bytes).ok())
            .collect();
        let record = PeerRecord {
            peer_id: KEYPAIR.peer_id(),
            seq,
            addrs,
        };
        let mut bytes = record.sign(&KEYPAIR).expect("own record");
        let read = PeerRecord::from_envelope(&bytes).expect("what we sign, we accept");
        assert_eq!((read.peer_id, read.seq), (record.peer_id, seq));
        assert!(read.addrs.iter().all(|addr| record.addrs.contains(addr)));
        let at = usize::from(at) % bytes.len();
        bytes[at] ^= xor;
        // A changed envelope is refused or says the same: never something else under this name.
        if let Ok(changed) = PeerRecord::from_envelope(&bytes) {
            assert_eq!(changed, read);
        }
    }
});
