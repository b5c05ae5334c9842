//! What simulated messages hold.

use barewire_gossip::Payload;
use bytes::Bytes;

/// Bytes of a payload that are its id, as many as go's ids have.
pub(crate) const ID: usize = 46;
/// Numbers from here on are of messages that validators reject.
pub(crate) const INVALID: u64 = 1 << 63;

/// The beginning of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) number: u64,
    /// The node that published it.
    pub(crate) publisher: u32,
}

impl Header {
    /// A payload of `size` bytes.
    pub(crate) fn payload(self, size: usize) -> Vec<u8> {
        let mut payload = vec![0; size.max(12)];
        payload[..8].copy_from_slice(&self.number.to_be_bytes());
        payload[8..12].copy_from_slice(&self.publisher.to_be_bytes());
        payload
    }

    pub(crate) fn read(payload: &Payload) -> Option<Self> {
        let bytes = prefix(payload, 12);
        Some(Self {
            number: u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?),
            publisher: u32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?),
        })
    }
}

/// The id that routers give the message.
pub(crate) fn id(payload: &Payload) -> Bytes {
    prefix(payload, ID)
}

fn prefix(payload: &Payload, len: usize) -> Bytes {
    match payload.chunks().first() {
        Some(first) if first.len() >= len => first.slice(..len),
        // It lies in several buffers, or is shorter.
        _ => {
            let all = payload.to_bytes();
            all.slice(..len.min(all.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_wherever_they_are_cut() {
        let header = Header {
            number: INVALID | 7,
            publisher: 9,
        };
        let bytes = Bytes::from(header.payload(100));
        for cut in [0, 1, 8, 11, 12, 50] {
            let payload = Payload::from_chunks([bytes.slice(..cut), bytes.slice(cut..)]);
            assert_eq!(Header::read(&payload), Some(header));
            assert_eq!(id(&payload), bytes.slice(..ID));
        }
        assert_eq!(Header::read(&Payload::from(vec![0; 11])), None);
    }
}
