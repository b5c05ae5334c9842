//! From a byte stream to a connection: security, then the muxer, each within its deadline.
//!
//! An initiator with one security protocol sends its proposal and the first handshake message in one
//! write, and the responder answers both in one; the last handshake message leaves with the first
//! frames. With several the answer has to be waited for first.

use std::{future::Future, sync::Arc, time::Duration};

use barewire_base::{Budget, PeerId, multistream};
use barewire_mux::{Role, StreamMuxer, yamux};
use barewire_security::{OpenError, Opened, Opener, Sealer, tls};
use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::Notify,
    time::Instant,
};

use crate::{
    config::{MuxerKind, UpgradeConfig},
    connection::{Connection, ConnectionInfo, Handle, Link, Shared, State, now},
    driver::{BoxReader, Driver, KEY_UPDATES_PER_SECOND, Limits, feed},
    error::{UpgradeError, frame_error},
    inbound::InboundStreams,
    lease::Leases,
    pnet,
    secure::{Handshake, Security},
    slab::{Borrower, ReadSlab},
    transmit::{BoxWriter, Transmitter},
    transports::RawConnection,
    ws::Copied,
};

/// multistream id of Yamux, the only muxer.
pub(crate) const YAMUX: &str = "/yamux/1.0.0";
/// Most bytes an unfinished upgrade may have us hold: one Noise message, or the longest of TLS in
/// records of some length, and a little.
const MAX_BUFFERED: usize = 68 * 1024;
/// First read buffer; every handshake of the known implementations fits.
const READ_BUFFER: usize = 1024;

/// How long a remote whose handshake failed may take to read why.
const GOODBYE: Duration = Duration::from_secs(1);

/// Upgrades a byte stream this side opened. With `expected`, any other identity is refused before
/// ours is revealed. The connection task is spawned on the current tokio runtime.
///
/// Cancel safe: a dropped call closes the byte stream.
pub async fn upgrade_outbound<IO>(
    io: IO,
    config: &UpgradeConfig,
    expected: Option<PeerId>,
) -> Result<(Connection, InboundStreams), UpgradeError>
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let raw = RawConnection::unaddressed(io);
    upgrade_halves(raw, Role::Client, config, expected).await
}

/// Upgrades a byte stream the remote opened. The connection task is spawned on the current tokio
/// runtime.
///
/// Cancel safe: a dropped call closes the byte stream.
pub async fn upgrade_inbound<IO>(
    io: IO,
    config: &UpgradeConfig,
) -> Result<(Connection, InboundStreams), UpgradeError>
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let raw = RawConnection::unaddressed(io);
    upgrade_halves(raw, Role::Server, config, None).await
}

