//! The identify message on the wire, and the machine that reads one. No I/O, no clock.

use std::sync::Arc;

use barewire_base::{
    Fault, Multiaddr, PeerId, PublicKey,
    framing::{FramingError, LengthPrefixedDecoder, encode_prefixed},
    peer_record::PeerRecord,
    proto::{Field, Fields, ScanError, Value},
};
use bytes::{Bytes, BytesMut};
use prost::Message as _;

/// Bytes accepted on one stream, all messages together. go-libp2p and js-libp2p read up to 8 KiB
/// per message; nobody honest sends more than two of 4 KiB.
pub const MAX_TOTAL: usize = 8 * 1024;
/// Messages accepted on one stream, as go-libp2p.
pub const MAX_MESSAGES: usize = 10;
/// Protocols accepted from one peer (own choice; the largest nodes seen list about 40).
pub const MAX_PROTOCOLS: usize = 128;
/// Addresses kept of one peer; those after are ignored (own choice; go-libp2p keeps 500).
pub const MAX_ADDRESSES: usize = 128;
/// Longest message sent: rust-libp2p reads no more.
pub const MAX_SENT: usize = 4096;
/// Above this the signed record travels in a message of its own, as go-libp2p does it, so that the
/// essential fields reach peers that read one message only.
const SPLIT_ABOVE: usize = 2048;

/// `Identify` of the identify 1.0 specification. All fields optional, so that absent differs from
/// empty.
#[derive(Clone, PartialEq, prost::Message)]
struct Wire {
    #[prost(bytes = "bytes", optional, tag = "1")]
    public_key: Option<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    listen_addrs: Vec<Bytes>,
    #[prost(string, repeated, tag = "3")]
    protocols: Vec<String>,
    #[prost(bytes = "bytes", optional, tag = "4")]
    observed_addr: Option<Bytes>,
    #[prost(string, optional, tag = "5")]
    protocol_version: Option<String>,
    #[prost(string, optional, tag = "6")]
    agent_version: Option<String>,
    #[prost(bytes = "bytes", optional, tag = "8")]
    signed_peer_record: Option<Bytes>,
}

/// What a peer said about itself.
///
/// Only [`peer_id`](Self::peer_id) is proven; the rest is its word. Text comes from the remote:
/// escape it before showing it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// The peer, as proven by the connection.
    pub peer_id: PeerId,
    /// Addresses it listens on, without `/p2p`. From the signed record if that was valid.
    pub listen_addrs: Vec<Multiaddr>,
    /// Protocols it accepts.
    pub protocols: Vec<Arc<str>>,
    /// The address it sees this node at.
    pub observed_addr: Option<Multiaddr>,
    /// Free text, `ipfs/0.1.0` for many.
    pub protocol_version: String,
    /// `name/version` of its software.
    pub agent_version: String,
    /// Sequence number of its signed record, if there was a valid one.
    pub record_seq: Option<u64>,
    /// That record as it came: the envelope's bytes.
    pub signed_record: Option<Bytes>,
}

impl PeerInfo {
    /// Whether the peer calls itself a barewire node.
    #[must_use]
    pub fn is_barewire(&self) -> bool {
        self.agent_version.starts_with("barewire/")
    }

    /// Whether the peer lists a protocol.
    #[must_use]
    pub fn speaks(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|p| &**p == protocol)
    }
}

/// Why bytes are not an acceptable identify message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// More bytes than one node says about itself.
    #[error("the identify messages are longer than {MAX_TOTAL} bytes together")]
    TooLong,
    /// More messages on one stream than allowed.
    #[error("more than {MAX_MESSAGES} identify messages on one stream")]
    TooManyMessages,
    /// The length prefix is wrong.
    #[error("the length of an identify message is invalid: {0}")]
    Framing(FramingError),
    /// The stream ended inside a message or without one.
    #[error("the identify stream ended before its message did")]
    Truncated,
    /// The bytes are no protobuf message.
    #[error("the identify message is damaged: {0}")]
    Scan(ScanError),
    /// A field has the wrong type, or text is not UTF-8.
    #[error("a field of the identify message is damaged")]
    Decode,
    /// More protocols than any node speaks.
    #[error("the peer lists more than {MAX_PROTOCOLS} protocols")]
    TooManyProtocols,
    /// The key in the message is not the one the connection was secured with.
    #[error("the key in the identify message is not the key of the connection")]
    WrongKey,
}

