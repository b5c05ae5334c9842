//! What identifies a message, who signs it, and what is made to be published.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{self, AtomicU64},
    },
};

use barewire_base::{Keypair, PeerId};
use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};

use crate::{
    Payload,
    rpc::{WireMessage, encode},
    verify,
};

/// Bytes of an id that need no allocation: go's default id of an Ed25519 author takes 46.
const INLINE: usize = 54;

/// Below this a payload is copied into the message's own buffer; above, it is referred to.
const COPY_BELOW: usize = 4096;

/// A message id: arbitrary bytes, chosen by the topic's [`MessageIdFn`].
#[derive(Clone)]
pub struct MessageId(Id);

#[derive(Clone)]
enum Id {
    Inline(u8, [u8; INLINE]),
    Heap(Bytes),
}

impl MessageId {
    /// The id of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self::concat(bytes, &[])
    }

    fn concat(a: &[u8], b: &[u8]) -> Self {
        let len = a.len() + b.len();
        let mut inline = [0; INLINE];
        let Some(room) = inline.get_mut(..len) else {
            return Self(Id::Heap([a, b].concat().into()));
        };
        room[..a.len()].copy_from_slice(a);
        room[a.len()..].copy_from_slice(b);
        Self(Id::Inline(len as u8, inline))
    }

    /// The bytes.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Id::Inline(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Id::Heap(bytes) => bytes,
        }
    }
}

impl PartialEq for MessageId {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for MessageId {}

impl PartialOrd for MessageId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for MessageId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for MessageId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MessageId(")?;
        for byte in self.as_bytes() {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

/// A function of the user's own that gives a message its id.
pub type CustomIdFn = Arc<dyn Fn(&WireMessage) -> MessageId + Send + Sync>;

/// How messages of a topic get their ids. All peers of a topic have to agree: messages flow anyway, but lazy gossip and
/// IDONTWANT match only equal ids. The defaults of go, rust and js differ from one another.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum MessageIdFn {
    /// `from` ‖ `seqno`, go's default.
    #[default]
    FromAndSeqno,
    /// SHA-256 of the payload. For unsigned messages, which have neither author nor number, an id must depend on the payload.
    Sha256,
    /// The first n bytes of the payload.
    DataPrefix(usize),
    /// Another function. It must be quick and depend on nothing but the message.
    Custom(CustomIdFn),
}

impl MessageIdFn {
    /// The id of `message`.
    #[must_use]
    pub fn id(&self, message: &WireMessage) -> MessageId {
        match self {
            Self::FromAndSeqno => MessageId::concat(
                message.from.as_deref().unwrap_or_default(),
                message.seqno.as_deref().unwrap_or_default(),
            ),
            Self::Sha256 => {
                let mut hash = Sha256::new();
                for chunk in data_chunks(message) {
                    hash.update(chunk);
                }
                MessageId::new(&hash.finalize())
            }
            Self::DataPrefix(len) => {
                let mut prefix = Vec::new();
                for chunk in data_chunks(message) {
                    let room = len - prefix.len();
                    prefix.extend_from_slice(&chunk[..chunk.len().min(room)]);
                }
                MessageId::new(&prefix)
            }
            Self::Custom(id_fn) => id_fn(message),
        }
    }
}

fn data_chunks(message: &WireMessage) -> &[Bytes] {
    message.data.as_ref().map_or(&[], Payload::chunks)
}

impl fmt::Debug for MessageIdFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FromAndSeqno => f.write_str("FromAndSeqno"),
            Self::Sha256 => f.write_str("Sha256"),
            Self::DataPrefix(len) => write!(f, "DataPrefix({len})"),
            Self::Custom(_) => f.write_str("Custom"),
        }
    }
}

/// What messages say about their author, and what is demanded of others' messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignaturePolicy {
    /// Author, number and signature are sent and demanded; every signature is verified. The default of all implementations.
    #[default]
    StrictSign,
    /// Nothing about the author is sent. A message with a signature, author, number or key is rejected, as go does for a node
    /// without an author of its own.
    StrictNoSign,
    /// As [`StrictNoSign`](Self::StrictNoSign), under the name rust uses: signature, number and author are rejected, a
    /// key without them is ignored.
    Anonymous,
}

/// What is demanded of sequence numbers under [`SignaturePolicy::StrictSign`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SeqnoPolicy {
    /// Any bytes, as go without a validator.
    #[default]
    Opaque,
    /// Exactly eight bytes, as rust and js demand.
    EightBytes,
    /// Eight bytes, and greater than any accepted number of the author, else the message is ignored: go's `BasicSeqnoValidator`.
    /// It keeps replays out that are older than the seen cache, and needs messages of an author to stay roughly in order.
    Increasing,
}

