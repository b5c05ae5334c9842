//! A client of QUIC: below quinn's own state machine, above whatever it is told to say. What it says is changed before
//! it is encrypted, so that all around it, numbers, keys, acknowledgements, is as it should be.

use std::{
    any::Any,
    collections::VecDeque,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use barewire_base::{Keypair, multistream};
use barewire_security::tls;
use barewire_tests::attack::{net, rig::Target};
use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, ConnectError, Connection, ConnectionError, ConnectionHandle, ConnectionId,
    DatagramEvent, Dir, Endpoint, EndpointConfig, Event, ServerConfig, Side, StreamId,
    TransportConfig, TransportError, VarInt,
    congestion::NewRenoConfig,
    crypto::{
        self, CryptoError, ExportKeyingMaterialError, HeaderKey, KeyPair, Keys, PacketKey, Session,
        rustls::{QuicClientConfig, QuicServerConfig},
    },
    transport_parameters::TransportParameters,
};

/// Length of the datagrams, which are padded.
pub(crate) const DATAGRAM: u16 = 1_200;
/// Frames of one packet have to fit beside its header and tag.
pub(crate) const ROOM: usize = 1_150;
/// How long a handshake may take on a machine that does other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Changes the hello, which has its four bytes of type and length in front.
pub(crate) type ChangeHello = Box<dyn Fn(&mut Vec<u8>) + Send>;

/// What a client says in place of what it would.
#[derive(Default)]
struct Words {
    hello: Mutex<Option<ChangeHello>>,
    /// Frames of packets to come.
    frames: Mutex<VecDeque<Vec<u8>>>,
}

struct Changed {
    inner: Arc<QuicClientConfig>,
    words: Arc<Words>,
}

impl crypto::ClientConfig for Changed {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        let inner = Arc::clone(&self.inner).start_session(version, name, params)?;
        Ok(Box::new(ChangedSession {
            inner,
            words: Arc::clone(&self.words),
            keys: 0,
        }))
    }
}

struct ChangedSession {
    inner: Box<dyn Session>,
    words: Arc<Words>,
    /// Keys given so far: those of the handshake come first.
    keys: usize,
}

impl Session for ChangedSession {
    fn initial_keys(&self, id: &ConnectionId, side: Side) -> Keys {
        self.inner.initial_keys(id, side)
    }
    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.inner.handshake_data()
    }
    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        self.inner.peer_identity()
    }
    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        self.inner.early_crypto()
    }
    fn early_data_accepted(&self) -> Option<bool> {
        self.inner.early_data_accepted()
    }
    fn is_handshaking(&self) -> bool {
        self.inner.is_handshaking()
    }
    fn read_handshake(&mut self, bytes: &[u8]) -> Result<bool, TransportError> {
        self.inner.read_handshake(bytes)
    }
    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        self.inner.transport_parameters()
    }
    fn write_handshake(&mut self, out: &mut Vec<u8>) -> Option<Keys> {
        let keys = self.inner.write_handshake(out);
        if let Some(change) = self.words.hello.lock().unwrap().take() {
            change(out);
        }
        let mut keys = keys?;
        self.keys += 1;
        if self.keys == 2 {
            keys.packet.local = Box::new(ChangedKey {
                inner: keys.packet.local,
                words: Arc::clone(&self.words),
            });
        }
        Some(keys)
    }
    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        self.inner.next_1rtt_keys()
    }
    fn is_valid_retry(&self, id: &ConnectionId, header: &[u8], payload: &[u8]) -> bool {
        self.inner.is_valid_retry(id, header, payload)
    }
    fn export_keying_material(
        &self,
        out: &mut [u8],
        label: &[u8],
        context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        self.inner.export_keying_material(out, label, context)
    }
}

struct ChangedKey {
    inner: Box<dyn PacketKey>,
    words: Arc<Words>,
}

impl PacketKey for ChangedKey {
    fn encrypt(&self, packet: u64, buf: &mut [u8], header_len: usize) {
        let end = buf.len() - self.tag_len();
        let payload = &mut buf[header_len..end];
        let mut frames = self.words.frames.lock().unwrap();
        if frames
            .front()
            .is_some_and(|next| next.len() <= payload.len())
        {
            let frames = frames.pop_front().unwrap();
            // Zeros are padding.
            payload.fill(0);
            payload[..frames.len()].copy_from_slice(&frames);
        }
        self.inner.encrypt(packet, buf, header_len);
    }
    fn decrypt(
        &self,
        packet: u64,
        header: &[u8],
        payload: &mut BytesMut,
    ) -> Result<(), CryptoError> {
        self.inner.decrypt(packet, header, payload)
    }
    fn tag_len(&self) -> usize {
        self.inner.tag_len()
    }
    fn confidentiality_limit(&self) -> u64 {
        self.inner.confidentiality_limit()
    }
    fn integrity_limit(&self) -> u64 {
        self.inner.integrity_limit()
    }
}

