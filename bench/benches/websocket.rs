//! Frame layers of WebSocket side by side: barewire's own, tungstenite and fastwebsockets.
//!
//! For each: how fast a client's binary frames of 256 KiB arrive at a server over loopback TCP, both
//! on one thread each, and by how much the server's peak memory grows while a single frame of 48 MiB
//! passes. Run by `cargo bench -p barewire-bench --bench websocket`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark"
)]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use barewire_transport::{
    Role,
    ws::frame::{Decoder, Header, Limits, Opcode, push_masked},
};
use bytes::Bytes;
use fastwebsockets::{Frame, OpCode, Payload, WebSocket};
use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol},
};

const FRAME: usize = 256 * 1024;
const TOTAL: usize = 2 << 30;
const LONG: usize = 48 << 20;
const ROUNDS: usize = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layer {
    Own,
    Tungstenite,
    Fastwebsockets,
}

async fn receive(layer: Layer, mut socket: TcpStream, bytes: usize) {
    let mut got = 0;
    match layer {
        Layer::Own => {
            let limits = Limits {
                max_frame: 1 << 30,
                max_idle_frames_per_second: 128,
            };
            let mut decoder = Decoder::new(Role::Server, limits);
            let mut slab = vec![0; FRAME];
            while got < bytes {
                let limit = decoder.read_limit(32 * 1024).min(FRAME as u64) as usize;
                let n = socket.read(&mut slab[..limit]).await.unwrap();
                assert!(n > 0);
                got += decoder.decode(Instant::now(), &mut slab[..n]).unwrap();
            }
        }
        Layer::Tungstenite => {
            let config = protocol::WebSocketConfig::default()
                .max_frame_size(None)
                .max_message_size(None);
            let role = protocol::Role::Server;
            let mut ws = WebSocketStream::from_raw_socket(socket, role, Some(config)).await;
            while got < bytes {
                got += ws.next().await.unwrap().unwrap().into_data().len();
            }
        }
        Layer::Fastwebsockets => {
            let mut ws = WebSocket::after_handshake(socket, fastwebsockets::Role::Server);
            ws.set_max_message_size(1 << 30);
            while got < bytes {
                let frame = ws.read_frame().await.unwrap();
                assert_eq!(frame.opcode, OpCode::Binary);
                got += frame.payload.len();
            }
        }
    }
}

async fn send(layer: Layer, mut socket: TcpStream) {
    let block = vec![7; FRAME];
    match layer {
        Layer::Own => {
            let mut out = Vec::new();
            for _ in 0..TOTAL / FRAME {
                let mask = rand::random();
                out.clear();
                out.extend_from_slice(Header::new(Opcode::Binary, FRAME, Some(mask)).as_slice());
                push_masked(&block, mask, &mut out);
                socket.write_all(&out).await.unwrap();
            }
        }
        Layer::Tungstenite => {
            let role = protocol::Role::Client;
            let mut ws = WebSocketStream::from_raw_socket(socket, role, None).await;
            let block = Bytes::from(block);
            for _ in 0..TOTAL / FRAME {
                ws.send(Message::Binary(block.clone())).await.unwrap();
            }
        }
        Layer::Fastwebsockets => {
            let mut ws = WebSocket::after_handshake(socket, fastwebsockets::Role::Client);
            for _ in 0..TOTAL / FRAME {
                let frame = Frame::binary(Payload::Borrowed(&block));
                ws.write_frame(frame).await.unwrap();
            }
        }
    }
}

/// One frame of [`LONG`] bytes, by hand, so that the sender holds little of it.
async fn send_long(mut socket: TcpStream) {
    let header = Header::new(Opcode::Binary, LONG, Some([0x11; 4]));
    socket.write_all(header.as_slice()).await.unwrap();
    for _ in 0..LONG / FRAME {
        socket.write_all(&[0x11; FRAME]).await.unwrap();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Runs a receiver for `bytes` beside a sender, and returns how long both took.
fn pair<F: Future<Output = ()>>(
    layer: Layer,
    bytes: usize,
    sender: impl Fn(TcpStream) -> F + Send + 'static,
) -> Duration {
    let (tell, told) = std::sync::mpsc::sync_channel::<SocketAddr>(1);
    let receiver = std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let (socket, _) = listener.accept().await.unwrap();
            receive(layer, socket, bytes).await;
        });
    });
    let to = told.recv().unwrap();
    let begun = Instant::now();
    runtime().block_on(async {
        let socket = TcpStream::connect(to).await.unwrap();
        socket.set_nodelay(true).unwrap();
        sender(socket).await;
    });
    receiver.join().unwrap();
    begun.elapsed()
}

fn status(line: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|text| text.starts_with(line)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    // Set by `cargo test --benches`, which only wants to see it run.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let layers = [Layer::Own, Layer::Tungstenite, Layer::Fastwebsockets];
    for layer in layers {
        // The peak counts from here.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = status("VmRSS:");
        pair(layer, LONG, send_long);
        let grown = status("VmHWM:").saturating_sub(before);
        println!("{layer:?}: {grown} KiB more at the peak while a frame of 48 MiB passes");
    }
    let mut rates = vec![Vec::new(); layers.len()];
    for _ in 0..ROUNDS {
        for (layer, rates) in layers.into_iter().zip(&mut rates) {
            let took = pair(layer, TOTAL, move |socket| send(layer, socket));
            rates.push(TOTAL as f64 / took.as_secs_f64() / f64::from(1 << 20));
        }
    }
    for (layer, rates) in layers.into_iter().zip(&mut rates) {
        rates.sort_by(f64::total_cmp);
        println!(
            "{layer:?}: {:.0} MiB/s of masked frames of 256 KiB (median of {ROUNDS}, {:.0} – {:.0})",
            rates[ROUNDS / 2],
            rates[0],
            rates[ROUNDS - 1]
        );
    }
}