/// Why a message is not accepted before anybody looks at its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectReason {
    /// No signature, though one is demanded.
    MissingSignature,
    /// No author, though one is demanded.
    MissingAuthor,
    /// The author's bytes are no peer id.
    InvalidAuthor,
    /// The signature does not match.
    InvalidSignature,
    /// A signature, though none is allowed.
    UnexpectedSignature,
    /// An author, number or key, though none is allowed.
    UnexpectedAuthInfo,
    /// The sequence number has not eight bytes.
    InvalidSeqno,
    /// The author is we, but we sent nothing of this id lately.
    SelfOrigin,
    /// Longer than the topic allows.
    TooLarge,
    /// The validator rejected it.
    Validator,
}

/// Checks what the policy demands, except the signature itself. Returns the author, if the message names one.
pub(crate) fn check_presence(
    message: &WireMessage,
    policy: SignaturePolicy,
    seqno: SeqnoPolicy,
) -> Result<Option<PeerId>, RejectReason> {
    match policy {
        SignaturePolicy::StrictSign => {
            if message.signature.as_ref().is_none_or(|s| s.is_empty()) {
                return Err(RejectReason::MissingSignature);
            }
            let from = message.from.as_ref().ok_or(RejectReason::MissingAuthor)?;
            if seqno != SeqnoPolicy::Opaque && message.seqno.as_ref().is_none_or(|s| s.len() != 8) {
                return Err(RejectReason::InvalidSeqno);
            }
            PeerId::from_bytes(from)
                .map(Some)
                .map_err(|_| RejectReason::InvalidAuthor)
        }
        SignaturePolicy::StrictNoSign | SignaturePolicy::Anonymous => {
            if message.signature.is_some() {
                return Err(RejectReason::UnexpectedSignature);
            }
            let key = message.key.is_some() && policy == SignaturePolicy::StrictNoSign;
            if message.from.is_some() || message.seqno.is_some() || key {
                return Err(RejectReason::UnexpectedAuthInfo);
            }
            Ok(None)
        }
    }
}

/// A message made to be published: encoded once, for however many peers.
#[derive(Clone, Debug)]
pub struct OutgoingMessage {
    pub(crate) message: Arc<WireMessage>,
}

impl OutgoingMessage {
    /// The message as it goes on the wire.
    #[must_use]
    pub fn message(&self) -> &WireMessage {
        &self.message
    }
}

/// Makes messages: numbers them, signs them, encodes them. It may be shared between threads, so that signing happens beside
/// the router.
#[derive(Debug)]
pub struct Author {
    identity: Option<Identity>,
    next_seqno: AtomicU64,
}

#[derive(Debug)]
struct Identity {
    peer_id: PeerId,
    signer: verify::Signer,
}

impl Author {
    /// An author under [`SignaturePolicy::StrictSign`]. `first_seqno` must be greater than every number this identity ever
    /// used; go takes the nanoseconds since 1970.
    #[must_use]
    pub fn signed(keypair: &Keypair, first_seqno: u64) -> Self {
        Self {
            identity: Some(Identity {
                peer_id: keypair.peer_id(),
                signer: verify::Signer::new(keypair),
            }),
            next_seqno: AtomicU64::new(first_seqno),
        }
    }

    /// For topics under [`SignaturePolicy::StrictNoSign`] or [`SignaturePolicy::Anonymous`].
    #[must_use]
    pub const fn anonymous() -> Self {
        Self {
            identity: None,
            next_seqno: AtomicU64::new(0),
        }
    }

    /// Encodes a message. Signing takes time linear in the payload (two passes of SHA-512), and no copy of it.
    #[must_use]
    pub fn message(&self, topic: &str, data: Payload) -> OutgoingMessage {
        let mut message = WireMessage {
            data: Some(data),
            topic: Some(Bytes::copy_from_slice(topic.as_bytes())),
            ..WireMessage::default()
        };
        if let Some(identity) = &self.identity {
            let seqno = self.next_seqno.fetch_add(1, atomic::Ordering::Relaxed);
            message.from = Some(Bytes::copy_from_slice(identity.peer_id.as_bytes()));
            message.seqno = Some(Bytes::copy_from_slice(&seqno.to_be_bytes()));
            message.signature = Some(identity.signer.sign(&message));
        }
        message.encoded = encode(&message);
        OutgoingMessage {
            message: Arc::new(message),
        }
    }
}