/// Upgrades a byte stream that comes as two halves with its addresses, as the transports of this
/// crate deliver it. [`Role::Client`] on the side that dialled.
///
/// Cancel safe: a dropped call closes the byte stream.
pub async fn upgrade_halves(
    raw: RawConnection,
    role: Role,
    config: &UpgradeConfig,
    expected: Option<PeerId>,
) -> Result<(Connection, InboundStreams), UpgradeError> {
    let raw = match &config.psk {
        Some(psk) => pnet::protect(raw, psk, rand::random()),
        None => raw,
    };
    let mut wire = Wire {
        reader: raw.reader,
        writer: raw.writer,
        input: BytesMut::with_capacity(READ_BUFFER),
        output: BytesMut::new(),
        copied: raw.copied,
        key_updates: 0,
        stage: "security negotiation",
    };
    let deadlines = Deadlines {
        end: Instant::now() + config.total_timeout,
        stage: config.stage_timeout,
    };
    let mut handshake = deadlines
        .stage(agree_on_security(&mut wire, role, config, expected))
        .await
        .unwrap_or(Err(UpgradeError::Timeout { stage: wire.stage }))
        .map_err(|error| match error {
            // With another key all that comes is noise, and all that is sent is to the remote.
            UpgradeError::Negotiation { .. } | UpgradeError::Io { .. } if config.psk.is_some() => {
                UpgradeError::OtherNetwork
            }
            error => error,
        })?;
    wire.stage = "secure handshake";
    deadlines
        .stage(shake_hands(&mut wire, &mut handshake))
        .await
        .unwrap_or(Err(UpgradeError::Timeout { stage: wire.stage }))?;
    let security = handshake.protocol();
    let secured = handshake.finish()?;
    let early_muxer = secured.muxer.is_some();
    let (budget, refusal) = match config.admit(secured.peer_id, role, &raw.remote_addr) {
        Ok(budget) => (budget, None),
        // With the muxer agreed the remote can be told why.
        Err(reason) if early_muxer => (config.budget.clone(), Some(reason)),
        Err(reason) => return Err(UpgradeError::Refused(reason)),
    };
    let (mut sealer, mut opener) = secured.session.split();
    let early = if early_muxer {
        Bytes::new()
    } else {
        wire.stage = "muxer negotiation";
        deadlines
            .stage(agree_on_muxer(&mut wire, role, &mut sealer, &mut opener))
            .await
            .unwrap_or(Err(UpgradeError::Timeout { stage: wire.stage }))?
    };
    let info = ConnectionInfo {
        peer_id: secured.peer_id,
        public_key: secured.public_key,
        role,
        local_addr: raw.local_addr,
        remote_addr: raw.remote_addr,
        transport: raw.transport,
        security,
        muxer: YAMUX,
        early_muxer,
        established: now(),
        limit: raw.limit,
        traffic: Arc::clone(&config.traffic),
    };
    let made = spawn(wire, info, (sealer, opener), early, config, &budget);
    match refusal {
        None => Ok(made),
        Some(reason) => {
            made.0.close(reason.clone());
            Err(UpgradeError::Refused(reason))
        }
    }
}

/// Deadlines of an upgrade. Each stage gets its own, none beyond the end; progress moves neither.
struct Deadlines {
    end: Instant,
    stage: Duration,
}

impl Deadlines {
    /// `None` when the time is up.
    async fn stage<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let deadline = self.end.min(Instant::now() + self.stage);
        tokio::time::timeout_at(deadline, work).await.ok()
    }
}

/// The byte stream while it is upgraded. Input beyond what a stage consumes stays for the next one;
/// output waits until somebody has to read.
struct Wire {
    reader: BoxReader,
    writer: BoxWriter,
    input: BytesMut,
    output: BytesMut,
    copied: Arc<Copied>,
    key_updates: u32,
    stage: &'static str,
}

impl Wire {
    /// Sends what waits, then reads something.
    async fn exchange(&mut self) -> Result<(), UpgradeError> {
        self.flush().await?;
        if self.input.len() >= MAX_BUFFERED {
            // No stage accepts a message this long, so this is unreachable by a correct peer.
            return Err(self.io_error(std::io::ErrorKind::InvalidData));
        }
        self.input.reserve(READ_BUFFER);
        match self.reader.read_buf(&mut self.input).await {
            Ok(0) => Err(self.io_error(std::io::ErrorKind::UnexpectedEof)),
            Ok(_) => Ok(()),
            Err(error) => Err(match frame_error(&error) {
                Some(error) => UpgradeError::Frame(error),
                None => self.io_error(error.kind()),
            }),
        }
    }

    async fn flush(&mut self) -> Result<(), UpgradeError> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = self.writer.write_all_buf(&mut self.output).await;
        match written {
            Ok(()) => self.writer.flush().await,
            failed => failed,
        }
        .map_err(|error| self.io_error(error.kind()))
    }

    /// Sends what waits as the last, and reads on until the remote has ended the connection: to close
    /// it with unread input would reset it, and the remote might never see why.
    async fn say_why(&mut self) -> Result<(), UpgradeError> {
        self.flush().await?;
        let shut = self.writer.shutdown().await;
        shut.map_err(|error| self.io_error(error.kind()))?;
        let mut unread = [0; READ_BUFFER];
        for _ in 0..MAX_BUFFERED / READ_BUFFER {
            if !matches!(self.reader.read(&mut unread).await, Ok(1..)) {
                break;
            }
        }
        Ok(())
    }

    fn io_error(&self, kind: std::io::ErrorKind) -> UpgradeError {
        UpgradeError::Io {
            stage: self.stage,
            kind,
        }
    }

    fn negotiation_error(&self, error: multistream::NegotiationError) -> UpgradeError {
        UpgradeError::Negotiation {
            stage: self.stage,
            error,
        }
    }
}

