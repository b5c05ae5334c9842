//! Connections between two upgraded ends, over memory pipes and TCP.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod common;

use std::time::Duration;

use barewire_security::tls::{self, CertificateError};
use barewire_transport::{
    ConnectError, StreamError, UpgradeError, upgrade_inbound, upgrade_outbound,
};
use bytes::Bytes;
use common::{ECHO, Over, config, dial_quic, pair};
use tokio::io::AsyncWriteExt;

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
async fn a_wrong_peer_is_refused_over_quic_too() {
    let ((_, server_id), (_, other)) = (config(2), config(3));
    let (dialled, accepted) = dial_quic(Some(other)).await;
    let ConnectError::Upgrade(error) = dialled.unwrap_err() else {
        panic!("the handshake has begun");
    };
    assert_eq!(error.peer_id_mismatch(), Some((other, server_id)));
    assert_eq!(
        error,
        UpgradeError::Tls(tls::Error::Certificate(CertificateError::PeerIdMismatch {
            expected: other,
            found: server_id
        }))
    );
    // It is told by an alert.
    assert!(
        matches!(&accepted, Err(UpgradeError::Tls(tls::Error::Alert(_)))),
        "{accepted:?}"
    );
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
    let ((client, _keep), (server, streams)) = pair(Over::Yamux, 4096).await;
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

/// Also when this side has ended its direction already: the other one is still open.
#[tokio::test]
async fn a_finished_stream_can_be_reset() {
    let ((client, _keep), (_server, mut streams)) = pair(Over::Yamux, 4096).await;
    let mut stream = client.open_stream(ECHO).await.unwrap();
    stream.write_chunk(Bytes::from_static(b"x")).await.unwrap();
    let inbound = streams.accept().await.unwrap();
    let negotiated = inbound.negotiate(|id| (id == ECHO).then(|| ECHO.into()));
    let mut accepted = negotiated.await.unwrap();
    accepted.finish().unwrap();
    accepted.reset(0x1004);
    assert_eq!(stream.read_chunk(10).await, Err(StreamError::Reset(0x1004)));
}
