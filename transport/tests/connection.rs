//! Connections between two upgraded ends, over memory pipes and TCP.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{sync::Arc, time::Duration};

use barewire_base::{Budget, Keypair, PeerId};
use barewire_security::noise;
use barewire_transport::{
    CloseReason, Connection, InboundStreams, InlineHandler, LocalReason, StreamError,
    UpgradeConfig, UpgradeError, upgrade_inbound, upgrade_outbound,
};
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ECHO: &str = "/test/echo/1.0.0";

fn config(seed: u8) -> (UpgradeConfig, PeerId) {
    let keypair = Keypair::from_seed(&[seed; 32]);
    let noise =
        noise::Config::new(&keypair, vec!["/yamux/1.0.0".into()], &mut rand::rng()).unwrap();
    (
        UpgradeConfig::new(Arc::new(noise), Budget::unlimited()),
        keypair.peer_id(),
    )
}

type End = (Connection, InboundStreams);

/// Two ends over a pipe of `capacity` bytes each way.
async fn pair_over(capacity: usize) -> (End, End) {
    let (near, far) = tokio::io::duplex(capacity);
    let (client, _) = config(1);
    let (server, server_id) = config(2);
    let (dialled, accepted) = tokio::join!(
        upgrade_outbound(near, &client, Some(server_id)),
        upgrade_inbound(far, &server)
    );
    (dialled.unwrap(), accepted.unwrap())
}

/// Echoes every stream until the connection ends.
fn serve_echo(mut streams: InboundStreams) {
    tokio::spawn(async move {
        while let Some(inbound) = streams.accept().await {
            tokio::spawn(async move {
                let Ok(mut stream) = inbound
                    .negotiate(|id| (id == ECHO).then(|| ECHO.into()))
                    .await
                else {
                    return;
                };
                while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX).await {
                    if stream.write_chunk(chunk).await.is_err() {
                        return;
                    }
                }
                stream.finish().ok();
            });
        }
    });
}

#[tokio::test]
async fn echoes_with_half_close() {
    let ((client, _keep), (_server, streams)) = pair_over(4096).await;
    serve_echo(streams);
    assert!(client.info().early_muxer);
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"hello");
}