impl MessageError {
    /// Always the peer.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::Peer
    }
}

/// Reads the messages of one identify or push stream and merges them, as protobuf merges: single
/// fields are replaced, lists grow.
#[derive(Debug)]
pub struct Reader {
    decoder: LengthPrefixedDecoder,
    received: usize,
    messages: usize,
    wire: Wire,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            decoder: LengthPrefixedDecoder::new(MAX_TOTAL),
            received: 0,
            messages: 0,
            wire: Wire::default(),
        }
    }
}

impl Reader {
    /// Takes what arrived, in any fragmentation.
    pub fn push(&mut self, chunk: Bytes) -> Result<(), MessageError> {
        self.received = self.received.saturating_add(chunk.len());
        // Prefixes are counted too: it is the bytes on the wire that are bounded.
        if self.received > MAX_TOTAL {
            return Err(MessageError::TooLong);
        }
        self.decoder.push(chunk);
        while let Some(body) = self.decoder.next().map_err(MessageError::Framing)? {
            self.merge(body)?;
        }
        Ok(())
    }

    fn merge(&mut self, body: Bytes) -> Result<(), MessageError> {
        self.messages += 1;
        if self.messages > MAX_MESSAGES {
            return Err(MessageError::TooManyMessages);
        }
        // By hand, because what is not kept must not be allocated: empty fields decode to many times their size.
        let mut fields = Fields::new(&body);
        while let Some(Field { number, value }) = fields.next_field().map_err(MessageError::Scan)? {
            let slice = match value {
                Value::Bytes(slice) => slice,
                Value::StartGroup => return Err(MessageError::Scan(ScanError::TooDeep(0))),
                Value::EndGroup => return Err(MessageError::Scan(ScanError::Group)),
                _ if matches!(number, 1..=6 | 8) => return Err(MessageError::Decode),
                _ => continue,
            };
            let bytes = || body.slice_ref(slice);
            let text = || str::from_utf8(slice).map_err(|_| MessageError::Decode);
            let wire = &mut self.wire;
            match number {
                1 => wire.public_key = Some(bytes()),
                2 if wire.listen_addrs.len() < MAX_ADDRESSES => wire.listen_addrs.push(bytes()),
                3 if wire.protocols.len() >= MAX_PROTOCOLS => {
                    return Err(MessageError::TooManyProtocols);
                }
                3 => wire.protocols.push(text()?.to_owned()),
                4 => wire.observed_addr = Some(bytes()),
                5 => wire.protocol_version = Some(text()?.to_owned()),
                6 => wire.agent_version = Some(text()?.to_owned()),
                8 => wire.signed_peer_record = Some(bytes()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Ends the answer to an identify query, at the end of the stream. `key` is the one the
    /// connection was secured with.
    pub fn finish(self, key: &PublicKey) -> Result<PeerInfo, MessageError> {
        self.finish_over(key, None)
    }

    /// Ends a push: what it does not say stays as in `known`.
    pub fn finish_push(self, key: &PublicKey, known: &PeerInfo) -> Result<PeerInfo, MessageError> {
        self.finish_over(key, Some(known))
    }

    fn finish_over(
        self,
        key: &PublicKey,
        known: Option<&PeerInfo>,
    ) -> Result<PeerInfo, MessageError> {
        if self.messages == 0 || !self.decoder.is_at_boundary() {
            return Err(MessageError::Truncated);
        }
        let peer_id = key.peer_id();
        let wire = self.wire;
        // Compared by id: the encoding need not be canonical.
        if let Some(bytes) = &wire.public_key
            && PublicKey::from_protobuf(bytes).map(|key| key.peer_id()) != Ok(peer_id)
        {
            return Err(MessageError::WrongKey);
        }
        let plain: Vec<_> = wire
            .listen_addrs
            .iter()
            .filter_map(|bytes| own_address(&peer_id, Multiaddr::from_bytes(bytes).ok()?))
            .collect();
        let record = wire
            .signed_peer_record
            .and_then(|bytes| Some((PeerRecord::from_envelope(&bytes).ok()?, bytes)));
        let (listen_addrs, record_seq, signed_record) = match record {
            // A badly signed record falls back to the plain list, a well signed one of somebody
            // else voids it: go-libp2p does the same.
            None if plain.is_empty() => (
                known.map_or_else(Vec::new, |known| known.listen_addrs.clone()),
                known.and_then(|known| known.record_seq),
                known.and_then(|known| known.signed_record.clone()),
            ),
            None => (plain, None, None),
            Some((record, bytes)) if record.peer_id == peer_id => {
                let addrs = record
                    .addrs
                    .into_iter()
                    .take(MAX_ADDRESSES)
                    .filter_map(|addr| own_address(&peer_id, addr))
                    .collect();
                // Alone: a slice would hold on to all that came with it.
                let bytes = Bytes::copy_from_slice(&bytes);
                (addrs, Some(record.seq), Some(bytes))
            }
            Some(_) => (Vec::new(), None, None),
        };
        let text = |said: Option<String>, old: fn(&PeerInfo) -> &String| {
            said.or_else(|| known.map(|known| old(known).clone()))
                .unwrap_or_default()
        };
        let protocols = match known {
            Some(known) if wire.protocols.is_empty() => known.protocols.clone(),
            _ => wire.protocols.iter().map(|p| Arc::from(&**p)).collect(),
        };
        Ok(PeerInfo {
            peer_id,
            listen_addrs,
            protocols,
            observed_addr: match &wire.observed_addr {
                Some(bytes) => Multiaddr::from_bytes(bytes).ok(),
                None => known.and_then(|known| known.observed_addr.clone()),
            },
            protocol_version: text(wire.protocol_version, |known| &known.protocol_version),
            agent_version: text(wire.agent_version, |known| &known.agent_version),
            record_seq,
            signed_record,
        })
    }
}

/// Strips `/p2p/<peer>`; `None` for an address that names another peer.
fn own_address(peer: &PeerId, addr: Multiaddr) -> Option<Multiaddr> {
    match addr.peer_id() {
        None => Some(addr),
        Some(id) if id == *peer => Some(addr.without_peer()),
        Some(_) => None,
    }
}

/// What this node says about itself, apart from the observed address.
#[derive(Debug, Clone)]
pub struct Outgoing<'a> {
    /// Key of this node.
    pub public_key: &'a PublicKey,
    /// Addresses to list, the most useful first: the last ones are left out when there is no room.
    pub listen_addrs: &'a [Multiaddr],
    /// Protocols accepted inbound; all of them are sent.
    pub protocols: &'a [Arc<str>],
    /// Free text.
    pub protocol_version: &'a str,
    /// Free text.
    pub agent_version: &'a str,
    /// Signed peer record of the same addresses, as go- and js-libp2p read it.
    pub signed_record: Option<Bytes>,
    /// The same as rust-libp2p reads it.
    pub legacy_record: Option<Bytes>,
}

/// Encodes an answer or a full push, each message with its length before it.
///
/// rust-libp2p reads one message and knows the legacy form of the record; go- and js-libp2p merge
/// all messages, the last value winning, and know the standard form. So the legacy record goes with
/// the first message and the standard one alone into the second, and each finds its own.
#[must_use]
pub fn encode(local: &Outgoing<'_>, observed: Option<&Multiaddr>) -> Bytes {
    let mut first = Wire {
        public_key: Some(local.public_key.to_protobuf().into()),
        listen_addrs: Vec::new(),
        protocols: local.protocols.iter().map(|p| (**p).to_owned()).collect(),
        observed_addr: observed.map(|addr| Bytes::copy_from_slice(addr.as_bytes())),
        protocol_version: Some(local.protocol_version.to_owned()),
        agent_version: Some(local.agent_version.to_owned()),
        signed_peer_record: None,
    };
    let mut room = MAX_SENT.saturating_sub(first.encoded_len());
    for addr in local.listen_addrs {
        let bytes = addr.as_bytes();
        // Tag, a length of up to two bytes, the address.
        let Some(left) = room.checked_sub(bytes.len() + 3) else {
            break;
        };
        room = left;
        first.listen_addrs.push(Bytes::copy_from_slice(bytes));
    }
    let fits = |record: &Bytes| first.encoded_len() + record.len() + 3 <= SPLIT_ABOVE;
    first.signed_peer_record = local.legacy_record.clone().filter(fits);
    let record = local.signed_record.clone();
    let second = record
        .filter(|record| record.len() + 3 <= MAX_SENT)
        .map(|record| Wire {
            signed_peer_record: Some(record),
            ..Wire::default()
        });
    let mut out = BytesMut::new();
    encode_prefixed(&first.encode_to_vec(), &mut out);
    if let Some(second) = second {
        encode_prefixed(&second.encode_to_vec(), &mut out);
    }
    out.freeze()
}

/// Bytes the protocol list takes in a message, for the check that everything fits.
#[must_use]
pub fn protocols_len<'a>(protocols: impl Iterator<Item = &'a str>) -> usize {
    // Tag, a length of up to two bytes, the id.
    protocols.map(|protocol| protocol.len() + 3).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use barewire_base::Keypair;

    use super::*;

    fn addrs(n: usize) -> Vec<Multiaddr> {
        (0..n)
            .map(|n| format!("/ip4/10.0.{}.{}/tcp/4001", n / 256, n % 256))
            .map(|text| text.parse().unwrap())
            .collect()
    }

    fn protocols(n: usize) -> Vec<Arc<str>> {
        (0..n).map(|n| format!("/protocol/{n}").into()).collect()
    }

    fn record(keypair: &Keypair, addrs: &[Multiaddr]) -> PeerRecord {
        PeerRecord {
            peer_id: keypair.peer_id(),
            seq: 7,
            addrs: addrs.to_vec(),
        }
    }

    fn message(keypair: &Keypair, addrs: &[Multiaddr], protocols: &[Arc<str>]) -> Bytes {
        let outgoing = Outgoing {
            public_key: keypair.public(),
            listen_addrs: addrs,
            protocols,
            protocol_version: "test/1",
            agent_version: "barewire/9",
            signed_record: Some(record(keypair, addrs).sign(keypair).unwrap().into()),
            legacy_record: Some(record(keypair, addrs).sign_legacy(keypair).unwrap().into()),
        };
        encode(&outgoing, addrs.first())
    }

    fn framed(wire: &Wire) -> Bytes {
        let mut out = BytesMut::new();
        encode_prefixed(&wire.encode_to_vec(), &mut out);
        out.freeze()
    }

    /// Lengths of the messages in `bytes`.
    fn lengths(bytes: &Bytes) -> Vec<usize> {
        let mut decoder = LengthPrefixedDecoder::new(1 << 20);
        decoder.push(bytes.clone());
        std::iter::from_fn(|| decoder.next().unwrap())
            .map(|body| body.len())
            .collect()
    }

    fn read(bytes: Bytes, key: &PublicKey) -> Result<PeerInfo, MessageError> {
        let mut reader = Reader::default();
        reader.push(bytes)?;
        reader.finish(key)
    }

    #[test]
    fn what_is_sent_is_read_in_any_fragmentation() {
        let keypair = Keypair::generate(&mut rand::rng());
        let (addrs, protocols) = (addrs(3), protocols(5));
        let bytes = message(&keypair, &addrs, &protocols);
        assert_eq!(lengths(&bytes).len(), 2);
        for cut in [1, 2, 7, 100, bytes.len()] {
            let mut reader = Reader::default();
            for piece in bytes.chunks(cut) {
                reader.push(Bytes::copy_from_slice(piece)).unwrap();
            }
            let info = reader.finish(keypair.public()).unwrap();
            assert_eq!(info.peer_id, keypair.peer_id());
            assert_eq!(info.listen_addrs, addrs);
            assert_eq!(info.protocols, protocols);
            assert_eq!(info.observed_addr.as_ref(), addrs.first());
            assert_eq!(info.record_seq, Some(7));
            assert_eq!(info.agent_version, "barewire/9");
            assert!(info.is_barewire());
        }
    }

    /// rust-libp2p stops after the first message and knows only the legacy record; whoever merges
    /// all messages ends with the standard one.
    #[test]
    fn each_reader_finds_the_record_it_knows() {
        let keypair = Keypair::generate(&mut rand::rng());
        let addrs = addrs(2);
        let mut decoder = LengthPrefixedDecoder::new(MAX_SENT);
        decoder.push(message(&keypair, &addrs, &protocols(3)));
        let first = Wire::decode(decoder.next().unwrap().unwrap()).unwrap();
        let second = Wire::decode(decoder.next().unwrap().unwrap()).unwrap();
        let record = record(&keypair, &addrs);
        let legacy = record.sign_legacy(&keypair).unwrap();
        let standard = record.sign(&keypair).unwrap();
        assert_eq!(first.signed_peer_record.unwrap(), legacy);
        assert_eq!(second.signed_peer_record.unwrap(), standard);
    }

    #[test]
    fn a_long_message_is_split_and_trimmed_so_that_all_peers_read_it() {
        let keypair = Keypair::generate(&mut rand::rng());
        let protocols = protocols(100);
        for n in [0, 10, 60, 300, 1_000] {
            let addrs = addrs(n);
            let bytes = message(&keypair, &addrs, &protocols);
            let lengths = lengths(&bytes);
            assert!(lengths.len() <= 2 && lengths.iter().all(|len| *len <= MAX_SENT));
            assert!(bytes.len() <= MAX_TOTAL, "{n}: {lengths:?}");
            let info = read(bytes, keypair.public()).unwrap();
            assert_eq!(info.protocols, protocols, "{n}");
            assert!(info.listen_addrs.iter().zip(&addrs).all(|(a, b)| a == b));
        }
    }

    #[test]
    fn ten_messages_are_merged_and_no_more() {
        let keypair = Keypair::generate(&mut rand::rng());
        let one = |n: usize| {
            framed(&Wire {
                protocols: vec![format!("/p/{n}")],
                agent_version: Some(format!("agent/{n}")),
                ..Wire::default()
            })
        };
        let mut reader = Reader::default();
        for n in 0..MAX_MESSAGES {
            reader.push(one(n)).unwrap();
        }
        assert_eq!(reader.push(one(10)), Err(MessageError::TooManyMessages));
        let mut reader = Reader::default();
        for n in 0..MAX_MESSAGES {
            reader.push(one(n)).unwrap();
        }
        let info = reader.finish(keypair.public()).unwrap();
        assert_eq!(info.protocols.len(), MAX_MESSAGES);
        assert_eq!(info.agent_version, "agent/9");
    }

    #[test]
    fn floods_are_refused_before_they_are_decoded() {
        let keypair = Keypair::generate(&mut rand::rng());
        let key = keypair.public();
        let many = |n: usize, field: &[u8]| {
            let mut out = BytesMut::new();
            encode_prefixed(&field.repeat(n), &mut out);
            out.freeze()
        };
        // 10^4 protocols do not fit; those that fit are too many.
        assert_eq!(
            read(many(10_000, b"\x1a\x01/"), key),
            Err(MessageError::TooLong)
        );
        assert_eq!(
            read(many(129, b"\x1a\x01/"), key),
            Err(MessageError::TooManyProtocols)
        );
        assert!(read(many(128, b"\x1a\x01/"), key).is_ok());
        // Empty fields, which would decode to many times their size.
        assert_eq!(
            read(many(4_000, b"\x12\x00"), key).unwrap().listen_addrs,
            []
        );
        // Text as a number, bytes as a group.
        for damaged in [&b"\x18\x01"[..], b"\x13\x14"] {
            assert!(read(many(1, damaged), key).is_err());
        }
        // A thousand addresses keep the first 128.
        let wire = Wire {
            listen_addrs: addrs(1_000)
                .iter()
                .map(|addr| Bytes::copy_from_slice(addr.as_bytes()))
                .take(700)
                .collect(),
            ..Wire::default()
        };
        assert_eq!(
            read(framed(&wire), key).unwrap().listen_addrs.len(),
            MAX_ADDRESSES
        );
        // A length of 4 GiB.
        assert!(matches!(
            read(Bytes::from_static(b"\x80\x80\x80\x80\x10"), key),
            Err(MessageError::Framing(_))
        ));
    }

    #[test]
    fn an_incomplete_or_empty_stream_is_no_answer() {
        let keypair = Keypair::generate(&mut rand::rng());
        let bytes = message(&keypair, &addrs(1), &protocols(1));
        for cut in [0, 1, 5, bytes.len() - 1] {
            assert_eq!(
                read(bytes.slice(..cut), keypair.public()),
                Err(MessageError::Truncated),
                "{cut}"
            );
        }
    }

    #[test]
    fn unusable_addresses_do_not_spoil_the_message() {
        let keypair = Keypair::generate(&mut rand::rng());
        let other = Keypair::generate(&mut rand::rng()).peer_id();
        let good = addrs(1).remove(0);
        let own = good.clone().with_peer(keypair.peer_id()).unwrap();
        let foreign = good.clone().with_peer(other).unwrap();
        let mut wire = Wire {
            listen_addrs: [own.as_bytes(), foreign.as_bytes(), b"\xff\xff\xff", b""]
                .map(Bytes::copy_from_slice)
                .to_vec(),
            observed_addr: Some(Bytes::from_static(b"\xfe")),
            ..Wire::default()
        };
        let info = read(framed(&wire), keypair.public()).unwrap();
        assert_eq!(info.listen_addrs, std::slice::from_ref(&good));
        assert_eq!(info.observed_addr, None);
        // A damaged record falls back to the list, somebody else's voids it.
        wire.signed_peer_record = Some(Bytes::from_static(b"\x0a\x00"));
        let info = read(framed(&wire), keypair.public()).unwrap();
        assert_eq!((info.listen_addrs.len(), info.record_seq), (1, None));
        let somebody = Keypair::generate(&mut rand::rng());
        wire.signed_peer_record =
            Some(record(&somebody, &addrs(2)).sign(&somebody).unwrap().into());
        let info = read(framed(&wire), keypair.public()).unwrap();
        assert_eq!((info.listen_addrs.len(), info.record_seq), (0, None));
    }

    #[test]
    fn a_key_of_somebody_else_is_refused() {
        let keypair = Keypair::generate(&mut rand::rng());
        let other = Keypair::generate(&mut rand::rng());
        let bytes = message(&other, &addrs(1), &protocols(1));
        assert_eq!(read(bytes, keypair.public()), Err(MessageError::WrongKey));
    }

    #[test]
    fn a_push_keeps_what_it_does_not_say() {
        let keypair = Keypair::generate(&mut rand::rng());
        let bytes = message(&keypair, &addrs(2), &protocols(2));
        let known = read(bytes, keypair.public()).unwrap();
        let push = |wire: Wire| {
            let mut reader = Reader::default();
            reader.push(framed(&wire)).unwrap();
            reader.finish_push(keypair.public(), &known).unwrap()
        };
        let renamed = push(Wire {
            agent_version: Some("new/1".into()),
            ..Wire::default()
        });
        assert_eq!(renamed.agent_version, "new/1");
        assert_eq!(
            PeerInfo {
                agent_version: known.agent_version.clone(),
                ..renamed
            },
            known
        );
        let fewer = push(Wire {
            protocols: vec!["/only".into()],
            ..Wire::default()
        });
        assert_eq!(fewer.protocols, ["/only".into()]);
        assert_eq!(fewer.listen_addrs, known.listen_addrs);
    }
}
