//! The foreign stack dials, barewire listens: its command where that serves what is tested, else the library.

use std::{path::Path, time::Instant};

use barewire_tests::{
    peers::Foreign,
    process::{Failure, Process, number, run, run_failing, text},
};
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    CellResult, DEADLINE, Pair, REPEATED, Tally, ensure, own, protocol,
    we_dial::{download, ping_figures, rate, upload},
    with_strange_peer,
};

const DIRECTION: &str = "they-dial";

pub(crate) async fn cells(tally: &mut Tally, pair: &Pair) -> Result<(), Failure> {
    let (listener, addr) = Process::listen(
        &pair.barewire,
        ["listen", "--json", "--listen", "/ip4/127.0.0.1/tcp/0"],
        DEADLINE,
    )
    .await?;
    let addr = addr.as_str();
    let mut all = async |what: &str, args: &[&str], name: &str, check: fn(&Value) -> CellResult| {
        let mut line: Vec<&str> = args.to_vec();
        line.push(addr);
        tally
            .cell(pair, DIRECTION, what, async {
                check(&run(&pair.foreign, &line, name, DEADLINE).await?)
            })
            .await;
    };
    all("identify", &["identify"], "identify", check_identify).await;
    all("ping", &["ping", "--count", "100"], "ping", ping_figures).await;
    all("echo 10 MiB", &["echo", "--size", "10MiB"], "echo", |_| {
        Ok("10 MiB compared".to_owned())
    })
    .await;
    all(
        "64 parallel streams",
        &[
            "bench",
            "streams",
            "--count",
            "64",
            "--concurrency",
            "64",
            "--size",
            "64KiB",
        ],
        "streams",
        rate,
    )
    .await;
    all(
        "perf up 256 MiB",
        &["perf", "--upload", "256MiB"],
        "perf",
        upload,
    )
    .await;
    all(
        "perf down 256 MiB",
        &["perf", "--download", "256MiB"],
        "perf",
        download,
    )
    .await;
    if pair.stack == Foreign::Go {
        all("early muxer", &["identify"], "identify", |event| {
            muxer(event, true)
        })
        .await;
        all(
            "multistream muxer",
            &["identify", "--no-early-muxer"],
            "identify",
            |event| muxer(event, false),
        )
        .await;
    } else {
        all("multistream muxer", &["identify"], "identify", |event| {
            muxer(event, false)
        })
        .await;
    }
    let whole = short_downloads(&pair.foreign, addr);
    tally.cell(pair, DIRECTION, "end behind data", whole).await;
    tally
        .cell(pair, DIRECTION, "wrong peer id", wrong_peer(pair, addr))
        .await;
    tally
        .cell(
            pair,
            DIRECTION,
            "we are killed mid-stream",
            we_are_killed(pair),
        )
        .await;
    listener.stop(DEADLINE).await?;

    tally
        .cell(pair, DIRECTION, "half close", half_close(&pair.foreign))
        .await;
    tally
        .cell(
            pair,
            DIRECTION,
            "reset by us",
            reset(&pair.foreign, "remote"),
        )
        .await;
    tally
        .cell(
            pair,
            DIRECTION,
            "reset by them",
            reset(&pair.foreign, "local"),
        )
        .await;
    tally
        .cell(
            pair,
            DIRECTION,
            "peer killed mid-stream",
            peer_is_killed(&pair.foreign),
        )
        .await;
    Ok(())
}

/// What each side must tell the other: who it is, what it serves, where it sees the other, and a record that verifies.
pub(crate) fn check_identify(event: &Value) -> CellResult {
    let agent = text(event, "agent")?;
    ensure(agent.starts_with("barewire"), || {
        format!("the agent is {agent}")
    })?;
    let protocols = event["protocols"]
        .as_array()
        .ok_or("no list of protocols")?;
    for id in [
        "/ipfs/id/1.0.0",
        "/ipfs/ping/1.0.0",
        "/perf/1.0.0",
        "/barewire/echo/1.0.0",
    ] {
        ensure(protocols.iter().any(|known| known == id), || {
            format!("{id} is not told: {event}")
        })?;
    }
    let listen = event["listen_addrs"]
        .as_array()
        .ok_or("no list of addresses")?;
    ensure(!listen.is_empty(), || {
        format!("no address is told: {event}")
    })?;
    let observed = text(event, "observed_addr")?;
    let port = observed
        .strip_prefix("/ip4/127.0.0.1/tcp/")
        .and_then(|port| port.parse::<u16>().ok());
    ensure(port.is_some_and(|port| port != 0), || {
        format!("the observed address is {observed}")
    })?;
    if let Some(local) = event["local_addr"].as_str() {
        ensure(local == observed, || {
            format!("observed {observed}, but the socket is {local}")
        })?;
    }
    ensure(event["signed_record"] == true, || {
        format!("no signed record was accepted: {event}")
    })?;
    Ok(format!(
        "{agent}, signed record accepted, observed {observed}"
    ))
}

