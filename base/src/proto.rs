//! Protobuf on the wire without a schema: a bounded scan to run before a decoder allocates, and a
//! field reader for messages decoded by hand.
//!
//! Protobuf varints may take ten bytes and need not be minimal, unlike those of
//! [`crate::varint`].

use bytes::BufMut;

use crate::{Fault, varint};

/// Most bytes a protobuf varint may take.
const MAX_VARINT_LEN: usize = 10;

/// Bounds of [`scan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanLimits {
    /// Fields of the message, repeated ones counted each time, groups' fields included.
    pub max_fields: usize,
    /// Groups open inside one another. Current encoders emit no groups, so 0 is a fine limit.
    pub max_depth: usize,
}

/// Why bytes are not a protobuf message within the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// A field or varint runs past the end.
    #[error("the message ends inside a field")]
    Truncated,
    /// A varint of more than ten bytes or 64 bits.
    #[error("a varint of the message is too long")]
    Varint,
    /// Field number 0 or above 2²⁹ − 1.
    #[error("the message has an invalid field number")]
    FieldNumber,
    /// Wire type 6 or 7.
    #[error("the message has an unknown wire type")]
    WireType,
    /// A group ends that did not begin, or with another number, or never ends.
    #[error("the message has an unbalanced group")]
    Group,
    /// More fields than allowed.
    #[error("the message has more than {0} fields")]
    TooManyFields(usize),
    /// Groups nested deeper than allowed.
    #[error("the message nests groups deeper than {0}")]
    TooDeep(usize),
}

impl ScanError {
    /// Always the peer's.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

/// Walks one message without decoding it and counts its fields, so that a decoder's allocations
/// are bounded before it runs. Takes time linear in the bytes, no recursion and no memory beyond
/// the open groups' numbers.
///
/// Length-delimited fields are stepped over: without a schema, a nested message looks like bytes.
/// A caller whose nested messages repeat fields scans those too.
///
/// # Errors
/// [`ScanError`] at the first violation.
pub fn scan(message: &[u8], limits: &ScanLimits) -> Result<(), ScanError> {
    let mut reader = Fields::new(message);
    let mut groups: Vec<u32> = Vec::new();
    let mut fields = 0usize;
    while let Some(field) = reader.next_field()? {
        if field.value == Value::EndGroup {
            if groups.pop() != Some(field.number) {
                return Err(ScanError::Group);
            }
            continue;
        }
        fields += 1;
        if fields > limits.max_fields {
            return Err(ScanError::TooManyFields(limits.max_fields));
        }
        if field.value == Value::StartGroup {
            if groups.len() >= limits.max_depth {
                return Err(ScanError::TooDeep(limits.max_depth));
            }
            groups.push(field.number);
        }
    }
    if groups.is_empty() {
        Ok(())
    } else {
        Err(ScanError::Group)
    }
}

/// One field as it lies on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// From 1 up to 2²⁹ − 1.
    pub number: u32,
    /// What it holds.
    pub value: Value<'a>,
}

/// A field's value by wire type. No message decoded by hand has a field of four bytes, so those are
/// only stepped over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Wire type 0.
    Varint(u64),
    /// Wire type 1, little-endian.
    Fixed64(u64),
    /// Wire type 2.
    Bytes(&'a [u8]),
    /// Wire type 3. The fields of the group follow.
    StartGroup,
    /// Wire type 4.
    EndGroup,
    /// Wire type 5.
    Fixed32,
}

/// Reads the fields of a message one after another.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Begins at the first field of a message.
    #[must_use]
    pub const fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field, or `None` at the end of the message. Groups are not balanced here.
    ///
    /// # Errors
    /// [`ScanError`] at the first violation; what comes after it is undefined.
    pub fn next_field(&mut self) -> Result<Option<Field<'a>>, ScanError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| ScanError::FieldNumber)?;
        if number == 0 || number >= 1 << 29 {
            return Err(ScanError::FieldNumber);
        }
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?.first_chunk();
                Value::Fixed64(u64::from_le_bytes(*bytes.ok_or(ScanError::Truncated)?))
            }
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(usize::try_from(len).map_err(|_| ScanError::Truncated)?)?)
            }
            3 => Value::StartGroup,
            4 => Value::EndGroup,
            5 => {
                self.take(4)?;
                Value::Fixed32
            }
            _ => return Err(ScanError::WireType),
        };
        Ok(Some(Field { number, value }))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ScanError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(ScanError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, ScanError> {
        let mut value = 0u64;
        for (index, &byte) in self.rest.iter().take(MAX_VARINT_LEN).enumerate() {
            if index == MAX_VARINT_LEN - 1 && byte > 1 {
                return Err(ScanError::Varint);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        if self.rest.len() >= MAX_VARINT_LEN {
            return Err(ScanError::Varint);
        }
        Err(ScanError::Truncated)
    }
}

/// Appends a varint field, zero included.
pub fn put_varint_field(number: u32, value: u64, out: &mut impl BufMut) {
    varint::encode(u64::from(number) << 3, out);
    varint::encode(value, out);
}

/// Appends a field of eight bytes, zero included.
pub fn put_fixed64_field(number: u32, value: u64, out: &mut impl BufMut) {
    varint::encode(u64::from(number) << 3 | 1, out);
    out.put_u64_le(value);
}

/// Appends a bytes field, empty ones included.
pub fn put_bytes_field(number: u32, value: &[u8], out: &mut impl BufMut) {
    varint::encode(u64::from(number) << 3 | 2, out);
    varint::encode(value.len() as u64, out);
    out.put_slice(value);
}

#[cfg(test)]
mod tests;
