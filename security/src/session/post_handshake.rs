//! Handshake messages of TLS 1.3 that come after the handshake: changes of keys, and tickets, which
//! are skipped because no session is ever resumed.

use super::OpenError;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// Type and length of a message, and the one byte a `KeyUpdate` has behind them.
const HEAD: usize = 4;

/// `KeyUpdate` that wants nothing in return.
pub(super) const KEY_UPDATE_MESSAGE: [u8; HEAD + 1] = [KEY_UPDATE, 0, 0, 1, 0];

/// Most bytes of a message, as in rustls.
const MAX_MESSAGE: usize = 0xffff;

/// Reads messages that may be spread over records. Keeps five bytes.
#[derive(Debug)]
pub(super) struct PostHandshake {
    /// Only a client may be sent tickets.
    is_client: bool,
    head: [u8; HEAD + 1],
    read: usize,
    /// Bytes left of a ticket.
    skip: usize,
}

/// The peer seals what follows with its next key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeyUpdate {
    /// It wants us to change our key too.
    pub(super) wants_ours: bool,
}

impl PostHandshake {
    pub(super) fn new(is_client: bool) -> Self {
        Self {
            is_client,
            head: [0; HEAD + 1],
            read: 0,
            skip: 0,
        }
    }

    /// Whether the rest of a message has to come next.
    pub(super) fn is_unfinished(&self) -> bool {
        self.read > 0 || self.skip > 0
    }

    /// Reads the content of a handshake record, which a change of keys has to end.
    pub(super) fn read(&mut self, mut content: &[u8]) -> Result<Option<KeyUpdate>, OpenError> {
        if content.is_empty() {
            return Err(OpenError::Unexpected("an empty piece of a message"));
        }
        while let Some((byte, rest)) = content.split_first() {
            if self.skip > 0 {
                let skipped = self.skip.min(content.len());
                self.skip -= skipped;
                content = &content[skipped..];
                continue;
            }
            self.head[self.read] = *byte;
            self.read += 1;
            content = rest;
            let [kind, length @ .., body] = self.head;
            match (self.read, kind) {
                (1, KEY_UPDATE) | (2..HEAD, _) => {}
                (1, NEW_SESSION_TICKET) if self.is_client => {}
                (HEAD, NEW_SESSION_TICKET) => {
                    let length = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
                    if length > MAX_MESSAGE {
                        return Err(OpenError::TooLong(length));
                    }
                    self.skip = length;
                    self.read = 0;
                }
                (HEAD, _) if length == [0, 0, 1] => {}
                (5, _) if body <= 1 && content.is_empty() => {
                    self.read = 0;
                    return Ok(Some(KeyUpdate {
                        wants_ours: body == 1,
                    }));
                }
                (1, _) => return Err(OpenError::Unexpected("a handshake message")),
                _ => return Err(OpenError::Unexpected("a malformed change of keys")),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn ticket(length: u16) -> Vec<u8> {
        let mut message = vec![NEW_SESSION_TICKET, 0];
        message.extend(length.to_be_bytes());
        message.resize(HEAD + usize::from(length), KEY_UPDATE);
        message
    }

    /// Whatever the pieces, the same is read.
    #[test]
    fn reads_messages_in_pieces_of_any_size() {
        let mut bytes = [ticket(300), ticket(0), ticket(1)].concat();
        bytes.extend(KEY_UPDATE_MESSAGE);
        for size in 1..=bytes.len() {
            let mut reader = PostHandshake::new(true);
            let mut updates = 0;
            for (at, piece) in bytes.chunks(size).enumerate() {
                let last = (at + 1) * size >= bytes.len();
                let update = reader.read(piece).unwrap();
                assert_eq!(update.is_some(), last, "pieces of {size}");
                updates += usize::from(update.is_some());
            }
            assert_eq!((updates, reader.is_unfinished()), (1, false));
        }
    }

    #[test]
    fn says_who_has_to_change_keys() {
        let mut reader = PostHandshake::new(false);
        let mut ask = KEY_UPDATE_MESSAGE;
        for (body, wants_ours) in [(0, false), (1, true)] {
            ask[HEAD] = body;
            assert_eq!(reader.read(&ask), Ok(Some(KeyUpdate { wants_ours })));
        }
    }

    #[test]
    fn refuses_what_must_not_come() {
        let mut behind = KEY_UPDATE_MESSAGE.to_vec();
        behind.push(KEY_UPDATE);
        let cases: [(bool, &[u8]); 8] = [
            (true, &[]),
            (false, &ticket(3)),
            (true, &[NEW_SESSION_TICKET, 1, 0, 0]),
            (true, &[1, 0, 0, 1, 0]),
            (true, &[KEY_UPDATE, 0, 0, 2, 0, 0]),
            (true, &[KEY_UPDATE, 0, 0, 0]),
            (true, &[KEY_UPDATE, 0, 0, 1, 2]),
            (true, &behind),
        ];
        for (is_client, bad) in cases {
            assert!(PostHandshake::new(is_client).read(bad).is_err(), "{bad:?}");
        }
    }
}
