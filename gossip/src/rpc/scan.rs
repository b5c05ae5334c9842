//! Walks an RPC without decoding it and counts what a decoder would allocate for.

use super::{
    MAX_MESSAGE_SIZE_EXTENSION, RpcError, RpcLimits, TEST_EXTENSION,
    reader::{Field, Reader, Value},
};
use crate::Payload;
use barewire_base::proto::ScanError;

/// What an RPC holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) subscriptions: usize,
    pub(super) publish: usize,
    control: usize,
    ids: usize,
    peers: usize,
    fields: usize,
    /// Bytes of everything but the messages.
    other_bytes: usize,
}

struct Scan<'a> {
    limits: &'a RpcLimits,
    counts: Counts,
}

pub(super) fn scan(body: &Payload, limits: &RpcLimits) -> Result<Counts, RpcError> {
    let mut scan = Scan {
        limits,
        counts: Counts::default(),
    };
    scan.rpc(Reader::new(body))?;
    Ok(scan.counts)
}

/// Adds `n` and fails above `max`.
fn count(
    counter: &mut usize,
    n: usize,
    max: usize,
    error: fn(usize) -> RpcError,
) -> Result<(), RpcError> {
    *counter = counter.saturating_add(n);
    if *counter > max {
        return Err(error(max));
    }
    Ok(())
}

impl Scan<'_> {
    fn next(&mut self, reader: &mut Reader<'_>) -> Result<Option<Field>, RpcError> {
        let field = reader.next_field()?;
        if field.is_some() {
            let too_many = |max| RpcError::Protobuf(ScanError::TooManyFields(max));
            count(&mut self.counts.fields, 1, self.limits.max_fields, too_many)?;
        }
        Ok(field)
    }

    fn other(&mut self, bytes: usize) -> Result<(), RpcError> {
        let max = self.limits.max_other_bytes;
        count(
            &mut self.counts.other_bytes,
            bytes,
            max,
            RpcError::TooManyBytes,
        )
    }

    fn rpc(&mut self, mut reader: Reader<'_>) -> Result<(), RpcError> {
        let limits = self.limits;
        while let Some(field) = self.next(&mut reader)? {
            let number = field.number;
            match (number, field.value) {
                (2, Value::Bytes(len)) => {
                    let max = limits.max_publish;
                    count(&mut self.counts.publish, 1, max, RpcError::TooManyMessages)?;
                    self.message(reader.nested(len)?)?;
                }
                (1, Value::Bytes(len)) => {
                    let max = limits.max_subscriptions;
                    count(
                        &mut self.counts.subscriptions,
                        1,
                        max,
                        RpcError::TooManySubscriptions,
                    )?;
                    self.other(len)?;
                    self.flat(reader.nested(len)?, |n| {
                        (1..=4).contains(&n).then_some(n == 2)
                    })?;
                }
                (3, Value::Bytes(len)) => {
                    self.other(len)?;
                    self.control(reader.nested(len)?)?;
                }
                (10, Value::Bytes(len)) => {
                    self.other(len)?;
                    self.flat(reader.nested(len)?, |n| (n <= 4).then_some(true))?;
                }
                (TEST_EXTENSION, Value::Bytes(len)) => {
                    self.other(len)?;
                    self.flat(reader.nested(len)?, |_| None)?;
                }
                (1 | 2 | 3 | 10 | TEST_EXTENSION, _) => return Err(RpcError::FieldType(number)),
                (_, Value::Bytes(len)) => {
                    self.other(len)?;
                    reader.skip(len)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn message(&mut self, mut reader: Reader<'_>) -> Result<(), RpcError> {
        while let Some(field) = self.next(&mut reader)? {
            match (field.number, field.value) {
                (_, Value::Bytes(len)) => reader.skip(len)?,
                (1..=6, _) => return Err(RpcError::FieldType(field.number)),
                _ => {}
            }
        }
        Ok(())
    }

    /// A message without nested ones. `kind` says of a known field whether it is length-delimited or a varint.
    fn flat(
        &mut self,
        mut reader: Reader<'_>,
        kind: impl Fn(u32) -> Option<bool>,
    ) -> Result<(), RpcError> {
        while let Some(field) = self.next(&mut reader)? {
            let is_bytes = matches!(field.value, Value::Bytes(_));
            let wrong = match kind(field.number) {
                Some(true) => !is_bytes,
                Some(false) => !matches!(field.value, Value::Varint(_)),
                None => false,
            };
            if wrong {
                return Err(RpcError::FieldType(field.number));
            }
            if let Value::Bytes(len) = field.value {
                reader.skip(len)?;
            }
        }
        Ok(())
    }

    fn control(&mut self, mut reader: Reader<'_>) -> Result<(), RpcError> {
        let limits = self.limits;
        while let Some(field) = self.next(&mut reader)? {
            let Value::Bytes(len) = field.value else {
                if field.number <= 6 {
                    return Err(RpcError::FieldType(field.number));
                }
                continue;
            };
            let mut inner = reader.nested(len)?;
            if field.number <= 5 {
                let max = limits.max_control;
                count(&mut self.counts.control, 1, max, RpcError::TooMuchControl)?;
            }
            match field.number {
                1 | 2 | 5 => {
                    let ids = if field.number == 1 { 2 } else { 1 };
                    while let Some(field) = self.next(&mut inner)? {
                        match (field.number, field.value) {
                            (number, Value::Bytes(len)) => {
                                if number == ids {
                                    let max = limits.max_ids;
                                    count(&mut self.counts.ids, 1, max, RpcError::TooManyIds)?;
                                }
                                inner.skip(len)?;
                            }
                            (number, _) if number <= ids => {
                                return Err(RpcError::FieldType(number));
                            }
                            _ => {}
                        }
                    }
                }
                3 => self.flat(inner, |n| (n == 1).then_some(true))?,
                4 => self.prune(inner)?,
                6 => self.flat(inner, |n| {
                    matches!(n, 10 | TEST_EXTENSION | MAX_MESSAGE_SIZE_EXTENSION).then_some(false)
                })?,
                _ => {}
            }
        }
        Ok(())
    }

    fn prune(&mut self, mut reader: Reader<'_>) -> Result<(), RpcError> {
        while let Some(field) = self.next(&mut reader)? {
            match (field.number, field.value) {
                (2, Value::Bytes(len)) => {
                    let max = self.limits.max_peers;
                    count(&mut self.counts.peers, 1, max, RpcError::TooManyPeers)?;
                    self.flat(reader.nested(len)?, |n| (n <= 2).then_some(true))?;
                }
                (3, Value::Varint(_)) => {}
                (2 | 3, _) => return Err(RpcError::FieldType(field.number)),
                (_, Value::Bytes(len)) => reader.skip(len)?,
                (1, _) => return Err(RpcError::FieldType(1)),
                _ => {}
            }
        }
        Ok(())
    }
}