/// Agrees on one of our secure channels and begins its handshake.
async fn agree_on_security(
    wire: &mut Wire,
    role: Role,
    config: &UpgradeConfig,
    expected: Option<PeerId>,
) -> Result<Handshake, UpgradeError> {
    let find = |id: &str| {
        let mut ours = config.security.iter();
        ours.find(|security| security.protocol() == id)
    };
    let start = |agreed: Option<Arc<str>>| match agreed.as_deref().and_then(find) {
        Some(security) => security.start(role, expected),
        None => Err(UpgradeError::Negotiation {
            stage: "security negotiation",
            error: multistream::NegotiationError::NoneAccepted,
        }),
    };
    match role {
        Role::Client => {
            let ids = config.security.iter().map(Security::protocol);
            let mut dialer = multistream::Dialer::new(ids.map(Into::into).collect());
            dialer.poll_transmit(&mut wire.output);
            let mut early = match config.security.as_slice() {
                [only] => Some(only.start(role, expected)?),
                _ => None,
            };
            if let Some(handshake) = &mut early {
                handshake.poll_transmit(&mut wire.output);
            }
            while dialer.outcome().is_none() {
                wire.exchange().await?;
                let consumed = dialer
                    .handle_input(&wire.input)
                    .map_err(|error| wire.negotiation_error(error))?;
                wire.input.advance(consumed);
                dialer.poll_transmit(&mut wire.output);
            }
            early.map_or_else(|| start(dialer.outcome().cloned()), Ok)
        }
        Role::Server => {
            let mut listener = multistream::Listener::new();
            while listener.outcome().is_none() {
                wire.exchange().await?;
                let consumed = listener
                    .handle_input(&wire.input, &mut |id| {
                        find(id).map(|security| security.protocol().into())
                    })
                    .map_err(|error| wire.negotiation_error(error))?;
                wire.input.advance(consumed);
                listener.poll_transmit(&mut wire.output);
            }
            start(listener.outcome().cloned())
        }
    }
}

async fn shake_hands(wire: &mut Wire, handshake: &mut Handshake) -> Result<(), UpgradeError> {
    loop {
        handshake.poll_transmit(&mut wire.output);
        if handshake.is_finished() {
            return Ok(());
        }
        if !wire.input.is_empty() {
            match handshake.handle_input(&mut wire.input) {
                Ok(0) => {}
                Ok(consumed) => {
                    wire.input.advance(consumed);
                    continue;
                }
                Err(error) => {
                    if handshake.poll_transmit(&mut wire.output) {
                        // Whether it arrives changes nothing.
                        drop(tokio::time::timeout(GOODBYE, wire.say_why()).await);
                    }
                    return Err(error);
                }
            }
        }
        wire.exchange().await?;
    }
}

/// Negotiates the muxer inside the secured channel, for peers that did not choose it in the
/// handshake (rust-libp2p). Returns plaintext that came behind the agreement.
async fn agree_on_muxer(
    wire: &mut Wire,
    role: Role,
    sealer: &mut Sealer,
    opener: &mut Opener,
) -> Result<Bytes, UpgradeError> {
    let mut plaintext = BytesMut::new();
    let mut answer = BytesMut::new();
    match role {
        Role::Client => {
            let mut dialer = multistream::Dialer::optimistic(YAMUX.into());
            dialer.poll_transmit(&mut answer);
            seal(wire, sealer, &answer)?;
            while dialer.outcome().is_none() {
                open(wire, opener, &mut plaintext).await?;
                let consumed = dialer
                    .handle_input(&plaintext)
                    .map_err(|error| wire.negotiation_error(error))?;
                plaintext.advance(consumed);
            }
        }
        Role::Server => {
            let mut listener = multistream::Listener::new();
            while listener.outcome().is_none() {
                open(wire, opener, &mut plaintext).await?;
                let consumed = listener
                    .handle_input(&plaintext, &mut |id| (id == YAMUX).then(|| YAMUX.into()))
                    .map_err(|error| wire.negotiation_error(error))?;
                plaintext.advance(consumed);
                answer.clear();
                if listener.poll_transmit(&mut answer) {
                    seal(wire, sealer, &answer)?;
                }
            }
        }
    }
    Ok(plaintext.freeze())
}

