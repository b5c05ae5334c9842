//! Frames that no router would send, byte by byte.

use barewire_base::varint;
use bytes::{BufMut, Bytes, BytesMut};

/// A length-delimited field.
fn field(number: u64, value: &[u8], out: &mut BytesMut) {
    varint::encode(number << 3 | 2, out);
    varint::encode(value.len() as u64, out);
    out.put_slice(value);
}

/// A field of another.
fn nested(number: u64, fill: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let (mut inner, mut out) = (BytesMut::new(), BytesMut::new());
    fill(&mut inner);
    field(number, &inner, &mut out);
    out
}

/// Control with one entry of kind `number`.
fn control(number: u64, fill: impl FnOnce(&mut BytesMut)) -> Bytes {
    nested(3, |out| out.extend(nested(number, fill))).freeze()
}

/// The subscription to `topic`, and a GRAFT behind it.
pub(crate) fn hello(topic: &str) -> Bytes {
    let mut out = nested(1, |out| {
        out.put_slice(&[8, 1]);
        field(2, topic.as_bytes(), out);
    });
    out.extend(graft(topic));
    out.freeze()
}

pub(crate) fn graft(topic: &str) -> Bytes {
    control(3, |out| field(1, topic.as_bytes(), out))
}

pub(crate) fn ihave(topic: &str, ids: &[Bytes]) -> Bytes {
    control(1, |out| {
        field(1, topic.as_bytes(), out);
        ids.iter().for_each(|id| field(2, id, out));
    })
}

pub(crate) fn iwant(ids: &[Bytes]) -> Bytes {
    control(2, |out| ids.iter().for_each(|id| field(1, id, out)))
}

pub(crate) fn idontwant(ids: &[Bytes]) -> Bytes {
    control(5, |out| ids.iter().for_each(|id| field(1, id, out)))
}

/// Messages as they are encoded.
pub(crate) fn publish<'a>(messages: impl IntoIterator<Item = &'a Bytes>) -> Bytes {
    let mut out = BytesMut::new();
    messages
        .into_iter()
        .for_each(|message| field(2, message, &mut out));
    out.freeze()
}

/// A message without an author.
pub(crate) fn message(topic: &str, data: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    field(2, data, &mut out);
    field(4, topic.as_bytes(), &mut out);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use barewire_gossip::{RpcLimits, rpc::Rpc};

    #[test]
    fn routers_understand() {
        let read = |bytes: Bytes| Rpc::decode(&bytes.into(), &RpcLimits::default()).unwrap();
        let ids = [Bytes::from_static(b"one"), Bytes::from_static(b"two")];
        let rpc = read(hello("t"));
        assert!(rpc.subscriptions[0].subscribe);
        assert_eq!(&rpc.subscriptions[0].topic[..], b"t");
        assert_eq!(&rpc.control.graft[0][..], b"t");
        let rpc = read(ihave("t", &ids));
        assert_eq!(
            (
                &rpc.control.ihave[0].topic[..],
                &rpc.control.ihave[0].ids[..]
            ),
            (&b"t"[..], &ids[..])
        );
        assert_eq!(read(iwant(&ids)).control.iwant, ids);
        assert_eq!(read(idontwant(&ids)).control.idontwant, ids);
        let rpc = read(publish([&message("t", b"data")]));
        assert_eq!(rpc.publish[0].topic.as_deref(), Some(&b"t"[..]));
        assert!(
            rpc.publish[0]
                .data
                .as_ref()
                .is_some_and(|d| *d == b"data"[..])
        );
    }
}
