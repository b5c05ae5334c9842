//! Messages of relays, of both protocols, and vouchers: arbitrary bytes are read within bounds or refused, and what was read is
//! written and read again the same.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use barewire_base::Keypair;
use barewire_nat::relay::{HopMessage, MAX_ADDRS, MAX_MESSAGE, StopMessage, Voucher};
use libfuzzer_sys::fuzz_target;

static RELAY: LazyLock<Keypair> = LazyLock::new(|| Keypair::from_seed(&[1; 32]));

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Hop(&'a [u8]),
    Stop(&'a [u8]),
    Voucher(&'a [u8]),
    /// A voucher with one byte changed.
    Changed {
        expiration: u64,
        at: u16,
        xor: u8,
    },
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Hop(bytes) => {
        let Ok(message) = HopMessage::decode(bytes) else {
            return;
        };
        assert!(bytes.len() <= MAX_MESSAGE);
        let again = message.encode();
        assert!(again.len() <= MAX_MESSAGE + 64, "{}", again.len());
        let Ok(again) = HopMessage::decode(&again) else {
            // A voucher that fills a message leaves no room for the rest.
            assert!(bytes.len() > MAX_MESSAGE - 128);
            return;
        };
        match (message, again) {
            (
                HopMessage::Status {
                    status,
                    reservation,
                    limit,
                },
                HopMessage::Status {
                    status: status_2,
                    reservation: reservation_2,
                    limit: limit_2,
                },
            ) => {
                assert_eq!((status, limit), (status_2, limit_2));
                let Some(reservation) = reservation else {
                    assert_eq!(reservation_2, None);
                    return;
                };
                let reservation_2 = reservation_2.expect("it was written");
                assert!(reservation.addrs.len() <= MAX_ADDRS);
                assert_eq!(reservation.expire, reservation_2.expire);
                assert!(reservation.addrs.starts_with(&reservation_2.addrs));
            }
            (message, again) => assert_eq!(message, again),
        }
    }
    Input::Stop(bytes) => {
        let Ok(message) = StopMessage::decode(bytes) else {
            return;
        };
        assert_eq!(StopMessage::decode(&message.encode()), Ok(message));
    }
    Input::Voucher(bytes) => {
        let relay = RELAY.peer_id();
        assert!(
            Voucher::open(bytes, &relay, &relay).is_err(),
            "nobody signed it"
        );
    }
    Input::Changed {
        expiration,
        at,
        xor,
    } => {
        let relay = RELAY.peer_id();
        let peer = Keypair::from_seed(&[2; 32]).peer_id();
        let voucher = Voucher {
            relay,
            peer,
            expiration,
        };
        let mut signed = voucher.sign(&RELAY).expect("the relay's own");
        let at = usize::from(at) % signed.len();
        signed[at] ^= xor;
        // Refused, or it says the same.
        if let Ok(read) = Voucher::open(&signed, &relay, &peer) {
            assert_eq!(read, voucher);
        }
    }
});
