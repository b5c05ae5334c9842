//! What a stream and a connection promise, over yamux with Noise or TLS, and over QUIC alike.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use barewire_transport::{CloseReason, InlineHandler, LocalReason, StreamError};
use bytes::Bytes;
use common::{ECHO, Over, pair, serve_echo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

macro_rules! over_all {
    ($($name:ident,)+) => {
        mod yamux {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Over::Yamux).await;
            })+
        }
        mod tls {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Over::Tls).await;
            })+
        }
        mod quic {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Over::Quic).await;
            })+
        }
    };
}

over_all! {
    echoes_with_half_close,
    echoes_bulk_through_a_narrow_pipe_without_loss,
    a_refused_protocol_shows_at_the_first_read,
    a_refusal_is_not_overtaken_by_what_was_sent_behind_the_proposal,
    a_reader_of_tiny_chunks_lets_others_run,
    negotiates_the_second_proposal,
    a_reset_carries_its_code,
    close_reaches_the_other_side_and_its_streams,
    dropping_every_handle_closes,
    inline_handlers_answer_finish_and_reset,
    a_thousand_streams_pass_sixteen_at_a_time,
    echoes_a_byte_at_a_time,
    an_empty_stream_is_seen_and_ended,
    an_answer_may_come_after_the_end,
    an_abandoned_stream_is_reset_not_ended,
    a_reader_that_leaves_stops_the_writer,
    a_reader_that_leaves_wakes_a_writer_that_waits,
    a_reset_of_one_half_ends_both,
    a_reader_that_does_not_read_stops_the_writer,
    an_unread_stream_does_not_stop_the_others,
    streams_of_both_sides_pass_at_once,
    a_cancelled_write_has_queued_nothing,
    a_whole_payload_is_taken_before_anybody_reads,
    what_is_finished_and_drained_is_not_cut_off,
    a_stream_left_before_its_answer_is_delivered,
    nobody_waits_for_what_the_remote_does_not_read,
}

