//! The handshake as a state machine over byte slices.

use std::fmt;
use std::sync::Arc;

use barewire_base::{PeerId, PublicKey};
use bytes::{Bytes, BytesMut};
use rand::CryptoRng;
use snow::{Builder, HandshakeState};
use zeroize::Zeroizing;

use super::payload::{self, Payload};
use super::resolver::{KEY, Resolver};
use super::{Config, HandshakeError, PayloadError};
use crate::session::RecordKey;
use crate::verified::Digest;
use crate::{Secured, Session};

const LENGTH_PREFIX: usize = 2;
const TAG: usize = 16;

/// One side of a Noise handshake.
///
/// The owner feeds received bytes to [`handle_input`](Self::handle_input) and sends what
/// [`poll_transmit`](Self::poll_transmit) appends, until [`is_finished`](Self::is_finished). On any
/// error it closes the connection without sending anything more; the error stays and comes again
/// from every later call.
///
/// The initiator looks at the responder's identity before it shows its own: a wrong peer never
/// learns who dialled it.
pub struct Handshake {
    config: Arc<Config>,
    role: Role,
    stage: Stage,
    /// The frame of our last message, until it is taken.
    outgoing: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Holds whom it dialled, if it knows.
    Initiator {
        expected: Option<PeerId>,
    },
    Responder,
}

enum Stage {
    /// Waits for the message of that number.
    Expects {
        message: u8,
        noise: Box<HandshakeState>,
    },
    Done(Box<Secured>),
    Failed(HandshakeError),
}

