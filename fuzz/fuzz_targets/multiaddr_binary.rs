//! Binary addresses: ours against the `multiaddr` crate.
//!
//! Where both know every component, both must accept or refuse, except for these known and wanted
//! differences, in all of which we are the stricter side:
//! * an empty address, more than 16 components or more than 1 KiB: refused (its decoder has no
//!   limits);
//! * an empty host, server or zone name, `/` or a control character in one: refused;
//! * a Unix path that does not begin with `/`, ends in one, is empty or is not last: refused
//!   (go-multiaddr's rules);
//! * an onion port of 0, or a garlic value of a length that no I2P address has: refused;
//! * an empty percent-encoded value: refused;
//! * a SHA-256 peer id of other than 32 bytes: refused, as go does;
//! * codes are unsigned varints of up to nine bytes here, but only table codes are accepted.
#![no_main]

use barewire_base::{Multiaddr, Protocol, multiaddr::MultiaddrError};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let theirs = multiaddr::Multiaddr::try_from(bytes.to_vec());
    match Multiaddr::from_bytes(bytes) {
        Ok(ours) => {
            assert_eq!(ours.as_bytes(), bytes);
            let text = ours.to_string();
            let back: Multiaddr = text.parse().expect("our own text");
            assert_eq!(back, ours, "{text}");
            assert_eq!(rebuild(&ours), ours);
            let theirs = theirs.expect("we are never the more lenient side");
            compare_text(&ours, &theirs, &text);
        }
        Err(error) => {
            if theirs.is_ok() {
                assert!(is_known_difference(&error), "only we refuse: {error}");
            }
        }
    }
});

/// Takes the address apart and puts it together again, through both `push` and `pop`.
fn rebuild(address: &Multiaddr) -> Multiaddr {
    let mut parts = Vec::new();
    let mut rest = address.clone();
    while let Some(protocol) = rest.pop() {
        parts.push(protocol);
    }
    assert!(rest.is_empty());
    parts.reverse();
    assert!(
        parts.iter().eq(address
            .iter()
            .map(Protocol::into_owned)
            .collect::<Vec<_>>()
            .iter())
    );
    parts
        .into_iter()
        .fold(Multiaddr::empty(), |built, protocol| {
            built
                .with(protocol)
                .expect("a component of a valid address")
        })
}

fn compare_text(ours: &Multiaddr, theirs: &multiaddr::Multiaddr, text: &str) {
    let differs_by_design = ours.iter().any(|protocol| {
        matches!(
            protocol,
            // They write a Unix path with two slashes.
            Protocol::Unix(_)
            // They escape fewer characters, and read a path of "/" as no path.
            | Protocol::HttpPath(_) | Protocol::XParityWs(_) | Protocol::XParityWss(_)
            // They leave I2P's padding out.
            | Protocol::Garlic64(_)
        )
    });
    if !differs_by_design {
        assert_eq!(theirs.to_string(), text);
    }
}

fn is_known_difference(error: &MultiaddrError) -> bool {
    match error {
        MultiaddrError::Empty
        | MultiaddrError::TooLong
        | MultiaddrError::TooManyComponents
        | MultiaddrError::NotLast(_) => true,
        MultiaddrError::InvalidValue(name) => matches!(
            *name,
            "dns"
                | "dns4"
                | "dns6"
                | "dnsaddr"
                | "sni"
                | "ip6zone"
                | "unix"
                | "onion"
                | "onion3"
                | "garlic32"
                | "garlic64"
                | "http-path"
                | "x-parity-ws"
                | "x-parity-wss"
                | "p2p"
        ),
        _ => false,
    }
}
