//! What those get who ask for dials to somebody else, and what it costs the bystander.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use barewire_base::framing;
use barewire_nat::autonat::{
    DATA_CHUNK, DialBack, DialStatus, Message, ResponseStatus, V1Message, V1Status,
};
use barewire_node::{
    Connection, Endpoint, Multiaddr, Stream,
    protocols::autonat::{
        AutonatServerConfig, DIAL_BACK_PROTOCOL, DIAL_REQUEST_PROTOCOL, V1_PROTOCOL,
    },
};
use barewire_tests::full;
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    task::AbortHandle,
};

use crate::{Client, DEADLINE, Server, endpoint};

fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::new();
    framing::encode_prefixed(message, &mut framed);
    framed.freeze()
}

/// The next message on a stream, unless it ends.
async fn hear(stream: &mut Stream) -> Option<Vec<u8>> {
    let hearing = async {
        let mut got = BytesMut::new();
        loop {
            match got.first() {
                // None that a server says is longer.
                Some(len) if got.len() > usize::from(*len) => return Some(got[1..].to_vec()),
                _ => got.extend_from_slice(&stream.read_chunk(256).await.ok()??),
            }
        }
    };
    tokio::time::timeout(DEADLINE, hearing)
        .await
        .expect("no answer")
}

/// A host that speaks nothing of ours and counts what it gets, over TCP and UDP.
struct Bystander {
    tcp: Multiaddr,
    quic: Multiaddr,
    bytes: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    tasks: [AbortHandle; 2],
}

impl Bystander {
    async fn at(ip: &str) -> Self {
        let [bytes, connections] = [(); 2].map(|()| Arc::new(AtomicU64::new(0)));
        let tcp = TcpListener::bind((ip, 0)).await.unwrap();
        let udp = UdpSocket::bind((ip, 0)).await.unwrap();
        let port = tcp.local_addr().unwrap().port();
        let quic = udp.local_addr().unwrap().port();
        let (count, opened) = (Arc::clone(&bytes), Arc::clone(&connections));
        let accept = tokio::spawn(async move {
            while let Ok((mut socket, _)) = tcp.accept().await {
                opened.fetch_add(1, Ordering::Relaxed);
                // The three packets of its beginning.
                count.fetch_add(3 * 60, Ordering::Relaxed);
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    // It answers, as a server of something else would.
                    drop(socket.write_all(b"220 hello\r\n").await);
                    let mut scratch = [0; 4096];
                    while let Ok(len @ 1..) = socket.read(&mut scratch).await {
                        count.fetch_add(len as u64 + 40, Ordering::Relaxed);
                    }
                });
            }
        });
        let count = Arc::clone(&bytes);
        let receive = tokio::spawn(async move {
            let mut scratch = [0; 4096];
            while let Ok(len) = udp.recv(&mut scratch).await {
                count.fetch_add(len as u64 + 28, Ordering::Relaxed);
            }
        });
        Self {
            tcp: format!("/ip4/{ip}/tcp/{port}").parse().unwrap(),
            quic: format!("/ip4/{ip}/udp/{quic}/quic-v1").parse().unwrap(),
            bytes,
            connections,
            tasks: [accept.abort_handle(), receive.abort_handle()],
        }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// What a request led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Got {
    Dialled(DialStatus, u64),
    Refused(ResponseStatus),
    Reset,
}

