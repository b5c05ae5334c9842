//! barewire dials, the foreign stack listens: our command where that does what is tried, else the library.

use std::time::Instant;

use barewire_node::{Multiaddr, StreamError, protocols::ping};
use barewire_tests::{
    peers::Foreign,
    process::{Failure, Process, number, run, run_failing, text},
};
use bytes::Bytes;
use rand::Rng;
use serde_json::Value;
use tokio::time::timeout;

use crate::{
    CellResult, DEADLINE, Group, ensure, own, private, protocol, what::What, with_strange_peer,
};

/// How often a cell repeats what fails only sometimes when it fails.
const REPEATED: usize = 40;

pub(crate) async fn cells(group: &Group<'_>, wanted: &[What]) -> Result<(), Failure> {
    let (mut listener, addr) =
        Process::listen(group.foreign(), group.listen_line(), DEADLINE).await?;
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
        What::HalfClose => half_close(group, addr).await,
        What::ResetByListener => reset_by_them(group, addr).await,
        What::ResetByDialler => reset_by_us(group, listener, addr).await,
        What::EarlyMuxer => {
            let early = group.combination.early_muxer(group.stack);
            muxer(group, addr, early == Some(true)).await
        }
        What::LateMuxer => {
            let mut line = group.listen_line();
            line.push("--no-early-muxer".to_owned());
            let (listener, addr) = Process::listen(group.foreign(), line, DEADLINE).await?;
            let said = muxer(group, &addr, false).await?;
            listener.stop(DEADLINE).await?;
            Ok(said)
        }
        What::Private => private::cell(group).await,
        What::WrongPeer => wrong_peer(group, addr).await,
        What::ListenerKilled => killed(group, listener, addr).await,
        _ => {
            let (command, event) = what.command();
            let line = group.dial_line(command, addr);
            let event = run(group.barewire(), line, event, DEADLINE).await?;
            match what {
                What::Identify => check_identity(group, &event),
                _ => figures(what, &event),
            }
        }
    }
}

/// What the event of a measuring command has to hold.
pub(crate) fn figures(what: What, event: &Value) -> CellResult {
    match what {
        What::Streams => rate(event),
        What::Echo => Ok(format!("{:.2} s", number(event, "secs")?)),
        What::HalfClose => Ok(format!(
            "{} bytes came back after their end",
            number(event, "bytes")?
        )),
        What::PerfUp => speed(event, "upload_bytes", "upload_s"),
        What::PerfDown => speed(event, "download_bytes", "download_s"),
        _ => ping_figures(event),
    }
}

fn ping_figures(event: &Value) -> CellResult {
    ensure(number(event, "count")? >= 1.0, || {
        format!("no pings in {event}")
    })?;
    Ok(format!("p50 {:.0} us", number(event, "p50_us")?))
}

fn rate(event: &Value) -> CellResult {
    ensure(number(event, "count")? == 64.0, || {
        format!("not 64 streams in {event}")
    })?;
    Ok(format!("{:.0} per s", number(event, "per_s")?))
}

fn speed(event: &Value, bytes: &str, secs: &str) -> CellResult {
    let count = number(event, bytes)?;
    ensure(count == f64::from(256 << 20), || {
        format!("not 256 MiB in {event}")
    })?;
    Ok(format!(
        "{:.0} MiB/s",
        count / number(event, secs)? / f64::from(1 << 20)
    ))
}

/// What they must tell us: who they are, what they serve, where they see us, and a record that verifies.
fn check_identity(group: &Group<'_>, event: &Value) -> CellResult {
    let stack = group.stack;
    let agent = match stack {
        // py-libp2p cannot be told what to call itself.
        Foreign::Py => "py-libp2p/".to_owned(),
        stack => format!("barewire-peer-{stack}/"),
    };
    check_identify(
        event,
        &agent,
        &["/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/barewire/echo/1.0.0"],
        Tells {
            record: true,
            // py-libp2p does not know from where a WebSocket comes.
            observed: stack != Foreign::Py || !group.combination.name.starts_with("ws"),
        },
    )
}

/// What not everybody tells.
#[derive(Clone, Copy)]
pub(crate) struct Tells {
    /// A signed record that is accepted.
    pub(crate) record: bool,
    /// The address at which the other side is seen.
    pub(crate) observed: bool,
}