fn muxer(event: &Value, early: bool) -> CellResult {
    ensure(event["early_muxer"] == early, || {
        format!("early_muxer is {}", event["early_muxer"])
    })?;
    Ok(format!("early muxer: {early}"))
}

/// A short answer and its end leave together; go-yamux, told of the end in the header of the last data, may forget the data.
async fn short_downloads(foreign: &Path, addr: &str) -> CellResult {
    for _ in 0..REPEATED {
        run(
            foreign,
            ["perf", "--download", "100000", addr],
            "perf",
            DEADLINE,
        )
        .await?;
    }
    Ok(format!("{REPEATED} times 100 kB arrived whole"))
}

async fn wrong_peer(pair: &Pair, addr: &str) -> CellResult {
    let (actual, strange, wrong) = with_strange_peer(addr)?;
    let said = run_failing(&pair.foreign, ["ping", &wrong], DEADLINE).await?;
    ensure(said.contains(&actual) || said.contains(&strange), || {
        format!("failed for another reason: {said}")
    })?;
    // The listener has to go on serving.
    let event = run(&pair.foreign, ["ping", addr], "ping", DEADLINE).await?;
    Ok(format!(
        "they refuse; ping afterwards {:.0} us",
        number(&event, "p50_us")?
    ))
}

async fn we_are_killed(pair: &Pair) -> CellResult {
    // Echo gives back the first byte a holder waits for, so the command can stand in for one.
    let line = [
        "listen",
        "--json",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--echo-protocol",
        protocol::HOLD,
    ];
    let (mut listener, addr) = Process::listen(&pair.barewire, line, DEADLINE).await?;
    let mut holder = Process::start(&pair.foreign, ["hold", &addr])?;
    holder.expect("holding", DEADLINE).await?;
    listener.kill().await?;
    let lost = holder.expect("lost", DEADLINE).await?;
    holder.wait(DEADLINE).await?;
    Ok(format!("they say `{}`", text(&lost, "error")?))
}

async fn half_close(foreign: &Path) -> CellResult {
    let node = own::listen().await?;
    let event = run(
        foreign,
        ["half-close", "--size", "1MiB", &node.addr],
        "half_close",
        DEADLINE,
    )
    .await?;
    shut_down(node).await;
    Ok(format!(
        "{} bytes came back after their end",
        number(&event, "bytes")?
    ))
}

async fn reset(foreign: &Path, by: &str) -> CellResult {
    let mut node = own::listen().await?;
    run(
        foreign,
        ["reset", "--by", by, &node.addr],
        "reset",
        DEADLINE,
    )
    .await?;
    let said = if by == "local" {
        let cause = timeout(DEADLINE, node.ends.recv())
            .await?
            .ok_or("the node is gone")?;
        ensure(
            matches!(cause, barewire_node::StreamError::Reset(_)),
            || format!("expected a reset, got `{cause}`"),
        )?;
        format!("our handler got `{cause}`; the connection lived")
    } else {
        "they saw the reset; the connection lived".to_owned()
    };
    shut_down(node).await;
    Ok(said)
}

async fn peer_is_killed(foreign: &Path) -> CellResult {
    let mut node = own::listen().await?;
    let mut holder = Process::start(foreign, ["hold", &node.addr])?;
    holder.expect("holding", DEADLINE).await?;
    let start = Instant::now();
    holder.kill().await?;
    let cause = timeout(DEADLINE, node.ends.recv())
        .await?
        .ok_or("the node is gone")?;
    let after = start.elapsed().as_micros();
    shut_down(node).await;
    Ok(format!("our handler got `{cause}` after {after} us"))
}

async fn shut_down(node: own::Node) {
    node.router.shutdown(DEADLINE).await;
}