/// Asks for a dial and pays for it, unless it is to cost more than `pays`.
async fn ask(connection: &Connection, addrs: Vec<Option<Multiaddr>>, pays: u64) -> Got {
    let mut stream = connection.open_stream(DIAL_REQUEST_PROTOCOL).await.unwrap();
    let request = Message::DialRequest { addrs, nonce: 7 };
    if stream.write_chunk(framed(&request.encode())).await.is_err() {
        return Got::Reset;
    }
    let mut paid = 0;
    loop {
        let Some(message) = hear(&mut stream).await else {
            return Got::Reset;
        };
        match Message::decode(&message).unwrap() {
            Message::DialDataRequest { bytes, .. } => {
                let mut left = usize::try_from(bytes.min(pays)).unwrap();
                paid = bytes.min(pays);
                while left > 0 {
                    let len = left.min(DATA_CHUNK);
                    let message = Message::DialDataResponse { len };
                    if stream.write_chunk(framed(&message.encode())).await.is_err() {
                        return Got::Reset;
                    }
                    left -= len;
                }
                if bytes > pays {
                    drop(stream.finish());
                }
            }
            Message::DialResponse(response) => {
                return match response.status {
                    ResponseStatus::Ok => Got::Dialled(response.dial, paid),
                    status => Got::Refused(status),
                };
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn attacker(server: &Server) -> (Endpoint, Connection) {
    let attacker = endpoint().await;
    let connection = attacker.connect(server.addr.clone()).await.unwrap();
    (attacker, connection)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bystander_gets_less_than_was_paid_for() {
    let mut config = AutonatServerConfig::default();
    if !full() {
        config.dial_timeout = Duration::from_secs(4);
    }
    let server = Server::start("127.0.0.1", config).await;
    let (attacker, connection) = attacker(&server).await;
    let bystander = Bystander::at("127.0.0.50").await;
    for (what, addr) in [("TCP", &bystander.tcp), ("QUIC", &bystander.quic)] {
        let before = bystander.bytes();
        let got = ask(&connection, vec![Some(addr.clone())], u64::MAX).await;
        let Got::Dialled(DialStatus::DialError, paid) = got else {
            panic!("{what}: {got:?}");
        };
        let hit = bystander.bytes() - before;
        println!(
            "{what}: {paid} bytes were paid, the bystander got {hit} ({:.2} of them)",
            hit as f64 / paid as f64
        );
        assert!((30_000..=100_000).contains(&paid) && hit > 0 && hit <= paid);
    }
    // Without paying, or paying less, there is no packet.
    let before = (bystander.bytes(), server.server.stats().failed);
    for pays in [0, 29_999] {
        let got = ask(&connection, vec![Some(bystander.tcp.clone())], pays).await;
        assert_eq!(got, Got::Reset, "{pays}");
    }
    let after = (bystander.bytes(), server.server.stats().failed);
    assert_eq!(before, after);
    println!("two that paid too little: 0 bytes at the bystander");
    attacker.shutdown(Duration::from_secs(1)).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_requests_is_a_few_dials() {
    let mut config = AutonatServerConfig::default();
    config.dial_timeout = Duration::from_secs(2);
    let server = Server::start("127.0.0.1", config).await;
    let bystander = Bystander::at("127.0.0.51").await;
    let (ids, each) = if full() { (100, 100) } else { (20, 20) };
    let (mut paid, mut got) = (0, std::collections::BTreeMap::new());
    for _ in 0..ids {
        let (attacker, connection) = attacker(&server).await;
        for _ in 0..each {
            let result = ask(&connection, vec![Some(bystander.tcp.clone())], u64::MAX).await;
            if let Got::Dialled(_, bytes) = result {
                paid += bytes;
            }
            let what = match result {
                Got::Dialled(status, _) => format!("{status:?}"),
                other => format!("{other:?}"),
            };
            *got.entry(what).or_insert(0) += 1;
        }
        attacker.shutdown(Duration::from_secs(1)).await;
    }
    let connections = bystander.connections.load(Ordering::Relaxed);
    println!(
        "{} requests of {ids} identities: {got:?}; {connections} connections and {} bytes at the bystander for {paid} bytes",
        ids * each,
        bystander.bytes()
    );
    // Four a minute to one address, and the flood may take longer than one.
    assert!(connections <= 8, "{connections}");
    assert!(bystander.bytes() <= paid);
    assert_eq!(server.server.stats().running, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_make_no_sense_are_refused() {
    let server = Server::start("127.0.0.1", AutonatServerConfig::default()).await;
    let (attacker, connection) = attacker(&server).await;
    let bystander = Bystander::at("127.0.0.52").await;
    let id = attacker.peer_id();
    let relayed = format!("/ip4/127.0.0.52/tcp/1/p2p/{id}/p2p-circuit");
    let refused: Vec<Option<Multiaddr>> = [
        "/dns4/victim.example/tcp/1",
        "/ip4/0.0.0.0/tcp/1",
        "/ip4/255.255.255.255/tcp/1",
        "/ip4/224.0.0.1/udp/1/quic-v1",
        "/ip4/169.254.169.254/tcp/80",
        "/ip6/fe80::1/tcp/1",
        "/ip4/127.0.0.52/udp/1",
        "/memory/1",
        &relayed,
        "unreadable",
    ]
    .map(|text| text.parse().ok())
    .to_vec();
    let got = ask(&connection, refused, 0).await;
    assert_eq!(got, Got::Refused(ResponseStatus::DialRefused));
    assert_eq!(
        ask(&connection, Vec::new(), 0).await,
        Got::Refused(ResponseStatus::DialRefused)
    );
    // Ten thousand addresses are too long for a message.
    let many = vec![8u8; 10_000 * 10];
    for garbage in [&many[..], &[0x12, 0], &[0xff; 64], &[]] {
        let mut stream = connection.open_stream(DIAL_REQUEST_PROTOCOL).await.unwrap();
        drop(stream.write_chunk(framed(garbage)).await);
        assert_eq!(hear(&mut stream).await, None);
    }
    // Version 1 in the name of somebody else, and to somewhere else.
    let v1 = async |peer, addrs| {
        let mut stream = connection.open_stream(V1_PROTOCOL).await.unwrap();
        let message = V1Message::Dial { peer, addrs };
        let sent = stream.write_chunk(framed(&message.encode())).await;
        sent.unwrap();
        let answer = hear(&mut stream).await.expect("it answers");
        match V1Message::decode(&answer).unwrap() {
            V1Message::DialResponse { status, .. } => status,
            other => panic!("{other:?}"),
        }
    };
    let other = server.router.endpoint().peer_id();
    let to_bystander = vec![bystander.tcp.clone()];
    assert_eq!(
        v1(Some(other), to_bystander.clone()).await,
        V1Status::BadRequest
    );
    assert_eq!(v1(Some(id), Vec::new()).await, V1Status::DialRefused);
    if full() {
        assert_eq!(v1(Some(id), to_bystander).await, V1Status::DialError);
    }
    assert_eq!(bystander.connections.load(Ordering::Relaxed), 0);
    println!(
        "13 requests that make no sense: 0 dials; version 1 never left the client's own address"
    );
    attacker.shutdown(Duration::from_secs(1)).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nonces_that_nobody_waits_for_change_nothing() {
    let client = Client::start(&["/ip4/127.0.0.1/tcp/0"]).await;
    let attacker = endpoint().await;
    let addr = client.endpoint().listen_addrs()[0].clone();
    let whole = addr.with_peer(client.endpoint().peer_id()).unwrap();
    let connection = attacker.connect(whole).await.unwrap();
    let count: u64 = if full() { 100_000 } else { 500 };
    let begun = std::time::Instant::now();
    for nonce in 0..count {
        let mut stream = connection.open_stream(DIAL_BACK_PROTOCOL).await.unwrap();
        let message = framed(&DialBack { nonce }.encode());
        drop(stream.write_last(message).await);
        assert_eq!(hear(&mut stream).await, None, "{nonce}");
    }
    let state = client.client.state().borrow().clone();
    assert!(state.addrs.iter().all(|tested| tested.reached == 0));
    println!(
        "{count} nonces that nobody waits for: each reset, {:.0} µs each, nothing believed",
        begun.elapsed().as_secs_f64() * 1e6 / count as f64
    );
    attacker.shutdown(Duration::from_secs(1)).await;
    client.stop().await;
}