/// What each side must tell the other: who it is, what it serves, where it sees the other, and a record that verifies.
pub(crate) fn check_identify(
    event: &Value,
    agent: &str,
    serves: &[&str],
    tells: Tells,
) -> CellResult {
    let told = text(event, "agent")?;
    ensure(told.contains(agent), || format!("the agent is {told}"))?;
    let protocols = event["protocols"]
        .as_array()
        .ok_or("no list of protocols")?;
    for id in serves {
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
    ensure(!tells.record || event["signed_record"] == true, || {
        format!("no signed record was accepted: {event}")
    })?;
    let accepted = if tells.record {
        ", signed record accepted"
    } else {
        ""
    };
    if !tells.observed {
        return Ok(format!("{told}{accepted}"));
    }
    let observed = text(event, "observed_addr")?;
    let port = ["/ip4/127.0.0.1/tcp/", "/ip4/127.0.0.1/udp/"]
        .iter()
        .find_map(|start| observed.strip_prefix(start))
        .and_then(|rest| rest.split('/').next())
        .and_then(|port| port.parse::<u16>().ok());
    ensure(port.is_some_and(|port| port != 0), || {
        format!("the observed address is {observed}")
    })?;
    Ok(format!("{told}{accepted}, observed {observed}"))
}

/// Data and end handed over together, often: some receivers take an end for the truth before they have read all.
async fn half_close(group: &Group<'_>, addr: &str) -> CellResult {
    let endpoint = own::endpoint(group).await?;
    let connection = endpoint.connect(addr.parse::<Multiaddr>()?).await?;
    let mut payload = vec![0; 100_000];
    rand::rng().fill_bytes(&mut payload);
    let payload = Bytes::from(payload);
    for turn in 0..REPEATED {
        let mut stream = connection.open_stream(protocol::HALF_CLOSE).await?;
        stream.write_last(payload.clone()).await?;
        let back = timeout(DEADLINE, own::read_all(&mut stream, 1 << 20)).await??;
        ensure(back == payload, || {
            format!("{} other bytes came back in turn {turn}", back.len())
        })?;
    }
    Ok(format!("{REPEATED} times 100 kB came back after our end"))
}

async fn reset_by_them(group: &Group<'_>, addr: &str) -> CellResult {
    let endpoint = own::endpoint(group).await?;
    let connection = endpoint.connect(addr.parse::<Multiaddr>()?).await?;
    let mut stream = connection.open_stream(protocol::RESET).await?;
    stream.write_chunk(Bytes::from_static(b"reset")).await?;
    let code = match timeout(DEADLINE, own::read_all(&mut stream, 1 << 20)).await? {
        Err(StreamError::Reset(code)) => code,
        other => return Err(format!("expected a reset, got {other:?}").into()),
    };
    let rtt = ping::ping(&connection, DEADLINE).await?;
    Ok(format!(
        "code {code:#x}; the connection lives: ping {} us",
        rtt.as_micros()
    ))
}

async fn reset_by_us(group: &Group<'_>, listener: &mut Process, addr: &str) -> CellResult {
    let endpoint = own::endpoint(group).await?;
    let connection = endpoint.connect(addr.parse::<Multiaddr>()?).await?;
    own::open_hold(&connection).await?.reset(0);
    let lost = listener.expect("lost", DEADLINE).await?;
    let rtt = ping::ping(&connection, DEADLINE).await?;
    Ok(format!(
        "they say `{}`; the connection lives: ping {} us",
        text(&lost, "error")?,
        rtt.as_micros()
    ))
}

async fn wrong_peer(group: &Group<'_>, addr: &str) -> CellResult {
    let (actual, strange, wrong) = with_strange_peer(addr)?;
    let said = run_failing(
        group.barewire(),
        group.dial_line(&["ping"], &wrong),
        DEADLINE,
    )
    .await?;
    ensure(said.contains(&actual) && said.contains(&strange), || {
        format!("the error names not both {actual} and {strange}: {said}")
    })?;
    Ok(said.trim().to_owned())
}

async fn killed(group: &Group<'_>, listener: &mut Process, addr: &str) -> CellResult {
    let endpoint = own::endpoint(group).await?;
    let connection = endpoint.connect(addr.parse::<Multiaddr>()?).await?;
    let mut stream = own::open_hold(&connection).await?;
    let start = Instant::now();
    listener.kill().await?;
    let Err(cause) = timeout(DEADLINE, own::read_all(&mut stream, 1 << 20)).await? else {
        return Err("the stream ended cleanly".into());
    };
    let reason = timeout(DEADLINE, connection.closed()).await?;
    Ok(format!(
        "stream: `{cause}`, connection: `{reason}`, after {} us",
        start.elapsed().as_micros()
    ))
}

async fn muxer(group: &Group<'_>, addr: &str, early: bool) -> CellResult {
    let endpoint = own::endpoint(group).await?;
    let connection = endpoint.connect(addr.parse::<Multiaddr>()?).await?;
    let info = connection.info();
    ensure(info.early_muxer == early, || {
        format!("early_muxer is {}", info.early_muxer)
    })?;
    ensure(info.muxer == "/yamux/1.0.0", || {
        format!("the muxer is {}", info.muxer)
    })?;
    let rtt = ping::ping(&connection, DEADLINE).await?;
    Ok(format!(
        "{} {}, early muxer: {early}, ping {} us",
        info.security,
        info.muxer,
        rtt.as_micros()
    ))
}
