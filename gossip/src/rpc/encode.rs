//! Encodes the entries of an RPC. Each function appends one field, tag and length included.

use barewire_base::varint;
use bytes::BytesMut;

use super::{Extensions, MAX_MESSAGE_SIZE_EXTENSION, TEST_EXTENSION};

pub(crate) fn put_varint(number: u32, value: u64, out: &mut BytesMut) {
    varint::encode(u64::from(number) << 3, out);
    varint::encode(value, out);
}

/// Tag and length of a length-delimited field; its bytes have to follow.
pub(crate) fn put_head(number: u32, len: usize, out: &mut BytesMut) {
    varint::encode(u64::from(number) << 3 | 2, out);
    varint::encode(len as u64, out);
}

pub(crate) fn put_bytes(number: u32, value: &[u8], out: &mut BytesMut) {
    put_head(number, value.len(), out);
    out.extend_from_slice(value);
}

/// Bytes of a length-delimited field of `len` bytes, tag and length included.
pub(crate) const fn field_len(number: u32, len: usize) -> usize {
    varint::encoded_len((number as u64) << 3) + varint::encoded_len(len as u64) + len
}

/// RPC field 1. All four fields are written, as go does.
pub(crate) fn put_subscription(
    topic: &str,
    subscribe: bool,
    partial: (bool, bool),
    out: &mut BytesMut,
) {
    put_head(1, subscription_body(topic), out);
    put_varint(1, u64::from(subscribe), out);
    put_bytes(2, topic.as_bytes(), out);
    put_varint(3, u64::from(partial.0), out);
    put_varint(4, u64::from(partial.1), out);
}

const fn subscription_body(topic: &str) -> usize {
    6 + field_len(2, topic.len())
}

pub(crate) const fn subscription_len(topic: &str) -> usize {
    field_len(1, subscription_body(topic))
}

/// Control field 3.
pub(crate) fn put_graft(topic: &str, out: &mut BytesMut) {
    put_head(3, field_len(1, topic.len()), out);
    put_bytes(1, topic.as_bytes(), out);
}

/// Control field 4. `peers` holds encoded entries of field 2; without `backoff` (version 1.0) only the topic is written.
pub(crate) fn put_prune(topic: &str, peers: &[u8], backoff_secs: Option<u64>, out: &mut BytesMut) {
    let backoff_len = backoff_secs.map_or(0, |secs| 1 + varint::encoded_len(secs));
    put_head(
        4,
        field_len(1, topic.len()) + peers.len() + backoff_len,
        out,
    );
    put_bytes(1, topic.as_bytes(), out);
    out.extend_from_slice(peers);
    if let Some(secs) = backoff_secs {
        put_varint(3, secs, out);
    }
}

/// Field 2 of a PRUNE: a peer and its signed record, if there is one.
pub(crate) fn put_peer_info(peer_id: &[u8], record: Option<&[u8]>, out: &mut BytesMut) {
    let len = field_len(1, peer_id.len()) + record.map_or(0, |r| field_len(2, r.len()));
    put_head(2, len, out);
    put_bytes(1, peer_id, out);
    if let Some(record) = record {
        put_bytes(2, record, out);
    }
}

/// Control field 1. `ids` holds encoded entries of field 2.
pub(crate) fn put_ihave(topic: &str, ids: &[u8], out: &mut BytesMut) {
    put_head(1, field_len(1, topic.len()) + ids.len(), out);
    put_bytes(1, topic.as_bytes(), out);
    out.extend_from_slice(ids);
}

/// Control field 6.
pub(crate) fn put_extensions(extensions: &Extensions, out: &mut BytesMut) {
    let mut body = BytesMut::new();
    if extensions.partial_messages {
        put_varint(10, 1, &mut body);
    }
    if extensions.max_message_size > 0 {
        put_varint(
            MAX_MESSAGE_SIZE_EXTENSION,
            extensions.max_message_size,
            &mut body,
        );
    }
    if extensions.test_extension {
        put_varint(TEST_EXTENSION, 1, &mut body);
    }
    put_bytes(6, &body, out);
}
