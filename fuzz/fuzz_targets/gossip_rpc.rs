//! The RPC codec against prost: both accept the same bytes and read the same, cut into whatever chunks; our own scan refuses what
//! is beyond the limits, and groups.
#![no_main]

use barewire_gossip::{
    Payload, RpcError, RpcLimits,
    rpc::{Rpc, WireMessage},
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

// Strings are declared as bytes: ours leaves the check of UTF-8 to whoever uses a topic.
#[derive(Clone, PartialEq, prost::Message)]
struct TheirRpc {
    #[prost(message, repeated, tag = "1")]
    subscriptions: Vec<SubOpts>,
    #[prost(message, repeated, tag = "2")]
    publish: Vec<Message>,
    #[prost(message, optional, tag = "3")]
    control: Option<ControlMessage>,
    #[prost(message, optional, tag = "10")]
    partial: Option<Partial>,
    #[prost(message, optional, tag = "6492434")]
    test_extension: Option<Empty>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
struct SubOpts {
    #[prost(bool, optional, tag = "1")]
    subscribe: Option<bool>,
    #[prost(bytes = "vec", tag = "2")]
    topic: Vec<u8>,
    #[prost(bool, optional, tag = "3")]
    requests_partial: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    supports_partial: Option<bool>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(bytes = "vec", optional, tag = "1")]
    from: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "2")]
    data: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "3")]
    seqno: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "4")]
    topic: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "5")]
    signature: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "6")]
    key: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ControlMessage {
    #[prost(message, repeated, tag = "1")]
    ihave: Vec<IHave>,
    #[prost(message, repeated, tag = "2")]
    iwant: Vec<Ids>,
    #[prost(message, repeated, tag = "3")]
    graft: Vec<Graft>,
    #[prost(message, repeated, tag = "4")]
    prune: Vec<Prune>,
    #[prost(message, repeated, tag = "5")]
    idontwant: Vec<Ids>,
    #[prost(message, optional, tag = "6")]
    extensions: Option<Extensions>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct IHave {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    ids: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Ids {
    #[prost(bytes = "vec", repeated, tag = "1")]
    ids: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Graft {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Prune {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    peers: Vec<PeerInfo>,
    #[prost(uint64, tag = "3")]
    backoff: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PeerInfo {
    #[prost(bytes = "vec", tag = "1")]
    peer_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    record: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Extensions {
    #[prost(bool, tag = "10")]
    partial_messages: bool,
    #[prost(bool, tag = "6492434")]
    test_extension: bool,
    #[prost(uint64, tag = "6447479")]
    max_message_size: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Partial {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    group: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "3")]
    message: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "4")]
    metadata: Option<Vec<u8>>,
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (cuts, bytes) = input;
    let whole = Payload::from(bytes.clone());
    let ours = Rpc::decode(&whole, &RpcLimits::default());
    let mut rest = Bytes::from(bytes.clone());
    let mut chunks: Vec<Bytes> = cuts
        .iter()
        .take(64)
        .map(|cut| rest.split_to(usize::from(*cut).min(rest.len())))
        .collect();
    chunks.push(rest);
    let cut = Rpc::decode(&Payload::from_chunks(chunks), &RpcLimits::default());
    assert_eq!(ours, cut, "chunks make no difference");
    let theirs = TheirRpc::decode(&bytes[..]);
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => compare(&ours, &theirs),
        (Ok(_), Err(error)) => panic!("prost refuses: {error}"),
        (Err(RpcError::Protobuf(_)), _) | (Err(_), Err(_)) => {}
        (Err(error), Ok(_)) => assert!(!matches!(error, RpcError::FieldType(_)), "{error}"),
    }
});

fn compare(ours: &Rpc, theirs: &TheirRpc) {
    assert_eq!(ours.subscriptions.len(), theirs.subscriptions.len());
    for (a, b) in ours.subscriptions.iter().zip(&theirs.subscriptions) {
        assert_eq!(a.subscribe, b.subscribe.unwrap_or_default());
        assert_eq!(a.topic, b.topic);
        assert_eq!(a.requests_partial, b.requests_partial.unwrap_or_default());
        assert_eq!(a.supports_partial, b.supports_partial.unwrap_or_default());
    }
    assert_eq!(ours.publish.len(), theirs.publish.len());
    for (a, b) in ours.publish.iter().zip(&theirs.publish) {
        message(a, b);
    }
    let none = ControlMessage::default();
    let (a, b) = (&ours.control, theirs.control.as_ref().unwrap_or(&none));
    assert_eq!(a.ihave.len(), b.ihave.len());
    for (a, b) in a.ihave.iter().zip(&b.ihave) {
        assert_eq!(a.topic, b.topic);
        assert_eq!(a.ids, b.ids);
    }
    let all = |lists: &[Ids]| lists.iter().flat_map(|l| l.ids.clone()).collect::<Vec<_>>();
    assert_eq!(a.iwant, all(&b.iwant));
    assert_eq!(a.idontwant, all(&b.idontwant));
    assert_eq!(
        a.graft,
        b.graft.iter().map(|g| g.topic.clone()).collect::<Vec<_>>()
    );
    assert_eq!(a.prune.len(), b.prune.len());
    for (a, b) in a.prune.iter().zip(&b.prune) {
        assert_eq!((&a.topic[..], a.backoff), (&b.topic[..], b.backoff));
        assert_eq!(a.peers.len(), b.peers.len());
        for (a, b) in a.peers.iter().zip(&b.peers) {
            assert_eq!(
                (&a.peer_id[..], &a.record[..]),
                (&b.peer_id[..], &b.record[..])
            );
        }
    }
    assert_eq!(a.extensions.is_some(), b.extensions.is_some());
    if let (Some(a), Some(b)) = (&a.extensions, &b.extensions) {
        assert_eq!(a.partial_messages, b.partial_messages);
        assert_eq!(a.test_extension, b.test_extension);
        assert_eq!(a.max_message_size, b.max_message_size);
    }
    assert_eq!(ours.test_extension, theirs.test_extension.is_some());
    assert_eq!(ours.partial.is_some(), theirs.partial.is_some());
    if let (Some(a), Some(b)) = (&ours.partial, &theirs.partial) {
        assert_eq!((&a.topic[..], &a.group[..]), (&b.topic[..], &b.group[..]));
        assert_eq!(a.message.as_ref().map(|m| m.to_bytes().to_vec()), b.message);
        assert_eq!(a.metadata.as_ref().map(|m| m.to_vec()), b.metadata);
    }
}

fn message(ours: &WireMessage, theirs: &Message) {
    let vec = |bytes: &Option<Bytes>| bytes.as_ref().map(|b| b.to_vec());
    assert_eq!(vec(&ours.from), theirs.from);
    assert_eq!(
        ours.data.as_ref().map(|d| d.to_bytes().to_vec()),
        theirs.data
    );
    assert_eq!(vec(&ours.seqno), theirs.seqno);
    assert_eq!(vec(&ours.topic), theirs.topic);
    assert_eq!(vec(&ours.signature), theirs.signature);
    assert_eq!(vec(&ours.key), theirs.key);
}