/// One end of a connection, without a socket.
struct End {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    answers: VecDeque<Vec<u8>>,
}

impl End {
    fn new(server: Option<Arc<ServerConfig>>) -> Self {
        Self {
            endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), server, false, None),
            connection: None,
            answers: VecDeque::new(),
        }
    }

    fn take(&mut self, from: SocketAddr, datagram: &[u8]) {
        let (now, mut answer) = (Instant::now(), Vec::new());
        let event = self
            .endpoint
            .handle(now, from, None, None, datagram.into(), &mut answer);
        match event {
            Some(DatagramEvent::ConnectionEvent(to, event)) => {
                if let Some((handle, connection)) = &mut self.connection
                    && *handle == to
                {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = self.endpoint.accept(incoming, now, &mut answer, None);
                self.connection = accepted.ok();
            }
            Some(DatagramEvent::Response(_)) => self.answers.push_back(answer),
            None => {}
        }
    }

    /// The next datagram to send.
    fn give(&mut self) -> Option<Vec<u8>> {
        if let Some(answer) = self.answers.pop_front() {
            return Some(answer);
        }
        let (handle, connection) = self.connection.as_mut()?;
        let now = Instant::now();
        if connection.poll_timeout().is_some_and(|due| due <= now) {
            connection.handle_timeout(now);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        let mut datagram = Vec::new();
        let _transmit = connection.poll_transmit(now, 1, &mut datagram)?;
        Some(datagram)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection()
            .close(Instant::now(), VarInt::from_u32(0), Bytes::new());
        // A goodbye may be lost. It is said again to whoever goes on sending.
        for _ in 0..10 {
            self.step();
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A client with a socket.
pub(crate) struct Client {
    pub(crate) socket: UdpSocket,
    remote: SocketAddr,
    end: End,
    /// The other end where a sink takes what we say: the keys come from a handshake with ourselves.
    ourselves: Option<End>,
    words: Arc<Words>,
    pub(crate) connected: bool,
    pub(crate) lost: Option<ConnectionError>,
    pub(crate) received: u64,
}

/// `credit` is what each stream of the victim may send.
fn settings(credit: u32) -> Arc<TransportConfig> {
    let mut congestion = NewRenoConfig::default();
    congestion.initial_window(4 << 20);
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(DATAGRAM)
        .mtu_discovery_config(None)
        .pad_to_mtu(true)
        .max_idle_timeout(None)
        // Its packets are padded, so acknowledgements too take a place in the window, and nobody acknowledges those.
        .congestion_controller_factory(Arc::new(congestion))
        .max_concurrent_bidi_streams(VarInt::from_u32(1_024))
        .stream_receive_window(credit.into())
        .receive_window(VarInt::MAX)
        .send_window(1 << 30);
    Arc::new(transport)
}

/// What clients and servers with one fresh identity are configured with.
fn configs(words: &Arc<Words>, credit: u32) -> (ClientConfig, ServerConfig) {
    let mut rng = rand::rng();
    let identity = Keypair::generate(&mut rng);
    let tls = tls::Config::new(&identity, Vec::new(), &mut rng).unwrap();
    let alpn = vec![tls::LIBP2P.to_vec()];
    let crypto = QuicClientConfig::try_from(tls.client_config(None, alpn.clone())).unwrap();
    let mut client = ClientConfig::new(Arc::new(Changed {
        inner: Arc::new(crypto),
        words: Arc::clone(words),
    }));
    client.transport_config(settings(credit));
    let crypto = QuicServerConfig::try_from(tls.server_config(alpn)).unwrap();
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(settings(credit));
    (client, server)
}

/// An end that is about to dial.
fn dialling(to: SocketAddr, config: ClientConfig) -> End {
    let mut end = End::new(None);
    let name = to.ip().to_string();
    let begun = end.endpoint.connect(Instant::now(), config, to, &name);
    end.connection = Some(begun.unwrap());
    end
}

/// The first datagram of as many clients.
pub(crate) fn initials(to: SocketAddr, count: usize) -> Vec<Vec<u8>> {
    let (config, _) = configs(&Arc::default(), 0);
    (0..count)
        .map(|_| dialling(to, config.clone()).give().unwrap())
        .collect()
}

impl Client {
    /// Completes a handshake from the next of the attacker's addresses. Of what streams of the victim send, nothing is
    /// ever read.
    pub(crate) fn connect(target: Target) -> Self {
        Self::connect_with(target, 1_024)
    }

    /// Completes a handshake; each stream of the victim may send `credit` bytes.
    pub(crate) fn connect_with(target: Target, credit: u32) -> Self {
        let mut client = Self::dial(target, net::next_source(), None, credit);
        assert!(
            client.until(PATIENCE, |client| client.connected),
            "no handshake: {:?}",
            client.lost
        );
        client
    }

    /// Has a handshake to say, from `source`; `change` is done to the hello.
    pub(crate) fn begin(target: Target, source: IpAddr, change: Option<ChangeHello>) -> Self {
        Self::dial(target, source, change, 1_024)
    }

    fn dial(target: Target, source: IpAddr, change: Option<ChangeHello>, credit: u32) -> Self {
        let socket = UdpSocket::bind((source, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let words = Arc::new(Words::default());
        *words.hello.lock().unwrap() = change;
        let (client, server) = configs(&words, credit);
        Self {
            socket,
            remote: target.socket,
            end: dialling(target.socket, client),
            ourselves: target.sink.then(|| End::new(Some(Arc::new(server)))),
            words,
            connected: false,
            lost: None,
            received: 0,
        }
    }

    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.end.connection.as_mut().unwrap().1
    }

    /// The next datagram it would send.
    pub(crate) fn give(&mut self) -> Option<Vec<u8>> {
        self.end.give()
    }

    /// Takes a datagram of the victim.
    pub(crate) fn take(&mut self, datagram: &[u8]) {
        self.received += datagram.len() as u64;
        let remote = self.remote;
        self.end.take(remote, datagram);
        while let Some(event) = self.connection().poll() {
            match event {
                Event::Connected => self.connected = true,
                Event::ConnectionLost { reason } => self.lost = Some(reason),
                _ => {}
            }
        }
    }

    fn say(&mut self, datagram: &[u8]) {
        // Full buffers lose datagrams, as networks do.
        self.socket.send_to(datagram, self.remote).ok();
        let Some(ourselves) = &mut self.ourselves else {
            return;
        };
        ourselves.take(self.remote, datagram);
        let mut answers = Vec::new();
        while let Some(answer) = ourselves.give() {
            answers.push(answer);
        }
        for answer in answers {
            self.take(&answer);
        }
    }

    /// Sends what there is and takes what has come. False when there was nothing to do.
    pub(crate) fn step(&mut self) -> bool {
        let mut busy = false;
        while let Some(datagram) = self.end.give() {
            self.say(&datagram);
            busy = true;
        }
        let mut datagram = [0; 2_048];
        while let Ok(length) = self.socket.recv(&mut datagram) {
            self.take(&datagram[..length]);
            busy = true;
        }
        busy
    }

    /// Goes on until `done`, at most for so long; whether it is done.
    pub(crate) fn until(&mut self, patience: Duration, done: impl Fn(&mut Self) -> bool) -> bool {
        let begun = Instant::now();
        loop {
            let busy = self.step();
            if done(self) {
                return true;
            }
            if begun.elapsed() >= patience {
                return false;
            }
            if !busy {
                std::thread::sleep(Duration::from_micros(500));
            }
        }
    }

    /// Queues one packet with these frames and no others, and sends it when the congestion window lets it go.
    pub(crate) fn say_frames(&mut self, frames: Vec<u8>) {
        assert!(frames.len() <= ROOM);
        // What else there is to say goes first, in packets of its own.
        self.step();
        self.words(frames);
        self.connection().ping();
        self.step();
    }

    /// Puts these frames in the place of the next packet's.
    pub(crate) fn words(&mut self, frames: Vec<u8>) {
        self.words.frames.lock().unwrap().push_back(frames);
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Frames that still wait for a packet.
    pub(crate) fn unsaid(&self) -> usize {
        self.words.frames.lock().unwrap().len()
    }

    /// Opens a stream and proposes the protocol.
    pub(crate) fn open(&mut self, protocol: &str) -> Option<StreamId> {
        let id = self.connection().streams().open(Dir::Bi)?;
        let proposal = multistream::optimistic_proposal(protocol);
        let written = self.connection().send_stream(id).write(&proposal);
        assert_eq!(written.ok(), Some(proposal.len()));
        Some(id)
    }

    /// Writes as much as is taken now.
    pub(crate) fn write(&mut self, stream: StreamId, data: &[u8]) -> usize {
        self.connection()
            .send_stream(stream)
            .write(data)
            .unwrap_or(0)
    }

    /// The code the victim closed the connection with, if it did.
    pub(crate) fn refusal(&self) -> Option<u64> {
        match self.lost.as_ref()? {
            ConnectionError::ConnectionClosed(close) => Some(close.error_code.into()),
            _ => None,
        }
    }
}
