//! Cookies without state: 8 bytes, which hold a counter and part of a MAC, then the namespace in UTF-8. To
//! clients a cookie is opaque, but rust-libp2p reads exactly this form.

use sha2::{Digest, Sha256};

/// Bytes of the counter, enough for a million registrations a second over twelve days, or as many
/// as this process will ever see.
const COUNTER_LEN: usize = 5;
const MAC_LEN: usize = 3;
const HEAD_LEN: usize = COUNTER_LEN + MAC_LEN;

/// Largest counter a cookie can hold.
pub(crate) const MAX_COUNTER: u64 = (1 << (8 * COUNTER_LEN)) - 1;

/// Seals and opens cookies.
///
/// Of the MAC 24 bits are there: whoever tries long enough gets a cookie that skips some registrations of
/// a namespace he may ask for anyway.
pub(crate) struct Cookies {
    key: [u8; 32],
}

impl Cookies {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// For what was handed out up to `counter`. An empty `namespace` is all of them.
    pub(crate) fn seal(&self, counter: u64, namespace: &str) -> Vec<u8> {
        let head = self.head(counter.min(MAX_COUNTER), namespace);
        [&head[..], namespace.as_bytes()].concat()
    }

    /// The counter, if this point made the cookie for this namespace.
    pub(crate) fn open(&self, cookie: &[u8], namespace: &str) -> Option<u64> {
        let (head, rest) = cookie.split_first_chunk::<HEAD_LEN>()?;
        if rest != namespace.as_bytes() {
            return None;
        }
        let mut counter = [0; 8];
        counter[8 - COUNTER_LEN..].copy_from_slice(&head[..COUNTER_LEN]);
        let counter = u64::from_be_bytes(counter);
        (self.head(counter, namespace) == *head).then_some(counter)
    }

    fn head(&self, counter: u64, namespace: &str) -> [u8; HEAD_LEN] {
        let counter = counter.to_be_bytes();
        // The lengths of key and counter are fixed and the hash is cut, so that the plain hash is a MAC here.
        let mac = Sha256::new()
            .chain_update(self.key)
            .chain_update(counter)
            .chain_update(namespace)
            .finalize();
        let mut head = [0; HEAD_LEN];
        head[..COUNTER_LEN].copy_from_slice(&counter[8 - COUNTER_LEN..]);
        head[COUNTER_LEN..].copy_from_slice(&mac[..MAC_LEN]);
        head
    }
}
