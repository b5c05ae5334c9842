//! The foreign stack dials, barewire listens: its command where that serves what is tried, else the library.

use std::time::Instant;

use barewire_node::StreamError;
use barewire_tests::{
    peers::Foreign,
    process::{Failure, Process, number, run, run_failing, text},
};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    CellResult, DEADLINE, Group, ensure, honest, own, private, protocol,
    we_dial::{Tells, check_identify, figures},
    what::What,
    with_strange_peer,
};

/// How often a cell repeats what fails only sometimes when it fails.
const REPEATED: usize = 40;

pub(crate) async fn cells(group: &Group<'_>, wanted: &[What]) -> Result<(), Failure> {
    let mut line = group.listen_line();
    // Echo gives back the first byte a holder waits for, so the command can stand in for one.
    line.extend(["--json", "--echo-protocol", protocol::HOLD].map(str::to_owned));
    let (mut listener, addr) = Process::listen(group.barewire(), line, DEADLINE).await?;
    for &what in wanted {
        group
            .cell(what, cell(group, what, &mut listener, &addr))
            .await;
    }
    if wanted.contains(&What::ListenerKilled) {
        return Ok(());
    }
    listener.stop(DEADLINE).await
}

async fn cell(group: &Group<'_>, what: What, listener: &mut Process, addr: &str) -> CellResult {
    match what {
        What::HalfClose | What::ResetByDialler | What::ResetByListener => {
            with_library(group, what).await
        }
        What::Honest => honest::load(group).await,
        What::EndBehindData => short_downloads(group, addr).await,
        What::Private => private::cell(group).await,
        What::WrongPeer => wrong_peer(group, addr).await,
        What::ListenerKilled => we_are_killed(group, listener, addr).await,
        What::DiallerKilled => peer_is_killed(group).await,
        _ => {
            let event = dial(group, what, addr).await?;
            match what {
                What::Identify => check_ours(group.stack, &event),
                What::EarlyMuxer => muxer(
                    &event,
                    group.combination.early_muxer(group.stack) == Some(true),
                ),
                What::LateMuxer => muxer(&event, false),
                _ => figures(what, &event),
            }
        }
    }
}

async fn dial(group: &Group<'_>, what: What, addr: &str) -> Result<Value, Failure> {
    let (command, event) = what.command();
    run(
        group.foreign(),
        group.dial_line(command, addr),
        event,
        DEADLINE,
    )
    .await
}

fn check_ours(stack: Foreign, event: &Value) -> CellResult {
    let said = check_identify(
        event,
        "barewire/",
        &[
            "/ipfs/id/1.0.0",
            "/ipfs/ping/1.0.0",
            "/perf/1.0.0",
            "/barewire/echo/1.0.0",
        ],
        Tells {
            // py-libp2p reads only the first of our messages, which has the record in the form that rust-libp2p reads.
            record: stack != Foreign::Py,
            observed: true,
        },
    )?;
    // What we saw against what the socket is; only go tells the latter, and a UDP socket has no address of its own.
    if stack == Foreign::Go
        && let Some(local) = event["local_addr"].as_str()
        && !local.starts_with("/ip4/0.0.0.0/")
    {
        let observed = text(event, "observed_addr")?;
        // go writes the short form of the same.
        ensure(local.replace("/wss", "/tls/ws") == observed, || {
            format!("observed {observed}, but the socket is {local}")
        })?;
    }
    Ok(said)
}

fn muxer(event: &Value, early: bool) -> CellResult {
    ensure(event["early_muxer"] == early, || {
        format!("early_muxer is {}", event["early_muxer"])
    })?;
    Ok(format!("early muxer: {early}"))
}

/// A short answer and its end leave together.
async fn short_downloads(group: &Group<'_>, addr: &str) -> CellResult {
    for _ in 0..REPEATED {
        let line = group.dial_line(&["perf", "--download", "100000"], addr);
        run(group.foreign(), line, "perf", DEADLINE).await?;
    }
    Ok(format!("{REPEATED} times 100 kB arrived whole"))
}

async fn wrong_peer(group: &Group<'_>, addr: &str) -> CellResult {
    let (actual, strange, wrong) = with_strange_peer(addr)?;
    let said = run_failing(
        group.foreign(),
        group.dial_line(&["ping"], &wrong),
        DEADLINE,
    )
    .await?;
    // js-libp2p and py-libp2p name neither, but what they refuse is the peer.
    let by_name = said.contains(&actual) || said.contains(&strange);
    let lower = said.to_lowercase();
    ensure(
        by_name || (lower.contains("peer") && !lower.contains("timed out")),
        || format!("failed for another reason: {said}"),
    )?;
    // The listener has to go on serving.
    let event = dial(group, What::Ping, addr).await?;
    Ok(format!(
        "they refuse; ping afterwards {:.0} us",
        number(&event, "p50_us")?
    ))
}

async fn we_are_killed(group: &Group<'_>, listener: &mut Process, addr: &str) -> CellResult {
    let mut holder = Process::start(group.foreign(), group.dial_line(&["hold"], addr))?;
    holder.expect("holding", DEADLINE).await?;
    listener.kill().await?;
    let lost = holder.expect("lost", DEADLINE).await?;
    holder.wait(DEADLINE).await?;
    Ok(format!("they say `{}`", text(&lost, "error")?))
}

/// What needs a handler that our command does not have.
async fn with_library(group: &Group<'_>, what: What) -> CellResult {
    let mut node = own::listen(group).await?;
    let event = dial(group, what, &node.addr).await?;
    let said = match what {
        What::HalfClose => figures(what, &event)?,
        What::ResetByDialler => {
            let cause = node.lost().await?;
            ensure(matches!(cause, StreamError::Reset(_)), || {
                format!("expected a reset, got `{cause}`")
            })?;
            format!("our handler got `{cause}`; the connection lived")
        }
        _ => "they saw the reset; the connection lived".to_owned(),
    };
    node.router.shutdown(DEADLINE).await;
    Ok(said)
}

async fn peer_is_killed(group: &Group<'_>) -> CellResult {
    let mut node = own::listen(group).await?;
    let mut holder = Process::start(group.foreign(), group.dial_line(&["hold"], &node.addr))?;
    holder.expect("holding", DEADLINE).await?;
    let start = Instant::now();
    holder.kill().await?;
    let cause = timeout(DEADLINE, node.lost()).await??;
    let after = start.elapsed().as_micros();
    node.router.shutdown(DEADLINE).await;
    Ok(format!("our handler got `{cause}` after {after} us"))
}
