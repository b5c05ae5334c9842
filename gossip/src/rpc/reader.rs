//! Reads protobuf fields out of bytes that lie in several buffers, and shares what it reads with them. `proto::Fields` of the base crate
//! reads one borrowed slice, for small messages that are decoded and forgotten; neither could do the other's work without a copy.

use barewire_base::proto::ScanError;
use bytes::{Bytes, BytesMut};

use crate::Payload;

/// Most bytes a protobuf varint may take.
const MAX_VARINT_LEN: usize = 10;

/// A place in a payload and how much may be read from there. Copying it is cheap; it borrows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    chunks: &'a [Bytes],
    /// Into the first of `chunks`.
    offset: usize,
    remaining: usize,
}

/// A field as it lies on the wire; the value of a length-delimited one is still to be read or skipped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) value: Value,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Varint(u64),
    Fixed,
    /// Length in bytes, within the reader.
    Bytes(usize),
}

impl<'a> Reader<'a> {
    pub(super) fn new(payload: &'a Payload) -> Self {
        Self {
            chunks: payload.chunks(),
            offset: 0,
            remaining: payload.len(),
        }
    }

    /// The next field's head; `None` at the end. A value of known width is consumed with it.
    #[inline]
    pub(super) fn next_field(&mut self) -> Result<Option<Field>, ScanError> {
        if self.remaining == 0 {
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
                self.skip(8)?;
                Value::Fixed
            }
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| ScanError::Truncated)?;
                if len > self.remaining {
                    return Err(ScanError::Truncated);
                }
                Value::Bytes(len)
            }
            3 => return Err(ScanError::TooDeep(0)),
            4 => return Err(ScanError::Group),
            5 => {
                self.skip(4)?;
                Value::Fixed
            }
            _ => return Err(ScanError::WireType),
        };
        Ok(Some(Field { number, value }))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, ScanError> {
        if let Some(&byte) = self.chunks.first().and_then(|c| c.get(self.offset))
            && byte < 0x80
            && self.remaining > 0
        {
            self.offset += 1;
            self.remaining -= 1;
            return Ok(u64::from(byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, ScanError> {
        let mut value = 0u64;
        for index in 0..MAX_VARINT_LEN {
            let byte = self.byte()?;
            if index == MAX_VARINT_LEN - 1 && byte > 1 {
                return Err(ScanError::Varint);
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(ScanError::Varint)
    }

    fn byte(&mut self) -> Result<u8, ScanError> {
        if self.remaining == 0 {
            return Err(ScanError::Truncated);
        }
        loop {
            let chunk = self.chunks.first().ok_or(ScanError::Truncated)?;
            if let Some(&byte) = chunk.get(self.offset) {
                self.offset += 1;
                self.remaining -= 1;
                return Ok(byte);
            }
            self.next_chunk();
        }
    }

    const fn next_chunk(&mut self) {
        if let Some((_, rest)) = self.chunks.split_first() {
            self.chunks = rest;
        }
        self.offset = 0;
    }

    /// Steps over `len` bytes.
    #[inline]
    pub(super) fn skip(&mut self, len: usize) -> Result<(), ScanError> {
        if len > self.remaining {
            return Err(ScanError::Truncated);
        }
        self.remaining -= len;
        let mut left = len;
        while let Some(chunk) = self.chunks.first() {
            let here = chunk.len() - self.offset;
            if left <= here {
                self.offset += left;
                return Ok(());
            }
            left -= here;
            self.next_chunk();
        }
        Err(ScanError::Truncated)
    }

    /// A reader of the next `len` bytes only; this one goes on behind them.
    #[inline]
    pub(super) fn nested(&mut self, len: usize) -> Result<Self, ScanError> {
        let inner = Self {
            remaining: len,
            ..*self
        };
        self.skip(len)?;
        Ok(inner)
    }

    /// The next `len` bytes, shared.
    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Result<Payload, ScanError> {
        if let Some(slice) = self.slice(len) {
            return Ok(slice.into());
        }
        let mut inner = self.nested(len)?;
        let mut parts = Vec::new();
        while inner.remaining > 0 {
            let chunk = inner.chunks.first().ok_or(ScanError::Truncated)?;
            let here = (chunk.len() - inner.offset).min(inner.remaining);
            parts.push(chunk.slice(inner.offset..inner.offset + here));
            inner.remaining -= here;
            inner.next_chunk();
        }
        Ok(Payload::from_chunks(parts))
    }

    /// The next `len` bytes in one buffer: shared if they lie in one, else copied. For short fields.
    #[inline]
    pub(super) fn take_bytes(&mut self, len: usize) -> Result<Bytes, ScanError> {
        if let Some(slice) = self.slice(len) {
            return Ok(slice);
        }
        Ok(self.take(len)?.copied())
    }

    fn slice(&mut self, len: usize) -> Option<Bytes> {
        if len > self.remaining {
            return None;
        }
        if len == 0 {
            return Some(Bytes::new());
        }
        if self.chunks.first()?.len() == self.offset {
            self.next_chunk();
        }
        let chunk = self.chunks.first()?;
        let end = self.offset + len;
        if end > chunk.len() {
            return None;
        }
        let slice = chunk.slice(self.offset..end);
        self.offset = end;
        self.remaining -= len;
        Some(slice)
    }

    /// Copies everything between `start`, an earlier copy of this reader, and here.
    pub(super) fn copy_since(&self, start: &Self, out: &mut BytesMut) -> Result<(), ScanError> {
        let mut from = *start;
        let len = start.remaining - self.remaining;
        for chunk in from.take(len)?.chunks() {
            out.extend_from_slice(chunk);
        }
        Ok(())
    }
}
