//! Counts the copies of a payload byte: at most one out, none in beyond decryption.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    io,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use barewire_base::{Budget, Keypair};
use barewire_security::{noise, tls};
use barewire_transport::{Security, UpgradeConfig, upgrade_inbound, upgrade_outbound};
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// A socket that remembers into which memory it was asked to read.
struct Watched {
    io: TcpStream,
    reads: Arc<Mutex<Vec<Range<usize>>>>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        let before = buf.filled().len();
        let start = buf.initialize_unfilled().as_ptr() as usize;
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.reads.lock().unwrap().push(start..start + room);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn noise(seed: u8) -> UpgradeConfig {
    let keypair = Keypair::from_seed(&[seed; 32]);
    let muxers = vec!["/yamux/1.0.0".into()];
    let noise = noise::Config::new(&keypair, muxers, &mut rand::rng()).unwrap();
    UpgradeConfig::new(vec![Security::Noise(Arc::new(noise))], Budget::unlimited())
}

fn tls(seed: u8) -> UpgradeConfig {
    let keypair = Keypair::from_seed(&[seed; 32]);
    let muxers = vec!["/yamux/1.0.0".into()];
    let tls = tls::Config::new(&keypair, muxers, &mut rand::rng()).unwrap();
    UpgradeConfig::new(vec![Security::Tls(Arc::new(tls))], Budget::unlimited())
}

// A task like any other: the runtime polls the future it blocks on less often than tasks.

#[tokio::test]
async fn payload_is_sliced_from_the_slab_and_copied_once_out() {
    tokio::spawn(bulk(noise)).await.unwrap();
}

#[tokio::test]
async fn payload_over_tls_is_sliced_from_the_slab_and_copied_once_out() {
    tokio::spawn(bulk(tls)).await.unwrap();
}

async fn bulk(config: fn(u8) -> UpgradeConfig) {
    const TOTAL: u64 = 256 * 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let reads = Arc::new(Mutex::new(Vec::new()));
    let (near, (far, _)) = tokio::try_join!(TcpStream::connect(addr), listener.accept()).unwrap();
    let watched = Watched {
        io: far,
        reads: reads.clone(),
    };
    let (client, server) = (config(1), config(2));
    let (dialled, accepted) = tokio::join!(
        upgrade_outbound(near, &client, None),
        upgrade_inbound(watched, &server)
    );
    let ((client, _), (server, mut streams)) = (dialled.unwrap(), accepted.unwrap());

    let mut outbound = client.open_stream("/bulk").await.unwrap();
    let writer = tokio::spawn(async move {
        let block = Bytes::from(vec![0x5a; 1 << 20]);
        for _ in 0..TOTAL >> 20 {
            outbound.write_chunk(block.clone()).await.unwrap();
        }
        outbound.finish().unwrap();
        outbound.read_chunk(1).await.unwrap();
    });
    let inbound = streams.accept().await.unwrap();
    let mut inbound = inbound.negotiate(|id| Some(id.into())).await.unwrap();
    let (mut received, mut outside, mut chunks) = (0u64, 0u64, 0u64);
    while let Some(chunk) = inbound.read_chunk(usize::MAX).await.unwrap() {
        received += chunk.len() as u64;
        chunks += 1;
        let start = chunk.as_ptr() as usize;
        // The chunk must lie in memory the socket was asked to read into. Slabs are reused, so the
        // list stays short once adjacent reads are merged.
        let mut reads = reads.lock().unwrap();
        merge(&mut reads);
        let inside = reads
            .iter()
            .any(|read| read.start <= start && start + chunk.len() <= read.end);
        if !inside {
            outside += chunk.len() as u64;
        }
    }
    inbound.finish().unwrap();
    writer.await.unwrap();
    assert_eq!(received, TOTAL);
    let (sent, got) = (client.stats(), server.stats());
    println!(
        "{received} bytes in {chunks} chunks: {outside} outside the slabs, {} copied in, {} copied out ({:.4} per payload byte)",
        got.bytes_copied_in,
        sent.bytes_copied_out,
        sent.bytes_copied_out as f64 / TOTAL as f64,
    );
    // The start of a burst may outgrow a small slab: its bytes are moved once, and counted. The
    // record they belong to then lies partly outside the memory that was read into.
    assert!(got.bytes_copied_in <= 64 * 1024);
    assert!(outside <= TOTAL / 1000);
    // Frame headers are 12 bytes in 65,519; nothing else is copied but the payload.
    assert!(sent.bytes_copied_out as f64 <= TOTAL as f64 * 1.001);
}

fn merge(ranges: &mut Vec<Range<usize>>) {
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, kept| {
        let joins = next.start <= kept.end;
        if joins {
            kept.end = kept.end.max(next.end);
        }
        joins
    });
}
