//! Handlers that misbehave, streams that say nothing, and the end of a node.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::{
    panic::resume_unwind,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use barewire_node::{
    Connection, Event, EventItem, ListenError, Router, RouterError, Stream, StreamError,
    protocols::{echo, identify, perf, ping},
};
use bytes::Bytes;
use common::*;

const PANICS: &str = "/test/panics/1";
const PANICS_LATER: &str = "/test/panics-later/1";
const SLOW: &str = "/test/slow/1";

async fn panics(_: Stream, _: Connection) {
    // Without the report of a panic, which would look like a failure.
    resume_unwind(Box::new("always"));
}

async fn panics_later(mut stream: Stream, _: Connection) {
    let first = stream.read_chunk(1).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    resume_unwind(Box::new(format!("after {first:?}")));
}

/// Answers half a second late.
async fn slow(mut stream: Stream, _: Connection) {
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answer = Bytes::from(vec![7; 3_000_000]);
    stream.write_chunk(answer).await.unwrap();
    stream.finish().unwrap();
}

/// Streams in the hands of [`never`].
static NEVER: AtomicUsize = AtomicUsize::new(0);

async fn never(_stream: Stream, _: Connection) {
    NEVER.fetch_add(1, Ordering::Relaxed);
    std::future::pending().await
}

#[tokio::test]
async fn a_panicking_handler_ends_only_its_stream() {
    let router = Router::builder(endpoint(quick()).await)
        .accept(PANICS, panics)
        .accept(PANICS_LATER, panics_later)
        .accept(echo::PROTOCOL, echo::Echo)
        .spawn()
        .unwrap();
    let addr = listen(router.endpoint(), "/ip4/127.0.0.1/tcp/0").await;
    let mut events = router.endpoint().events();
    let (_client, connection) = client_of(&addr).await;
    let mut beside = connection.open_stream(echo::PROTOCOL).await.unwrap();
    beside
        .write_chunk(Bytes::from_static(b"one"))
        .await
        .unwrap();
    assert_eq!(&beside.read_chunk(9).await.unwrap().unwrap()[..], b"one");
    for protocol in [PANICS, PANICS_LATER] {
        let mut stream = connection.open_stream(protocol).await.unwrap();
        stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
        let end = soon("the reset", stream.read_chunk(1)).await;
        assert!(
            matches!(end, Err(StreamError::Reset(_))),
            "{protocol}: {end:?}"
        );
        loop {
            if let Some(EventItem::Event(Event::HandlerPanicked { protocol: p, .. })) =
                soon("the event", events.next()).await
            {
                assert_eq!(&*p, protocol);
                break;
            }
        }
    }
    beside
        .write_chunk(Bytes::from_static(b"two"))
        .await
        .unwrap();
    assert_eq!(&beside.read_chunk(9).await.unwrap().unwrap()[..], b"two");
    echo::round_trip(&connection, echo::PROTOCOL, Bytes::from_static(b"three"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_handler_that_neither_reads_nor_writes_holds_no_answer_back() {
    const IDLE: &str = "/test/idle/1";
    let idle = |stream: Stream, _: Connection| async move {
        std::future::pending::<()>().await;
        drop(stream);
    };
    let router = Router::builder(endpoint(quick()).await)
        .accept(IDLE, idle)
        .spawn()
        .unwrap();
    let addr = listen(router.endpoint(), "/ip4/127.0.0.1/tcp/0").await;
    let (_client, connection) = client_of(&addr).await;
    let negotiated = connection.open_stream_negotiated(&["/test/none/1", IDLE]);
    let stream = soon("the answer", negotiated).await.unwrap();
    assert_eq!(&**stream.protocol(), IDLE);
    // The same where the proposal is optimistic and nothing but it is sent.
    let mut stream = connection.open_stream(IDLE).await.unwrap();
    soon("the answer", stream.negotiate()).await.unwrap();
}

#[tokio::test]
async fn shutdown_lets_handlers_end_and_their_bytes_leave() {
    let router = Router::builder(endpoint(quick()).await)
        .accept(SLOW, slow)
        .spawn()
        .unwrap();
    let addr = listen(router.endpoint(), "/ip4/127.0.0.1/tcp/0").await;
    let (client, connection) = client_of(&addr).await;
    let mut stream = connection.open_stream(SLOW).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"go")).await.unwrap();
    let read = tokio::spawn(async move {
        let mut received = 0;
        while let Some(chunk) = stream.read_chunk(usize::MAX).await? {
            received += chunk.len();
        }
        Ok::<_, StreamError>(received)
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    let report = router.shutdown(SOON).await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.connections_closed, 1);
    assert!(
        began.elapsed() >= Duration::from_millis(300),
        "waited for the handler"
    );
    assert_eq!(read.await.unwrap().unwrap(), 3_000_000);
    soon("the goodbye", connection.closed()).await;
    assert!(matches!(
        router.endpoint().listen("/memory/0".parse().unwrap()).await,
        Err(ListenError::ShuttingDown)
    ));
    assert!(client.connect(addr).await.is_err());
}

#[tokio::test]
async fn shutdown_reports_what_it_cut_off() {
    let router = Router::builder(endpoint(quick()).await)
        .accept("/test/never/1", never)
        .spawn()
        .unwrap();
    let addr = listen(router.endpoint(), "/ip4/127.0.0.1/tcp/0").await;
    let (_client, connection) = client_of(&addr).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = connection.open_stream("/test/never/1").await.unwrap();
        stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
        streams.push(stream);
    }
    eventually("the handlers", || NEVER.load(Ordering::Relaxed) == 3).await;
    let (_idle, _idle_connection) = client_of(&addr).await;
    eventually("both connections", || {
        router.endpoint().connections().len() == 2
    })
    .await;
    let began = Instant::now();
    let report = router.shutdown(Duration::from_millis(300)).await;
    let took = began.elapsed();
    assert_eq!(report.handlers_cut, 3, "{report:?}");
    assert_eq!(report.connections_cut, 1, "{report:?}");
    assert_eq!(report.connections_closed, 1, "{report:?}");
    assert!(!report.is_clean());
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(2),
        "{took:?}"
    );
    soon("the end", connection.closed()).await;
}

