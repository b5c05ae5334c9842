//! Decodes an RPC that was scanned. Strings are kept as bytes; whoever uses a topic checks that it is UTF-8.

use bytes::{Bytes, BytesMut};

use super::{
    Control, Extensions, IHave, MAX_MESSAGE_SIZE_EXTENSION, Partial, PeerInfo, Prune, Rpc,
    RpcError, Subscription, TEST_EXTENSION, WireMessage,
    reader::{Reader, Value},
    scan::Counts,
};
use crate::Payload;

pub(super) fn decode(body: &Payload, counts: &Counts) -> Result<Rpc, RpcError> {
    let mut reader = Reader::new(body);
    let mut rpc = Rpc {
        subscriptions: Vec::with_capacity(counts.subscriptions),
        publish: Vec::with_capacity(counts.publish),
        ..Rpc::default()
    };
    while let Some(field) = reader.next_field()? {
        let Value::Bytes(len) = field.value else {
            continue;
        };
        match field.number {
            1 => rpc.subscriptions.push(subscription(reader.nested(len)?)?),
            2 => rpc.publish.push(message(reader.take(len)?)?),
            3 => control(reader.nested(len)?, &mut rpc.control)?,
            10 => partial(reader.nested(len)?, rpc.partial.get_or_insert_default())?,
            TEST_EXTENSION => {
                rpc.test_extension = true;
                reader.skip(len)?;
            }
            _ => reader.skip(len)?,
        }
    }
    Ok(rpc)
}

fn subscription(mut reader: Reader<'_>) -> Result<Subscription, RpcError> {
    let mut out = Subscription::default();
    while let Some(field) = reader.next_field()? {
        match (field.number, field.value) {
            (1, Value::Varint(value)) => out.subscribe = value != 0,
            (2, Value::Bytes(len)) => out.topic = reader.take_bytes(len)?,
            (3, Value::Varint(value)) => out.requests_partial = value != 0,
            (4, Value::Varint(value)) => out.supports_partial = value != 0,
            (_, Value::Bytes(len)) => reader.skip(len)?,
            _ => {}
        }
    }
    Ok(out)
}

/// Decodes one message on its own; the encoding is kept in it.
pub(crate) fn message(encoded: Payload) -> Result<WireMessage, RpcError> {
    let mut out = WireMessage::default();
    let mut reader = Reader::new(&encoded);
    let mut unknown = BytesMut::new();
    loop {
        let start = reader;
        let Some(field) = reader.next_field()? else {
            break;
        };
        match (field.number, field.value) {
            (1, Value::Bytes(len)) => out.from = Some(reader.take_bytes(len)?),
            (2, Value::Bytes(len)) => out.data = Some(reader.take(len)?),
            (3, Value::Bytes(len)) => out.seqno = Some(reader.take_bytes(len)?),
            (4, Value::Bytes(len)) => out.topic = Some(reader.take_bytes(len)?),
            (5, Value::Bytes(len)) => out.signature = Some(reader.take_bytes(len)?),
            (6, Value::Bytes(len)) => out.key = Some(reader.take_bytes(len)?),
            (1..=6, _) => return Err(RpcError::FieldType(field.number)),
            (_, value) => {
                if let Value::Bytes(len) = value {
                    reader.skip(len)?;
                }
                reader.copy_since(&start, &mut unknown)?;
            }
        }
    }
    if !unknown.is_empty() {
        out.unknown = Some(unknown.freeze());
    }
    out.encoded = encoded;
    Ok(out)
}

fn control(mut reader: Reader<'_>, out: &mut Control) -> Result<(), RpcError> {
    while let Some(field) = reader.next_field()? {
        let Value::Bytes(len) = field.value else {
            continue;
        };
        let inner = reader.nested(len)?;
        match field.number {
            1 => out.ihave.push(ihave(inner)?),
            2 => ids(inner, &mut out.iwant)?,
            3 => out.graft.push(graft(inner)?),
            4 => out.prune.push(prune(inner)?),
            5 => ids(inner, &mut out.idontwant)?,
            6 => extensions(inner, out.extensions.get_or_insert_default())?,
            _ => {}
        }
    }
    Ok(())
}