/// Bytes that differ with their position and with `seed`.
fn pattern(seed: u32, len: u32) -> Bytes {
    (0..len)
        .map(|i| ((i ^ seed).wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

async fn echoes_with_half_close(over: Over) {
    let ((client, _keep), (_server, streams)) = pair(over, 4096).await;
    serve_echo(streams);
    assert!(client.info().early_muxer);
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"hello");
}

async fn echoes_bulk_through_a_narrow_pipe_without_loss(over: Over) {
    let ((client, _keep), (_server, streams)) = pair(over, 1000).await;
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

async fn a_refused_protocol_shows_at_the_first_read(over: Over) {
    let ((client, _keep), (_server, streams)) = pair(over, 4096).await;
    serve_echo(streams);
    let mut stream = client.open_stream("/test/none/1.0.0").await.unwrap();
    stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(
        stream.read_chunk(10).await,
        Err(StreamError::ProtocolNotSupported("/test/none/1.0.0".into()))
    );
}

async fn a_refusal_is_not_overtaken_by_what_was_sent_behind_the_proposal(over: Over) {
    let ((client, _keep), (_server, streams)) = pair(over, 4096).await;
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

/// Whoever reads without end leaves room for others on its thread.
async fn a_reader_of_tiny_chunks_lets_others_run(over: Over) {
    const CHUNKS: usize = 100_000;
    let ((client, _keep), (_server, mut streams)) = pair(over, 1 << 20).await;
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    let inbound = streams.accept().await.unwrap();
    let negotiated = inbound.negotiate(|id| (id == ECHO).then(|| ECHO.into()));
    let mut accepted = negotiated.await.unwrap();
    accepted.write_chunk(vec![7; CHUNKS].into()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let turns = Arc::new(AtomicUsize::new(0));
    let other = {
        let turns = Arc::clone(&turns);
        tokio::spawn(async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        })
    };
    for _ in 0..CHUNKS {
        assert_eq!(stream.read_chunk(1).await.unwrap().unwrap().len(), 1);
    }
    other.abort();
    let turns = turns.load(Ordering::Relaxed);
    assert!(turns >= CHUNKS / 1_000, "{turns} turns of another task");
}

async fn negotiates_the_second_proposal(over: Over) {
    let ((client, _keep), (_server, streams)) = pair(over, 4096).await;
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

async fn a_reset_carries_its_code(over: Over) {
    let ((client, _keep), (_server, mut streams)) = pair(over, 4096).await;
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    let accepted = streams.accept().await.unwrap();
    let accepted = accepted.negotiate(|_| Some(ECHO.into())).await.unwrap();
    accepted.reset(0x77);
    assert_eq!(stream.read_chunk(1).await, Err(StreamError::Reset(0x77)));
}

async fn close_reaches_the_other_side_and_its_streams(over: Over) {
    let ((client, _keep), (server, mut streams)) = pair(over, 4096).await;
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

async fn dropping_every_handle_closes(over: Over) {
    let ((client, keep), (server, _streams)) = pair(over, 4096).await;
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

async fn inline_handlers_answer_finish_and_reset(over: Over) {
    let ((client, _keep), (_server, mut streams)) = pair(over, 4096).await;
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

async fn a_thousand_streams_pass_sixteen_at_a_time(over: Over) {
    let ((client, _keep), (server, streams)) = pair(over, 64 * 1024).await;
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

async fn echoes_a_byte_at_a_time(over: Over) {
    let ((client, _keep), (_server, streams)) = pair(over, 4096).await;
    serve_echo(streams);
    let mut stream = client.open_stream(ECHO).await.unwrap();
    let sent = pattern(1, 300);
    for byte in &sent {
        stream.write_all(&[*byte]).await.unwrap();
    }
    stream.finish().unwrap();
    let mut back = Vec::new();
    while let Some(chunk) = stream.read_chunk(1).await.unwrap() {
        assert_eq!(chunk.len(), 1);
        back.extend_from_slice(&chunk);
    }
    assert_eq!(back, sent);
}

async fn an_empty_stream_is_seen_and_ended(over: Over) {
    let ((client, _keep), (_server, streams)) = pair(over, 4096).await;
    serve_echo(streams);
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.finish().unwrap();
    assert_eq!(stream.read_chunk(1).await, Ok(None));
    assert_eq!(stream.finish(), Err(StreamError::LocallyClosed));
}

async fn an_answer_may_come_after_the_end(over: Over) {
    let ((client, _keep), (_server, mut streams)) = pair(over, 4096).await;
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream
        .write_last(Bytes::from_static(b"question"))
        .await
        .unwrap();
    let inbound = streams.accept().await.unwrap();
    let mut there = inbound.negotiate(|_| Some(ECHO.into())).await.unwrap();
    let mut question = Vec::new();
    there.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    for part in [&b"an"[..], b"swer"] {
        there.write_chunk(part.into()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    there.finish().unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"answer");
}

async fn an_abandoned_stream_is_reset_not_ended(over: Over) {
    let ((client, _keep), (_server, mut streams)) = pair(over, 4096).await;
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream
        .write_chunk(Bytes::from_static(b"half a mess"))
        .await
        .unwrap();
    let inbound = streams.accept().await.unwrap();
    let mut there = inbound.negotiate(|_| Some(ECHO.into())).await.unwrap();
    drop(stream);
    let end = loop {
        match there.read_chunk(usize::MAX).await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end, Err(StreamError::Reset(0)));
}

async fn a_reader_that_leaves_stops_the_writer(over: Over) {
    let ((client, _keep), (_server, mut streams)) = pair(over, 4096).await;
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    let inbound = streams.accept().await.unwrap();
    let mut there = inbound.negotiate(|_| Some(ECHO.into())).await.unwrap();
    there.read_chunk(1).await.unwrap();
    there.stop(0x77);
    there.finish().unwrap();
    // Its own direction goes on until its end.
    assert_eq!(stream.read_chunk(1).await, Ok(None));
    let error = loop {
        let written = stream.write_chunk(Bytes::from(vec![0; 50_000]));
        match tokio::time::timeout(Duration::from_secs(10), written).await {
            Ok(Ok(())) => tokio::task::yield_now().await,
            Ok(Err(error)) => break error,
            Err(_) => panic!("the writer was not stopped"),
        }
    };
    assert_eq!(error, StreamError::Reset(0x77));
}

async fn a_reader_that_leaves_wakes_a_writer_that_waits(over: Over) {
    let ((client, _keep), (_server, mut streams)) = pair(over, 4096).await;
    if over != Over::Quic {
        // yamux has no frame for it: the reset comes when the reader has waited for the end.
        tokio::time::pause();
    }
    let stream = client.open_stream(ECHO).await.unwrap();
    let (mut read, mut write) = stream.split();
    let item = Bytes::from(vec![0; 100_000]);
    let full = async { while write.write_chunk(item.clone()).await.is_ok() {} };
    let patience = Duration::from_millis(300);
    assert!(tokio::time::timeout(patience, full).await.is_err());
    // Its half outlives the error: dropped it would reset the other one.
    let writing = tokio::spawn(async move { (write.write_chunk(item).await, write) });
    tokio::time::sleep(patience).await;
    assert!(!writing.is_finished(), "nothing has been read");
    let inbound = streams.accept().await.unwrap();
    let mut there = inbound.negotiate(|_| Some(ECHO.into())).await.unwrap();
    there.stop(0x77);
    there.finish().unwrap();
    // Its own direction has ended before.
    assert_eq!(read.read_chunk(1).await, Ok(None));
    let woken = tokio::time::timeout(Duration::from_secs(40), writing);
    let (written, _write) = woken.await.expect("the writer waits still").unwrap();
    assert_eq!(written, Err(StreamError::Reset(0x77)));
}

async fn a_reset_of_one_half_ends_both(over: Over) {
    let ((client, _keep), (_server, mut streams)) = pair(over, 4096).await;
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    let inbound = streams.accept().await.unwrap();
    let mut there = inbound.negotiate(|_| Some(ECHO.into())).await.unwrap();
    there.read_chunk(1).await.unwrap();
    let (mut read, write) = stream.split();
    let reading = tokio::spawn(async move { read.read_chunk(1).await });
    tokio::task::yield_now().await;
    write.reset(0x55);
    assert!(
        reading.await.unwrap().is_err(),
        "the waiting reader is told"
    );
    assert_eq!(there.read_chunk(1).await, Err(StreamError::Reset(0x55)));
    let error = loop {
        match there.write_chunk(Bytes::from_static(b"y")).await {
            Ok(()) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    assert_eq!(error, StreamError::Reset(0x55));
}

async fn a_reader_that_does_not_read_stops_the_writer(over: Over) {
    let ((client, _keep), (_server, mut streams)) = pair(over, 4096).await;
    let mut stream = client.open_stream(ECHO).await.unwrap();
    let item = pattern(3, 250_000);
    let mut sent = 0;
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(300), stream.write_chunk(item.clone())).await
    {
        written.unwrap();
        sent += item.len();
        assert!(sent < 256 << 20, "no bound");
    }
    let inbound = streams.accept().await.unwrap();
    let mut there = inbound.negotiate(|_| Some(ECHO.into())).await.unwrap();
    let reader = tokio::spawn(async move {
        let mut got = 0;
        while let Some(chunk) = there.read_chunk(usize::MAX).await.unwrap() {
            for byte in &chunk {
                assert_eq!(*byte, item[got % item.len()], "at {got}");
                got += 1;
            }
        }
        got
    });
    stream.finish().unwrap();
    assert_eq!(reader.await.unwrap(), sent);
}

async fn an_unread_stream_does_not_stop_the_others(over: Over) {
    let ((client, _keep), (_server, mut streams)) = pair(over, 65_536).await;
    let mut unread = client.open_stream("/test/unread").await.unwrap();
    while tokio::time::timeout(
        Duration::from_millis(200),
        unread.write_chunk(Bytes::from(vec![0; 250_000])),
    )
    .await
    .is_ok()
    {}
    let held = streams.accept().await.unwrap();
    let held = held.negotiate(|id| Some(id.into())).await.unwrap();
    serve_echo(streams);
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.write_last(pattern(4, 2_000_000)).await.unwrap();
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert!(back == pattern(4, 2_000_000));
    drop(held);
}

async fn streams_of_both_sides_pass_at_once(over: Over) {
    let ((client, of_server), (server, of_client)) = pair(over, 65_536).await;
    serve_echo(of_server);
    serve_echo(of_client);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64u32 {
        for connection in [client.clone(), server.clone()] {
            tasks.spawn(async move {
                let payload = pattern(n, 100_000);
                let mut stream = connection.open_stream(ECHO).await.unwrap();
                stream.write_last(payload.clone()).await.unwrap();
                let mut back = Vec::new();
                stream.read_to_end(&mut back).await.unwrap();
                assert!(back == payload);
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

async fn a_cancelled_write_has_queued_nothing(over: Over) {
    let ((client, _keep), (_server, streams)) = pair(over, 4096).await;
    let (mut read, mut write) = client.open_stream(ECHO).await.unwrap().split();
    let payload = pattern(6, 60_000_000);
    let sent = payload.clone();
    let writer = tokio::spawn(async move {
        let mut cancelled = 0;
        for chunk in sent.chunks(190_001) {
            loop {
                let written = write.write_chunk(sent.slice_ref(chunk));
                match tokio::time::timeout(Duration::from_micros(200), written).await {
                    Ok(written) => break written.unwrap(),
                    // Nobody reads yet.
                    Err(_) => cancelled += 1,
                }
            }
        }
        write.finish().unwrap();
        cancelled
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    serve_echo(streams);
    let mut at = 0;
    while let Some(chunk) = read.read_chunk(usize::MAX).await.unwrap() {
        assert!(payload[at..at + chunk.len()] == chunk, "differs near {at}");
        at += chunk.len();
    }
    assert_eq!(at, payload.len());
    let cancelled = writer.await.unwrap();
    println!("{over:?}: {cancelled} writes were cancelled");
    assert!(cancelled > 0);
}

async fn a_whole_payload_is_taken_before_anybody_reads(over: Over) {
    let ((client, _keep), (_server, streams)) = pair(over, 65_536).await;
    let payload = pattern(7, 40_000_000);
    let mut stream = client.open_stream(ECHO).await.unwrap();
    // The echo cannot end before we read, so a write that waited for it would wait for ever.
    let written = stream.write_last(payload.clone());
    tokio::time::timeout(Duration::from_secs(20), written)
        .await
        .unwrap()
        .unwrap();
    assert!(client.stats().bytes_queued > 0);
    serve_echo(streams);
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.unwrap();
    assert!(back == payload);
}

async fn what_is_finished_and_drained_is_not_cut_off(over: Over) {
    let ((client, _keep), (server, mut streams)) = pair(over, 65_536).await;
    let payload = pattern(8, 3_000_000);
    let sent = payload.clone();
    let sender = tokio::spawn(async move {
        let mut stream = client.open_stream(ECHO).await.unwrap();
        stream.write_last(sent).await.unwrap();
        drop(stream.split().1);
        tokio::time::timeout(Duration::from_secs(20), client.drained())
            .await
            .unwrap();
        assert_eq!(client.stats().bytes_queued, 0);
        client.close(0);
        let goodbye = tokio::time::timeout(Duration::from_millis(900), client.terminated());
        goodbye.await.expect("the goodbye has left");
    });
    let inbound = streams.accept().await.unwrap();
    let mut there = inbound.negotiate(|_| Some(ECHO.into())).await.unwrap();
    let mut got = Vec::new();
    while let Ok(Some(chunk)) = there.read_chunk(usize::MAX).await {
        got.extend_from_slice(&chunk);
    }
    assert!(got == payload, "{} bytes arrived", got.len());
    assert_eq!(server.closed().await, CloseReason::Remote(0));
    sender.await.unwrap();
}

async fn a_stream_left_before_its_answer_is_delivered(over: Over) {
    let ((client, _keep), (_server, mut streams)) = pair(over, 65_536).await;
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream
        .write_last(Bytes::from_static(b"for you"))
        .await
        .unwrap();
    drop(stream);
    let inbound = streams.accept().await.unwrap();
    let mut there = inbound.negotiate(|_| Some(ECHO.into())).await.unwrap();
    // The answer can be sent: nothing has told us meanwhile that nobody reads it.
    there.held_answer().send();
    let mut got = Vec::new();
    there.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"for you");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    drop(there);
    for _ in 0..2_000 {
        if client.stats().streams_outbound == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the stream is never forgotten");
}

async fn nobody_waits_for_what_the_remote_does_not_read(over: Over) {
    let ((client, _keep), (_server, mut streams)) = pair(over, 65_536).await;
    let (_read, mut write) = client.open_stream(ECHO).await.unwrap().split();
    write.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    let inbound = streams.accept().await.unwrap();
    let there = inbound.negotiate(|_| Some(ECHO.into())).await.unwrap();
    let (mut unread, _there) = there.split();
    unread.read_chunk(1).await.unwrap();
    unread.stop(0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    // The remote may have refused this already; it reads it in no case.
    drop(write.write_last(Bytes::from_static(b"y")).await);
    tokio::time::timeout(Duration::from_secs(10), client.drained())
        .await
        .unwrap();
    assert_eq!(client.stats().bytes_queued, 0);
}