impl Handshake {
    /// Begins as the side that dialled. `expected` is whom it wants to meet; with `None` anyone
    /// will do.
    ///
    /// Draws 32 bytes of `rng`.
    ///
    /// # Errors
    /// [`HandshakeError::Crypto`] when the cryptographic library fails.
    pub fn initiator(
        config: &Arc<Config>,
        expected: Option<PeerId>,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, HandshakeError> {
        let mut noise = builder_for(config, rng)?
            .build_initiator()
            .map_err(|_| HandshakeError::Crypto)?;
        let outgoing = write_frame(&mut noise, &[]).map_err(|_| HandshakeError::Crypto)?;
        let stage = Stage::Expects {
            message: 2,
            noise: Box::new(noise),
        };
        Ok(Self {
            config: Arc::clone(config),
            role: Role::Initiator { expected },
            stage,
            outgoing,
        })
    }

    /// Begins as the side that was dialled.
    ///
    /// Draws 32 bytes of `rng`.
    ///
    /// # Errors
    /// [`HandshakeError::Crypto`] when the cryptographic library fails.
    pub fn responder(
        config: &Arc<Config>,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, HandshakeError> {
        let noise = builder_for(config, rng)?
            .build_responder()
            .map_err(|_| HandshakeError::Crypto)?;
        let stage = Stage::Expects {
            message: 1,
            noise: Box::new(noise),
        };
        Ok(Self {
            config: Arc::clone(config),
            role: Role::Responder,
            stage,
            outgoing: Vec::new(),
        })
    }

    /// Reads the frame at the front of `input`, if it is whole, and returns how many bytes that
    /// took.
    ///
    /// Returns 0 when there is less than a frame, at most [`MAX_FRAME`](super::MAX_FRAME) bytes, or
    /// no more frame to read; nothing is kept of such input. Never takes bytes beyond the last
    /// handshake frame: they are the first records of the peer.
    ///
    /// # Errors
    /// Any error is final. See [`HandshakeError`].
    pub fn handle_input(&mut self, input: &[u8]) -> Result<usize, HandshakeError> {
        let message = match &self.stage {
            Stage::Expects { message, .. } => *message,
            Stage::Done(_) => return Ok(0),
            Stage::Failed(error) => return Err(error.clone()),
        };
        let Some((prefix, rest)) = input.split_first_chunk::<LENGTH_PREFIX>() else {
            return Ok(0);
        };
        let length = usize::from(u16::from_be_bytes(*prefix));
        if length < shortest(message) {
            return Err(self.fail(HandshakeError::TooShort { message, length }));
        }
        let Some(frame) = rest.get(..length) else {
            return Ok(0);
        };
        // A message that fails leaves no state to go on with.
        let stage = std::mem::replace(&mut self.stage, Stage::Failed(HandshakeError::Crypto));
        if let Stage::Expects { noise, .. } = stage {
            match self.read_message(message, frame, noise) {
                Ok(stage) => self.stage = stage,
                Err(error) => return Err(self.fail(error)),
            }
        }
        Ok(LENGTH_PREFIX + length)
    }

    /// Appends the frame that is to be sent now to `out`; false when there is none.
    pub fn poll_transmit(&mut self, out: &mut BytesMut) -> bool {
        out.extend_from_slice(&self.outgoing);
        !std::mem::take(&mut self.outgoing).is_empty()
    }

    /// Whether the last message was read and ours were all taken, so that [`finish`](Self::finish)
    /// may be called.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        matches!(self.stage, Stage::Done(_)) && self.outgoing.is_empty()
    }

    /// Gives the session and who is at its other end.
    ///
    /// # Errors
    /// [`HandshakeError::NotFinished`] when [`is_finished`](Self::is_finished) is false, or the
    /// error that ended the handshake.
    pub fn finish(self) -> Result<Secured, HandshakeError> {
        match self.stage {
            Stage::Done(secured) if self.outgoing.is_empty() => Ok(*secured),
            Stage::Failed(error) => Err(error),
            Stage::Done(_) | Stage::Expects { .. } => Err(HandshakeError::NotFinished),
        }
    }

    fn fail(&mut self, error: HandshakeError) -> HandshakeError {
        self.outgoing.clear();
        self.stage = Stage::Failed(error.clone());
        error
    }

    /// Reads one message and writes the answer, so that a key that turns out weak only there is
    /// refused here.
    fn read_message(
        &mut self,
        message: u8,
        frame: &[u8],
        mut noise: Box<HandshakeState>,
    ) -> Result<Stage, HandshakeError> {
        let mut payload = vec![0; frame.len()];
        let length = noise
            .read_message(frame, &mut payload)
            .map_err(|error| failure(&error, message))?;
        payload.truncate(length);
        match (self.role, message) {
            // The first message is not authenticated. A payload in it was early data once and is
            // left alone.
            (Role::Responder, 1) => {
                self.outgoing = write_frame(&mut noise, &self.config.payload)
                    .map_err(|error| failure(&error, message))?;
                Ok(Stage::Expects { message: 3, noise })
            }
            (Role::Responder, _) => {
                let (public_key, payload) = self.identify(payload.into(), &noise, None)?;
                let ours = &self.config.muxers;
                let same = |theirs: &str| ours.iter().find(|ours| ***ours == *theirs);
                let muxer = payload.muxers().find_map(same).cloned();
                let (theirs, ours) = split_keys(&mut noise);
                secured(public_key, muxer, &ours, &theirs)
            }
            (Role::Initiator { expected }, _) => {
                let (public_key, payload) = self.identify(payload.into(), &noise, expected)?;
                let named = |ours: &&Arc<str>| payload.muxers().any(|theirs| *theirs == ***ours);
                let muxer = self.config.muxers.iter().find(named).cloned();
                self.outgoing = write_frame(&mut noise, &self.config.payload)
                    .map_err(|error| failure(&error, message))?;
                let (ours, theirs) = split_keys(&mut noise);
                secured(public_key, muxer, &ours, &theirs)
            }
        }
    }

    /// Checks that the payload names whom we expect and that its identity has signed the static
    /// key, in this order.
    fn identify(
        &self,
        payload: Bytes,
        noise: &HandshakeState,
        expected: Option<PeerId>,
    ) -> Result<(PublicKey, Payload), HandshakeError> {
        let payload = Payload::decode(payload)?;
        let (identity_key, identity_sig) = (&payload.identity_key, &payload.identity_sig);
        let static_key: &[u8; KEY] = noise
            .get_remote_static()
            .and_then(<[u8]>::first_chunk)
            .ok_or(HandshakeError::Crypto)?;
        let binding = Digest::of(&[identity_key, static_key, identity_sig]);
        let known = self.config.verified.get(&binding);
        let public_key = match &known {
            Some(key) => key.clone(),
            None => {
                PublicKey::from_protobuf(identity_key).map_err(|_| PayloadError::IdentityKey)?
            }
        };
        let found = public_key.peer_id();
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(HandshakeError::PeerIdMismatch { expected, found });
        }
        if known.is_none() {
            public_key
                .verify(&payload::signed_bytes(static_key), identity_sig)
                .map_err(|_| HandshakeError::Signature)?;
            self.config.verified.insert(&binding, public_key.clone());
        }
        Ok((public_key, payload))
    }
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match &self.stage {
            Stage::Expects { message, .. } => format!("expects message {message}"),
            Stage::Done(_) => "done".to_owned(),
            Stage::Failed(error) => format!("failed: {error}"),
        };
        f.debug_struct("Handshake")
            .field("role", &self.role)
            .field("stage", &stage)
            .finish_non_exhaustive()
    }
}

