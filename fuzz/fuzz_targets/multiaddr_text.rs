//! Addresses in text: ours against the `multiaddr` crate.
//!
//! Known and wanted differences:
//! * all of those of the binary form (see `multiaddr_binary`);
//! * slashes at the end: ignored here, as go does; theirs refuses them;
//! * `+` before a number: refused here, as go does;
//! * a peer id as CID: accepted here only; base58 that begins with neither `1` nor `Qm` is a CID's
//!   multibase to us;
//! * a Unix path takes the rest of the text here, as in go; theirs ends at the next slash;
//! * `%` not followed by two hex digits: refused here, taken literally there;
//! * a certificate hash in identity or emoji base: theirs only; mixed case in a base that uses one
//!   case: ours only;
//! * garlic: padding and upper case are accepted here only;
//! * onion: a key shortened and padded is refused here, for it is none; theirs makes up the last byte, as go does.
#![no_main]

use barewire_base::{Multiaddr, Protocol};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let theirs = text.parse::<multiaddr::Multiaddr>();
    let Ok(ours) = text.parse::<Multiaddr>() else {
        if let Ok(theirs) = theirs {
            assert!(may_refuse(&theirs, text), "only we refuse {text}");
        }
        return;
    };
    let printed = ours.to_string();
    assert_eq!(
        printed.parse::<Multiaddr>().as_ref(),
        Ok(&ours),
        "{printed}"
    );
    assert_eq!(
        Multiaddr::from_bytes(ours.as_bytes()).as_ref(),
        Ok(&ours),
        "{printed}"
    );
    let has = |wanted: fn(&Protocol<'_>) -> bool| ours.iter().any(|protocol| wanted(&protocol));
    if has(|protocol| matches!(protocol, Protocol::Unix(_))) {
        return;
    }
    match theirs {
        Ok(theirs) => {
            // x-parity-ws with the path "/" is plain ws to them.
            let parity = has(|protocol| {
                matches!(protocol, Protocol::XParityWs(_) | Protocol::XParityWss(_))
            });
            assert!(parity || theirs.to_vec() == ours.as_bytes(), "{text}");
        }
        Err(_) => assert!(
            text.ends_with('/')
                || has(|protocol| {
                    matches!(
                        protocol,
                        Protocol::P2p(_)
                            | Protocol::Certhash(_)
                            | Protocol::Garlic32(_)
                            | Protocol::Garlic64(_)
                    )
                }),
            "only they refuse {text}"
        ),
    }
});

/// Whether a text that only they accept is one of the known differences.
fn may_refuse(theirs: &multiaddr::Multiaddr, text: &str) -> bool {
    use multiaddr::Protocol::{
        Certhash, Garlic32, Garlic64, HttpPath, Onion, Onion3, P2p, Unix, Ws, Wss,
    };
    Multiaddr::from_bytes(theirs.as_ref()).is_err()
        || text.contains('+')
        || text.contains('%')
        || text.len() > 8192
        || theirs.iter().any(|protocol| match protocol {
            Unix(_) | Certhash(_) | P2p(_) | Garlic32(_) | Garlic64(_) | HttpPath(_) => true,
            Onion(..) | Onion3(_) => text.contains('='),
            Ws(path) | Wss(path) => path != "/",
            _ => false,
        })
}