/// Seals one short message into the output.
fn seal(wire: &mut Wire, sealer: &mut Sealer, message: &[u8]) -> Result<(), UpgradeError> {
    sealer
        .seal(std::iter::once(message), &mut wire.output)
        .map_err(UpgradeError::Seal)
}

/// Appends the plaintext of the next record to `plaintext`.
async fn open(
    wire: &mut Wire,
    opener: &mut Opener,
    plaintext: &mut BytesMut,
) -> Result<(), UpgradeError> {
    loop {
        let opened = opener.open_in_place(&mut wire.input);
        match opened.map_err(record_error)? {
            Opened::Record {
                plaintext: range,
                consumed,
            } => {
                plaintext.extend_from_slice(&wire.input[range]);
                wire.input.advance(consumed);
                return Ok(());
            }
            Opened::KeyUpdate { consumed } => {
                wire.input.advance(consumed);
                wire.key_updates += 1;
                if wire.key_updates > KEY_UPDATES_PER_SECOND {
                    let flood = OpenError::Unexpected("another change of keys");
                    return Err(UpgradeError::Record(flood));
                }
            }
            Opened::Closed => return Err(UpgradeError::Tls(tls::Error::Closed)),
            Opened::NeedMore { .. } => wire.exchange().await?,
        }
    }
}

/// A dialling side hears only here that its certificate was refused.
fn record_error(error: OpenError) -> UpgradeError {
    match error {
        OpenError::Alert(alert) => UpgradeError::Tls(tls::Error::Alert(alert)),
        other => UpgradeError::Record(other),
    }
}

fn spawn(
    wire: Wire,
    info: ConnectionInfo,
    (sealer, opener): (Sealer, Opener),
    early: Bytes,
    config: &UpgradeConfig,
    budget: &Budget,
) -> (Connection, InboundStreams) {
    let budget = budget.child(config.connection_budget);
    let mux: Box<dyn StreamMuxer> = match config.muxer {
        MuxerKind::Yamux => Box::new(yamux::Session::new(
            info.role,
            config.yamux,
            budget.clone(),
            info.established,
        )),
        #[cfg(feature = "yamux-crate")]
        MuxerKind::YamuxCrate => Box::new(barewire_mux::yamux_crate::CrateSession::new(info.role)),
    };
    let state = State::new(mux, wire.copied);
    let shared = Arc::new(Shared {
        can_open: Arc::clone(&state.can_open),
        state: Mutex::new(state),
        leases: Leases::new(info.established),
        info,
        ended: Notify::new(),
    });
    let borrower = || Borrower::new(config.slabs.clone(), budget.clone());
    let slab = ReadSlab::new(borrower(), wire.input);
    let limits = Limits {
        write_stall: config.write_stall_timeout,
        empty_records_per_second: config.max_empty_records_per_second,
    };
    if !early.is_empty()
        && let Err(reason) = feed(&shared, now(), early)
    {
        // The task's first turn ends the connection with it.
        shared.state.lock().closed.get_or_insert(reason);
    }
    let transmitter = Transmitter::new(wire.writer, sealer, borrower(), wire.output);
    let driver = Driver::new(
        shared.clone(),
        wire.reader,
        opener,
        slab,
        transmitter,
        limits,
    );
    tokio::spawn(driver);
    let connection = Connection(Link::Muxed(Arc::new(Handle(shared))));
    (connection.clone(), InboundStreams::new(connection))
}
