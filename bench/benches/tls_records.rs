//! The record layer of TLS 1.3, made three ways: barewire's own with the secrets taken out of rustls
//! after the handshake, rustls' unbuffered connection, and rustls' buffered one.
//!
//! As in the `security` benchmark a record carries a muxer frame: a 12-byte header and a payload, from two
//! places in memory. The unbuffered connection takes one slice, so they are copied together for it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a benchmark"
)]

use std::{
    hint::black_box,
    io::{IoSlice, Read, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_base::Keypair;
use barewire_security::{
    MAX_PLAINTEXT, Opened, Opener, Sealer,
    tls::{Config, Handshake},
};
use bytes::{BufMut, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::{SeedableRng, rngs::StdRng};
use rustls::{
    ClientConnection, ServerConnection,
    client::UnbufferedClientConnection,
    pki_types::ServerName,
    server::UnbufferedServerConnection,
    unbuffered::{ConnectionState, UnbufferedStatus},
};

const HEADER: [u8; 12] = [7; 12];
/// Records sealed before the clock runs and opened while it does.
const BATCH: usize = 32;

/// One direction of a connection.
trait Records {
    /// Appends the record of `HEADER` and `payload` to `out`.
    fn seal(&mut self, payload: &[u8], out: &mut BytesMut);
    /// Opens the one record that `record` is.
    fn open(&mut self, record: &mut [u8]);
}

fn node(seed: u64) -> Config {
    let mut rng = StdRng::seed_from_u64(seed);
    let identity = Keypair::generate(&mut rng);
    Config::new(&identity, vec!["/yamux/1.0.0".into()], &mut rng).unwrap()
}

struct Barewire {
    sealer: Sealer,
    opener: Opener,
}

impl Barewire {
    fn new() -> Self {
        let (near, far) = (node(1), node(2));
        let mut client = Handshake::client(&near, None).unwrap();
        let mut server = Handshake::server(&far).unwrap();
        let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
        while !(client.is_finished() && server.is_finished()) {
            client.poll_transmit(&mut up);
            let taken = server.handle_input(&mut up).unwrap();
            drop(up.split_to(taken));
            server.poll_transmit(&mut down);
            let taken = client.handle_input(&mut down).unwrap();
            drop(down.split_to(taken));
        }
        Self {
            sealer: client.finish().unwrap().session.split().0,
            opener: server.finish().unwrap().session.split().1,
        }
    }
}

impl Records for Barewire {
    fn seal(&mut self, payload: &[u8], out: &mut BytesMut) {
        self.sealer
            .seal([&HEADER[..], payload].into_iter(), out)
            .unwrap();
    }
    fn open(&mut self, record: &mut [u8]) {
        let opened = self.opener.open_in_place(record);
        assert!(matches!(opened, Ok(Opened::Record { .. })));
    }
}

fn name() -> ServerName<'static> {
    ServerName::try_from("10.0.0.1").unwrap()
}

struct Buffered {
    client: ClientConnection,
    server: ServerConnection,
    scratch: Vec<u8>,
}

impl Buffered {
    fn new() -> Self {
        let (near, far) = (node(1), node(2));
        let settings = near.client_config(None, near.stream_alpn());
        let mut client = ClientConnection::new(Arc::new(settings), name()).unwrap();
        let settings = far.server_config(far.stream_alpn());
        let mut server = ServerConnection::new(Arc::new(settings)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            client.write_tls(&mut wire).unwrap();
            server.read_tls(&mut &wire[..]).unwrap();
            server.process_new_packets().unwrap();
            wire.clear();
            server.write_tls(&mut wire).unwrap();
            client.read_tls(&mut &wire[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        Self {
            client,
            server,
            scratch: vec![0; 1 << 15],
        }
    }
}

impl Records for Buffered {
    fn seal(&mut self, payload: &[u8], out: &mut BytesMut) {
        let parts = [IoSlice::new(&HEADER), IoSlice::new(payload)];
        let written = self.client.writer().write_vectored(&parts).unwrap();
        assert_eq!(written, HEADER.len() + payload.len());
        while self.client.wants_write() {
            self.client.write_tls(&mut out.writer()).unwrap();
        }
    }
    fn open(&mut self, record: &mut [u8]) {
        let mut rest = &record[..];
        while !rest.is_empty() {
            self.server.read_tls(&mut rest).unwrap();
            let state = self.server.process_new_packets().unwrap();
            let length = state.plaintext_bytes_to_read();
            let plaintext = &mut self.scratch[..length];
            self.server.reader().read_exact(plaintext).unwrap();
        }
    }
}

struct Unbuffered {
    client: UnbufferedClientConnection,
    server: UnbufferedServerConnection,
    scratch: Vec<u8>,
}

/// Does what a handshake asks for; whether it is done.
macro_rules! step {
    ($connection:expr, $input:expr, $output:expr) => {{
        loop {
            let UnbufferedStatus { discard, state } =
                $connection.process_tls_records(&mut $input[..]);
            let done = match state.unwrap() {
                ConnectionState::EncodeTlsData(mut data) => {
                    let at = $output.len();
                    $output.resize(at + (1 << 14), 0);
                    let length = data.encode(&mut $output[at..]).unwrap();
                    $output.truncate(at + length);
                    None
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    None
                }
                ConnectionState::BlockedHandshake => Some(false),
                ConnectionState::WriteTraffic(_) => Some(true),
                other => panic!("{other:?}"),
            };
            $input.drain(..discard);
            if let Some(done) = done {
                break done;
            }
        }
    }};
}

impl Unbuffered {
    fn new() -> Self {
        let (near, far) = (node(1), node(2));
        let settings = near.client_config(None, near.stream_alpn());
        let mut client = UnbufferedClientConnection::new(Arc::new(settings), name()).unwrap();
        let settings = far.server_config(far.stream_alpn());
        let mut server = UnbufferedServerConnection::new(Arc::new(settings)).unwrap();
        let (mut up, mut down) = (Vec::new(), Vec::new());
        loop {
            let near = step!(client, down, up);
            let far = step!(server, up, down);
            if near && far && up.is_empty() && down.is_empty() {
                break;
            }
        }
        Self {
            client,
            server,
            scratch: Vec::with_capacity(1 << 15),
        }
    }
}

impl Records for Unbuffered {
    fn seal(&mut self, payload: &[u8], out: &mut BytesMut) {
        self.scratch.clear();
        self.scratch.extend_from_slice(&HEADER);
        self.scratch.extend_from_slice(payload);
        let UnbufferedStatus { state, .. } = self.client.process_tls_records(&mut []);
        let ConnectionState::WriteTraffic(mut traffic) = state.unwrap() else {
            panic!()
        };
        let at = out.len();
        out.resize(at + self.scratch.len() + 64, 0);
        let length = traffic.encrypt(&self.scratch, &mut out[at..]).unwrap();
        out.truncate(at + length);
    }
    fn open(&mut self, record: &mut [u8]) {
        let UnbufferedStatus { state, .. } = self.server.process_tls_records(record);
        let ConnectionState::ReadTraffic(mut traffic) = state.unwrap() else {
            panic!()
        };
        black_box(traffic.next_record().unwrap().unwrap().payload);
    }
}

/// Opens `iterations` records and counts that time only.
fn time_opening(records: &mut dyn Records, payload: &[u8], iterations: u64) -> Duration {
    let mut time = Duration::ZERO;
    let mut left = usize::try_from(iterations).unwrap();
    let mut sealed: Vec<BytesMut> = (0..BATCH)
        .map(|_| BytesMut::with_capacity(1 << 15))
        .collect();
    while left > 0 {
        let batch = &mut sealed[..left.min(BATCH)];
        for record in batch.iter_mut() {
            record.clear();
            records.seal(payload, record);
        }
        let start = Instant::now();
        for record in batch.iter_mut() {
            records.open(record);
        }
        time += start.elapsed();
        left -= batch.len();
    }
    time
}

type Make = fn() -> Box<dyn Records>;

fn records(criterion: &mut Criterion) {
    let contenders: [(&str, Make); 3] = [
        ("barewire, secrets taken out", || Box::new(Barewire::new())),
        ("rustls unbuffered", || Box::new(Unbuffered::new())),
        ("rustls buffered", || Box::new(Buffered::new())),
    ];
    // What a TLS record holds at most is a little less than one of Noise.
    for size in [1024, MAX_PLAINTEXT.min(16 * 1024)] {
        let payload = vec![9; size - HEADER.len()];
        let mut group = criterion.benchmark_group("tls seal");
        group.throughput(Throughput::Bytes(size as u64));
        for (name, make) in &contenders {
            let mut records = make();
            let mut out = BytesMut::with_capacity(1 << 15);
            group.bench_function(BenchmarkId::new(*name, size), |bencher| {
                bencher.iter(|| {
                    out.clear();
                    records.seal(black_box(&payload), &mut out);
                });
            });
        }
        group.finish();
        let mut group = criterion.benchmark_group("tls open");
        group.throughput(Throughput::Bytes(size as u64));
        for (name, make) in &contenders {
            let mut records = make();
            group.bench_function(BenchmarkId::new(*name, size), |bencher| {
                bencher.iter_custom(|iterations| time_opening(&mut *records, &payload, iterations));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, records);
criterion_main!(benches);
