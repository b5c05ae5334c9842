//! An honest peer must never trip our limits: handshakes, streams and pings of a foreign stack at the same time, some
//! seconds long, while the listener tells everything that it refuses or ends.

use std::time::Instant;

use barewire_node::{CloseReason, Event, EventItem, LocalReason};
use barewire_tests::{peers::Foreign, process::run};
use tokio::time::Duration;

use crate::{CellResult, DEADLINE, Group, ensure, own};

/// Loads begin anew until this has passed.
const AT_LEAST: Duration = Duration::from_secs(3);

pub(crate) async fn load(group: &Group<'_>) -> CellResult {
    let node = own::listen(group).await?;
    let mut events = node.router.endpoint().events();
    let quic = group.combination.is_quic();
    let judge = tokio::spawn(async move {
        let (mut seen, mut bad) = (0_u64, Vec::new());
        while let Some(item) = events.next().await {
            match item {
                EventItem::Event(event) => {
                    seen += u64::from(matches!(event, Event::Connected { .. }));
                    if let Some(complaint) = complaint(&event, quic) {
                        bad.push(complaint);
                    }
                }
                EventItem::Missed(count) => bad.push(format!("{count} events were missed")),
            }
        }
        (seen, bad)
    });
    // Slow starters get less to do in one run.
    let scale = match group.stack {
        Foreign::Go | Foreign::Rust => 10,
        _ => 1,
    };
    let (handshakes, streams) = ((30 * scale).to_string(), (100 * scale).to_string());
    let loads: [&[&str]; 3] = [
        &[
            "bench",
            "handshakes",
            "--count",
            &handshakes,
            "--concurrency",
            "4",
        ],
        &[
            "bench",
            "streams",
            "--count",
            &streams,
            "--concurrency",
            "32",
            "--size",
            "1000",
        ],
        &["ping", "--count", "200"],
    ];
    let start = Instant::now();
    while start.elapsed() < AT_LEAST {
        let runs = loads.into_iter().zip(["handshakes", "streams", "ping"]);
        let runs = runs
            .filter(|(_, event)| group.stack != Foreign::Chromium || *event != "handshakes")
            .map(|(command, event)| {
                run(
                    group.foreign(),
                    group.dial_line(command, &node.addr),
                    event,
                    DEADLINE,
                )
            });
        futures::future::try_join_all(runs).await?;
    }
    // Whatever the peers' ends have left is over when the node is.
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.router.shutdown(DEADLINE).await;
    drop(node);
    let (seen, bad) = judge.await?;
    ensure(bad.is_empty(), || {
        format!("{} complaints, the first: {}", bad.len(), bad[0])
    })?;
    ensure(seen > 0, || "no connection was seen".to_owned())?;
    Ok(format!("{seen} connections, no complaint"))
}

/// What an honest peer must not cause.
fn complaint(event: &Event, quic: bool) -> Option<String> {
    match event {
        Event::Disconnected { reason, .. } => match reason {
            // It said goodbye, hung up, or its process is gone; the last is our own shutdown.
            CloseReason::Remote(_)
            | CloseReason::RemoteEnded
            | CloseReason::RemoteReset
            | CloseReason::Io(_)
            | CloseReason::Local(LocalReason::Shutdown) => None,
            // Over UDP a process that ends may just fall silent.
            CloseReason::KeepaliveTimeout if quic => None,
            reason => Some(format!("disconnected: {reason}")),
        },
        Event::InboundFailed { .. }
        | Event::AcceptFailed { .. }
        | Event::PingFailed { .. }
        | Event::HandlerPanicked { .. } => Some(format!("{event:?}")),
        _ => None,
    }
}