#[tokio::test]
async fn echoes_bulk_through_a_narrow_pipe_without_loss() {
    let ((client, _keep), (_server, streams)) = pair_over(1000).await;
    serve_echo(streams);
    let payload: Bytes = (0..3_000_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let (mut read, mut write) = client.open_stream(ECHO).await.unwrap().split();
    let sent = payload.clone();
    let writer = tokio::spawn(async move {
        for chunk in sent.chunks(70_001) {
            write.write_chunk(sent.slice_ref(chunk)).await.unwrap();
        }
        write.finish().unwrap();
    });
    let mut back = Vec::new();
    while let Some(chunk) = read.read_chunk(usize::MAX).await.unwrap() {
        back.extend_from_slice(&chunk);
    }
    writer.await.unwrap();
    assert!(back == payload, "{} bytes came back", back.len());
}

#[tokio::test]
async fn a_refused_protocol_shows_at_the_first_read() {
    let ((client, _keep), (_server, streams)) = pair_over(4096).await;
    serve_echo(streams);
    let mut stream = client.open_stream("/test/none/1.0.0").await.unwrap();
    stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(
        stream.read_chunk(10).await,
        Err(StreamError::ProtocolNotSupported("/test/none/1.0.0".into()))
    );
}

#[tokio::test]
async fn a_refusal_is_not_overtaken_by_what_was_sent_behind_the_proposal() {
    let ((client, _keep), (_server, streams)) = pair_over(4096).await;
    serve_echo(streams);
    let refused = StreamError::ProtocolNotSupported("/test/none/1.0.0".into());
    // No line, and in the end more than the stream has credit for.
    for length in [2, 300, 200_000, 2_000_000] {
        let mut stream = client.open_stream("/test/none/1.0.0").await.unwrap();
        let payload = Bytes::from(vec![0xff; length]);
        let written = async {
            // Half of the send buffer at a time, so that the writer has to wait.
            for chunk in payload.chunks(500_000) {
                stream.write_chunk(payload.slice_ref(chunk)).await?;
            }
            stream.read_chunk(10).await
        };
        let outcome = tokio::time::timeout(Duration::from_secs(5), written).await;
        assert_eq!(outcome.unwrap(), Err(refused.clone()), "{length} bytes");
    }
    // Nothing of it is left on the connection.
    for _ in 0..100 {
        if client.stats().streams_outbound == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(client.stats().streams_outbound, 0);
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.write_last(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(&stream.read_chunk(10).await.unwrap().unwrap()[..], b"x");
}

#[tokio::test]
async fn negotiates_the_second_proposal() {
    let ((client, _keep), (_server, streams)) = pair_over(4096).await;
    serve_echo(streams);
    let mut stream = client
        .open_stream_negotiated(&["/test/none/1.0.0", ECHO])
        .await
        .unwrap();
    assert_eq!(&**stream.protocol(), ECHO);
    stream
        .write_last(Bytes::from_static(b"second"))
        .await
        .unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"second");
}

#[tokio::test]
async fn a_reset_carries_its_code() {
    let ((client, _keep), (_server, mut streams)) = pair_over(4096).await;
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    let accepted = streams.accept().await.unwrap();
    let accepted = accepted.negotiate(|_| Some(ECHO.into())).await.unwrap();
    accepted.reset(0x77);
    assert_eq!(stream.read_chunk(1).await, Err(StreamError::Reset(0x77)));
}

#[tokio::test]
async fn a_wrong_peer_is_refused_with_both_ids() {
    let (near, far) = tokio::io::duplex(4096);
    let (client, _) = config(1);
    let (server, server_id) = config(2);
    let (_, other) = config(3);
    let (dialled, accepted) = tokio::join!(
        upgrade_outbound(near, &client, Some(other)),
        upgrade_inbound(far, &server)
    );
    let error = dialled.unwrap_err();
    assert_eq!(error.peer_id_mismatch(), Some((other, server_id)));
    assert!(error.to_string().contains(&server_id.to_string()));
    assert!(matches!(accepted, Err(UpgradeError::Io { .. })));
}

#[tokio::test]
async fn close_reaches_the_other_side_and_its_streams() {
    let ((client, _keep), (server, mut streams)) = pair_over(4096).await;
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    streams.accept().await.unwrap();
    server.close(0);
    assert_eq!(
        server.closed().await,
        CloseReason::Local(LocalReason::Code(0))
    );
    assert_eq!(client.closed().await, CloseReason::Remote(0));
    assert!(stream.read_chunk(1).await.is_err());
    assert!(client.open_stream(ECHO).await.is_err());
    assert!(streams.accept().await.is_none());
}

#[tokio::test]
async fn dropping_every_handle_closes() {
    let ((client, keep), (server, _streams)) = pair_over(4096).await;
    drop((client, keep));
    assert_eq!(server.closed().await, CloseReason::Remote(0));
}

/// Upper-cases what arrives, from inside the connection task.
struct Shout;

impl InlineHandler for Shout {
    fn on_data(&mut self, chunk: Bytes) -> Result<Option<Bytes>, u32> {
        if chunk.contains(&b'!') {
            return Err(9);
        }
        Ok(Some(chunk.to_ascii_uppercase().into()))
    }
    fn on_finish(&mut self) -> Result<(), u32> {
        Ok(())
    }
}

#[tokio::test]
async fn inline_handlers_answer_finish_and_reset() {
    let ((client, _keep), (_server, mut streams)) = pair_over(4096).await;
    tokio::spawn(async move {
        while let Some(inbound) = streams.accept().await {
            let stream = inbound.negotiate(|_| Some(ECHO.into())).await.unwrap();
            stream.serve_inline(Box::new(Shout));
        }
    });
    let mut stream = client.open_stream(ECHO).await.unwrap();
    for word in ["one", "two"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        let mut back = [0; 3];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, word.to_ascii_uppercase().as_bytes());
    }
    stream.finish().unwrap();
    assert_eq!(stream.read_chunk(1).await, Ok(None));
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.write_all(b"!").await.unwrap();
    assert_eq!(stream.read_chunk(1).await, Err(StreamError::Reset(9)));
}

#[tokio::test]
async fn a_thousand_streams_pass_sixteen_at_a_time() {
    let ((client, _keep), (server, streams)) = pair_over(64 * 1024).await;
    serve_echo(streams);
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..16u8 {
        let client = client.clone();
        tasks.spawn(async move {
            for _ in 0..64 {
                let mut stream = client.open_stream(ECHO).await.unwrap();
                stream
                    .write_last(Bytes::from(vec![worker; 100]))
                    .await
                    .unwrap();
                let mut back = Vec::new();
                stream.read_to_end(&mut back).await.unwrap();
                assert_eq!(back, [worker; 100]);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    // Every stream is forgotten once both sides are done.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(client.stats().streams_outbound, 0);
    assert_eq!(server.stats().streams_inbound, 0);
}

#[tokio::test(start_paused = true)]
async fn a_silent_remote_costs_one_stage() {
    let (near, far) = tokio::io::duplex(4096);
    let (server, _) = config(2);
    let begun = tokio::time::Instant::now();
    let error = upgrade_inbound(far, &server).await.unwrap_err();
    assert!(matches!(
        error,
        UpgradeError::Timeout {
            stage: "security negotiation"
        }
    ));
    assert_eq!(begun.elapsed().as_secs(), 10);
    drop(near);
}

#[tokio::test(start_paused = true)]
async fn progress_does_not_extend_a_stage() {
    let (mut near, far) = tokio::io::duplex(4096);
    let (server, _) = config(2);
    tokio::spawn(async move {
        for byte in b"\x13/multistream/1.0.0\n\x07/noise\n" {
            if near.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let begun = tokio::time::Instant::now();
    let error = upgrade_inbound(far, &server).await.unwrap_err();
    assert!(matches!(error, UpgradeError::Timeout { .. }));
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_remote_that_reads_nothing_is_cut_off() {
    let ((client, _keep), (server, streams)) = pair_over(4096).await;
    // The server never accepts the stream; its window, then the pipe, fill up and stay full.
    drop(server);
    let held = streams;
    let mut stream = client.open_stream(ECHO).await.unwrap();
    for _ in 0..2 {
        stream
            .write_chunk(Bytes::from(vec![0; 100_000]))
            .await
            .unwrap();
    }
    // A live but unread stream is no reason to close: keepalive pings still pass.
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(client.close_reason(), None);
    drop(held);
}