fn ihave(mut reader: Reader<'_>) -> Result<IHave, RpcError> {
    let mut out = IHave::default();
    while let Some(field) = reader.next_field()? {
        match (field.number, field.value) {
            (1, Value::Bytes(len)) => out.topic = reader.take_bytes(len)?,
            (2, Value::Bytes(len)) => out.ids.push(reader.take_bytes(len)?),
            (_, Value::Bytes(len)) => reader.skip(len)?,
            _ => {}
        }
    }
    Ok(out)
}

fn ids(mut reader: Reader<'_>, out: &mut Vec<Bytes>) -> Result<(), RpcError> {
    while let Some(field) = reader.next_field()? {
        match (field.number, field.value) {
            (1, Value::Bytes(len)) => out.push(reader.take_bytes(len)?),
            (_, Value::Bytes(len)) => reader.skip(len)?,
            _ => {}
        }
    }
    Ok(())
}

fn graft(mut reader: Reader<'_>) -> Result<Bytes, RpcError> {
    let mut topic = Bytes::new();
    while let Some(field) = reader.next_field()? {
        match (field.number, field.value) {
            (1, Value::Bytes(len)) => topic = reader.take_bytes(len)?,
            (_, Value::Bytes(len)) => reader.skip(len)?,
            _ => {}
        }
    }
    Ok(topic)
}

fn prune(mut reader: Reader<'_>) -> Result<Prune, RpcError> {
    let mut out = Prune::default();
    while let Some(field) = reader.next_field()? {
        match (field.number, field.value) {
            (1, Value::Bytes(len)) => out.topic = reader.take_bytes(len)?,
            (2, Value::Bytes(len)) => out.peers.push(peer_info(reader.nested(len)?)?),
            (3, Value::Varint(seconds)) => out.backoff = seconds,
            (_, Value::Bytes(len)) => reader.skip(len)?,
            _ => {}
        }
    }
    Ok(out)
}

fn peer_info(mut reader: Reader<'_>) -> Result<PeerInfo, RpcError> {
    let mut out = PeerInfo::default();
    while let Some(field) = reader.next_field()? {
        match (field.number, field.value) {
            (1, Value::Bytes(len)) => out.peer_id = reader.take_bytes(len)?,
            (2, Value::Bytes(len)) => out.record = reader.take_bytes(len)?,
            (_, Value::Bytes(len)) => reader.skip(len)?,
            _ => {}
        }
    }
    Ok(out)
}

fn extensions(mut reader: Reader<'_>, out: &mut Extensions) -> Result<(), RpcError> {
    while let Some(field) = reader.next_field()? {
        match (field.number, field.value) {
            (10, Value::Varint(value)) => out.partial_messages = value != 0,
            (TEST_EXTENSION, Value::Varint(value)) => out.test_extension = value != 0,
            (MAX_MESSAGE_SIZE_EXTENSION, Value::Varint(value)) => out.max_message_size = value,
            (_, Value::Bytes(len)) => reader.skip(len)?,
            _ => {}
        }
    }
    Ok(())
}

fn partial(mut reader: Reader<'_>, out: &mut Partial) -> Result<(), RpcError> {
    while let Some(field) = reader.next_field()? {
        match (field.number, field.value) {
            (1, Value::Bytes(len)) => out.topic = reader.take_bytes(len)?,
            (2, Value::Bytes(len)) => out.group = reader.take_bytes(len)?,
            (3, Value::Bytes(len)) => out.message = Some(reader.take(len)?),
            (4, Value::Bytes(len)) => out.metadata = Some(reader.take_bytes(len)?),
            (_, Value::Bytes(len)) => reader.skip(len)?,
            _ => {}
        }
    }
    Ok(())
}