fn builder_for<'a>(
    config: &'a Config,
    rng: &mut impl CryptoRng,
) -> Result<Builder<'a>, HandshakeError> {
    let mut ephemeral = Zeroizing::new([0; KEY]);
    rng.fill_bytes(ephemeral.as_mut_slice());
    let resolver = Resolver {
        static_key: Arc::clone(&config.static_key),
        ephemeral,
    };
    Builder::with_resolver(config.params.clone(), Box::new(resolver))
        .local_private_key(config.static_key.bytes.as_slice())
        .map_err(|_| HandshakeError::Crypto)
}

/// Bytes that a message has at least: its keys and tags.
const fn shortest(message: u8) -> usize {
    match message {
        1 => KEY,
        2 => KEY + KEY + TAG + TAG,
        _ => KEY + TAG + TAG,
    }
}

fn write_frame(noise: &mut HandshakeState, payload: &[u8]) -> Result<Vec<u8>, snow::Error> {
    // Two keys, two tags and the payload: the longest of the three messages.
    let mut frame = vec![0; LENGTH_PREFIX + 2 * (KEY + TAG) + payload.len()];
    let length = noise.write_message(payload, &mut frame[LENGTH_PREFIX..])?;
    let prefix = u16::try_from(length).map_err(|_| snow::Error::Input)?;
    frame[..LENGTH_PREFIX].copy_from_slice(&prefix.to_be_bytes());
    frame.truncate(LENGTH_PREFIX + length);
    Ok(frame)
}

fn failure(error: &snow::Error, message: u8) -> HandshakeError {
    match error {
        snow::Error::Dh => HandshakeError::WeakKey { message },
        snow::Error::Decrypt => HandshakeError::Authentication { message },
        _ => HandshakeError::Crypto,
    }
}

/// The keys of the records from initiator to responder, and back.
fn split_keys(noise: &mut HandshakeState) -> (RecordKey, RecordKey) {
    let (forth, back) = noise.dangerously_get_raw_split();
    (Zeroizing::new(forth), Zeroizing::new(back))
}

fn secured(
    public_key: PublicKey,
    muxer: Option<Arc<str>>,
    seal: &RecordKey,
    open: &RecordKey,
) -> Result<Stage, HandshakeError> {
    let session = Session::noise(seal, open).ok_or(HandshakeError::Crypto)?;
    Ok(Stage::Done(Box::new(Secured {
        session,
        peer_id: public_key.peer_id(),
        public_key,
        muxer,
    })))
}