#[tokio::test]
async fn shutdown_of_an_idle_node_is_immediate() {
    let (router, addr) = node().await;
    let (client, connection) = client_of(&addr).await;
    ping::ping(&connection, SOON).await.unwrap();
    // A ping stream that stays open must not hold it up.
    let mut pinger = ping::Pinger::new(&connection, SOON);
    pinger.ping().await.unwrap();
    let began = Instant::now();
    let report = router.shutdown(SOON).await;
    assert!(report.is_clean(), "{report:?}");
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    assert!(client.shutdown(SOON).await.is_clean());
}

#[tokio::test]
async fn streams_that_agree_on_nothing_are_bounded_in_number_and_time() {
    let mut config = quick();
    config.max_negotiating_streams = 8;
    config.negotiation_timeout = Duration::from_secs(2);
    let (_router, addr) = node_with(config).await;
    let mut peer = RawPeer::dial(&addr).await;
    // Each stream sends half of the multistream header. Eight may wait; twelve are refused at once.
    for n in 0..20 {
        peer.send_frame(DATA, SYN, 2 * n + 1, b"\x13/multi").await;
    }
    let began = Instant::now();
    let mut at = Vec::new();
    while at.len() < 20 {
        let frame = soon("a reset", peer.next_frame()).await;
        if frame.flags & RST != 0 {
            at.push(began.elapsed());
        }
    }
    println!("12 resets after {:?}, 20 after {:?}", at[11], at[19]);
    assert!(at[11] < Duration::from_millis(1_900), "{at:?}");
    assert!(at[12] >= Duration::from_millis(1_900), "{at:?}");
    assert!(at[19] < Duration::from_secs(6), "{at:?}");
    // The connection is well.
    peer.send_frame(
        DATA,
        SYN,
        101,
        b"\x13/multistream/1.0.0\n\x15/barewire/echo/1.0.0\nhello",
    )
    .await;
    loop {
        let frame = soon("the echo", peer.next_frame()).await;
        if frame.id == 101 && frame.body.ends_with(b"hello") {
            break;
        }
    }
}

#[tokio::test]
async fn a_router_refuses_bad_handlers() {
    let endpoint = endpoint(quick()).await;
    let spawn = |protocols: &[&str]| {
        let builder = Router::builder(endpoint.clone());
        protocols
            .iter()
            .fold(builder, |builder, p| builder.accept(*p, echo::Echo))
            .spawn()
            .unwrap_err()
    };
    assert_eq!(spawn(&["/a", "/a"]), RouterError::Duplicate("/a".into()));
    assert_eq!(
        spawn(&[identify::PROTOCOL]),
        RouterError::Duplicate(identify::PROTOCOL.into())
    );
    assert_eq!(spawn(&["a"]), RouterError::InvalidProtocol("a".into()));
    let long: Vec<_> = (0..100)
        .map(|n| format!("/{n}/{}", "x".repeat(100)))
        .collect();
    let long: Vec<_> = long.iter().map(String::as_str).collect();
    assert_eq!(spawn(&long), RouterError::TooManyProtocols);
}

#[tokio::test]
async fn dropping_the_last_endpoint_closes_its_connections() {
    let (router, addr) = node().await;
    let (_client, connection) = client_of(&addr).await;
    perf::measure(&connection, 10, 10, |_| {}).await.unwrap();
    drop(router);
    soon("the close", connection.closed()).await;
}

/// Each stops reading as it ends, and the node may hear of both at once: such streams must not count for ever.
#[tokio::test]
async fn any_number_of_streams_may_follow_each_other_over_quic() {
    let router = Router::builder(endpoint(quick()).await)
        .accept(echo::PROTOCOL, echo::Echo)
        .spawn()
        .unwrap();
    let server = router.endpoint().clone();
    let addr = "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap();
    let addr = server.listen(addr).await.unwrap();
    let client = endpoint(quick()).await;
    let connection = client.connect(addr).await.unwrap();
    let streams = async {
        for _ in 0..300 {
            ping::ping(&connection, Duration::from_secs(5))
                .await
                .unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), streams)
        .await
        .expect("streams that have ended are forgotten");
}