/// The message's fields in ascending order: one buffer if the payload is short, else head and tail around it.
fn encode(message: &WireMessage) -> Payload {
    let data = message.data.clone().unwrap_or_default();
    let mut head = BytesMut::with_capacity(
        256 + if data.len() < COPY_BELOW {
            data.len()
        } else {
            0
        },
    );
    if let Some(from) = &message.from {
        encode::put_bytes(1, from, &mut head);
    }
    encode::put_head(2, data.len(), &mut head);
    if data.len() < COPY_BELOW {
        for chunk in data.chunks() {
            head.put_slice(chunk);
        }
        put_tail(message, &mut head);
        return head.freeze().into();
    }
    let mut tail = BytesMut::with_capacity(256);
    put_tail(message, &mut tail);
    let parts = std::iter::once(head.freeze())
        .chain(data.chunks().iter().cloned())
        .chain(std::iter::once(tail.freeze()));
    Payload::from_chunks(parts)
}

fn put_tail(message: &WireMessage, out: &mut BytesMut) {
    let fields = [
        (3, &message.seqno),
        (4, &message.topic),
        (5, &message.signature),
        (6, &message.key),
    ];
    for (number, field) in fields {
        if let Some(value) = field {
            encode::put_bytes(number, value, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::decode_message;

    fn keypair() -> Keypair {
        Keypair::from_seed(&[7; 32])
    }

    #[test]
    fn a_made_message_decodes_to_itself() {
        for (size, chunks) in [(0, 1), (200, 1), (4095, 1), (4096, 3)] {
            let data = Payload::from(vec![9; size]);
            let made = Author::signed(&keypair(), 5).message("topic", data.clone());
            assert_eq!(made.message().encoded.chunks().len(), chunks);
            let read = decode_message(made.message().encoded.clone()).unwrap();
            assert_eq!(&read, made.message());
            assert_eq!(read.data, Some(data));
            assert_eq!(read.seqno.as_deref(), Some(&5u64.to_be_bytes()[..]));
        }
    }

    #[test]
    fn the_payload_of_a_large_message_is_shared() {
        let data = Bytes::from(vec![1; 100_000]);
        let made = Author::anonymous().message("t", data.clone().into());
        assert_eq!(made.message().encoded.chunks()[1].as_ptr(), data.as_ptr());
    }

    #[test]
    fn ids() {
        let author = Author::signed(&keypair(), 1);
        let made = author.message("t", b"0123456789".as_slice().into());
        let message = made.message();
        let go = MessageIdFn::FromAndSeqno.id(message);
        assert_eq!(
            go.as_bytes(),
            [keypair().peer_id().as_bytes(), &1u64.to_be_bytes()].concat()
        );
        assert_eq!(
            MessageIdFn::DataPrefix(8).id(message).as_bytes(),
            b"01234567"
        );
        assert_eq!(
            MessageIdFn::Sha256.id(message).as_bytes(),
            &Sha256::digest(b"0123456789")[..]
        );
        let long = MessageId::new(&[1; 200]);
        assert_eq!(long.as_bytes(), [1; 200]);
        assert!(long > MessageId::new(&[1; 54]));
    }

    #[test]
    fn presence_follows_the_policy() {
        let signed = Author::signed(&keypair(), 1).message("t", Payload::default());
        let bare = Author::anonymous().message("t", Payload::default());
        let check = |message: &WireMessage, policy| {
            check_presence(message, policy, SeqnoPolicy::EightBytes)
        };
        use SignaturePolicy::{Anonymous, StrictNoSign, StrictSign};
        assert_eq!(
            check(signed.message(), StrictSign),
            Ok(Some(keypair().peer_id()))
        );
        assert_eq!(
            check(bare.message(), StrictSign),
            Err(RejectReason::MissingSignature)
        );
        for policy in [StrictNoSign, Anonymous] {
            assert_eq!(check(bare.message(), policy), Ok(None));
            assert_eq!(
                check(signed.message(), policy),
                Err(RejectReason::UnexpectedSignature)
            );
        }
        let mut odd = signed.message().clone();
        odd.seqno = Some(Bytes::from_static(b"1"));
        assert_eq!(check(&odd, StrictSign), Err(RejectReason::InvalidSeqno));
        odd.from = Some(Bytes::from_static(b"nobody"));
        odd.seqno = signed.message().seqno.clone();
        assert_eq!(check(&odd, StrictSign), Err(RejectReason::InvalidAuthor));
        odd.from = None;
        assert_eq!(check(&odd, StrictSign), Err(RejectReason::MissingAuthor));
        odd.signature = None;
        assert_eq!(
            check(&odd, Anonymous),
            Err(RejectReason::UnexpectedAuthInfo)
        );
        let mut keyed = bare.message().clone();
        keyed.key = Some(Bytes::new());
        assert_eq!(
            check(&keyed, StrictNoSign),
            Err(RejectReason::UnexpectedAuthInfo)
        );
        assert_eq!(check(&keyed, Anonymous), Ok(None));
    }
}
