//! `barewire resolve` and `barewire dial`.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use barewire_base::{Multiaddr, PeerId};
use barewire_node::{
    CircuitLimit, DialError, Endpoint,
    dial::{DialEvent, DialStep, DialTarget, Resolution},
};
use serde_json::{Value, json};

use crate::{
    args::{DialArgs, ResolveArgs, Whom},
    failure::Failure,
    listen::endpoint,
    output::{self, printable, say, tenth},
};

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Shows what an address stands for.
pub(crate) async fn resolve(args: &ResolveArgs) -> Result<(), Failure> {
    let endpoint = endpoint(&args.node).await?;
    let resolution = endpoint.resolve(&args.addr).await;
    let mut value = as_json(&resolution);
    value["event"] = json!("resolve");
    value["addr"] = json!(args.addr.to_string());
    output::event(args.node.json, &value, || table(&resolution));
    endpoint.shutdown(GOODBYE).await;
    match resolution.error() {
        Some(error) => Err(Failure(format!("{}: {error}", args.addr))),
        None => Ok(()),
    }
}

fn as_json(resolution: &Resolution) -> Value {
    let lookups = resolution.lookups.iter().map(|lookup| {
        json!({
            "name": lookup.name,
            "kind": lookup.kind.to_string(),
            "ms": ms(lookup.took),
            "records": lookup.outcome.as_ref().ok(),
            "error": lookup.outcome.as_ref().err().map(ToString::to_string),
        })
    });
    let dropped = resolution
        .dropped
        .iter()
        .map(|dropped| json!({"entry": dropped.entry, "why": dropped.why.to_string()}));
    let addresses = resolution.addresses.iter().map(ToString::to_string);
    json!({
        "addresses": addresses.collect::<Vec<_>>(),
        "lookups": lookups.collect::<Vec<_>>(),
        "dropped": dropped.collect::<Vec<_>>(),
        "dropped_more": resolution.dropped_more,
    })
}

fn table(resolution: &Resolution) -> String {
    let mut lines = Vec::new();
    for lookup in &resolution.lookups {
        let outcome = match &lookup.outcome {
            Ok(records) => format!("{records} record(s)"),
            Err(error) => error.to_string(),
        };
        lines.push(format!(
            "asked    {:<4} {} in {} ms: {outcome}",
            lookup.kind.to_string(),
            printable(&lookup.name),
            ms(lookup.took)
        ));
    }
    for dropped in &resolution.dropped {
        lines.push(format!(
            "dropped  {}: {}",
            printable(&dropped.entry),
            dropped.why
        ));
    }
    if resolution.dropped_more > 0 {
        lines.push(format!("dropped  {} more", resolution.dropped_more));
    }
    for addr in &resolution.addresses {
        lines.push(format!("address  {}", printable(&addr.to_string())));
    }
    lines.join("\n")
}

/// Connects to one peer at several addresses.
pub(crate) async fn dial(args: &DialArgs) -> Result<(), Failure> {
    let endpoint = endpoint(&args.node).await?;
    let json = args.node.json;
    let trace = args.trace;
    let attempts = Arc::new(Mutex::new(Attempts::default()));
    let target = target(&args.whom)?.observed_by({
        let attempts = Arc::clone(&attempts);
        move |event| {
            tell(trace, json, event, &attempts);
        }
    });
    let begun = Instant::now();
    let connected = tokio::time::timeout(args.timeout, endpoint.connect(target)).await;
    let connected = match connected {
        Ok(connected) => connected.map_err(Failure::from),
        Err(_) => Err(unanswered(args.timeout, &attempts)),
    };
    let connection = match connected {
        Ok(connection) => connection,
        Err(failure) => {
            if json {
                let value = json!({
                    "event": "failed", "error": failure.0, "ms": ms(begun.elapsed()),
                    "stats": stats(&endpoint),
                });
                say(&value.to_string());
            }
            return Err(failure);
        }
    };
    let took = begun.elapsed();
    let info = connection.info();
    let value = json!({
        "event": "connected", "peer": info.peer_id.to_string(),
        "addr": info.remote_addr.to_string(), "local": info.local_addr.to_string(),
        "transport": info.transport, "security": info.security, "muxer": info.muxer,
        "early_muxer": info.early_muxer, "ms": ms(took), "stats": stats(&endpoint),
        "limit": info.limit.map(|limit| json!({
            "seconds": limit.duration.map(|time| time.as_secs()), "bytes": limit.data,
        })),
    });
    output::event(json, &value, || {
        format!(
            "connected to {} at {} over {} from {} in {} ms{}",
            info.peer_id,
            info.remote_addr,
            info.transport,
            info.local_addr,
            ms(took),
            info.limit.map_or_else(String::new, limit)
        )
    });
    endpoint.shutdown(GOODBYE).await;
    Ok(())
}

/// What a relay lets through.
fn limit(limit: CircuitLimit) -> String {
    let time = limit.duration.map(|time| format!("{} s", time.as_secs()));
    let data = limit.data.map(|data| format!("{data} bytes"));
    let parts: Vec<_> = time.into_iter().chain(data).collect();
    format!("; the relay lets through {}", parts.join(" and "))
}

fn stats(endpoint: &Endpoint) -> Value {
    let stats = endpoint.dial_stats();
    let transports = stats
        .transports
        .iter()
        .filter(|of| of.attempts > 0)
        .map(|of| {
            json!({
                "transport": of.transport, "attempts": of.attempts, "succeeded": of.succeeded,
                "failed": of.failed, "cancelled": of.cancelled,
            })
        });
    json!({"transports": transports.collect::<Vec<_>>(), "lookups": stats.lookups})
}

pub(crate) fn target(whom: &[Whom]) -> Result<DialTarget, Failure> {
    let mut addrs: Vec<Multiaddr> = Vec::new();
    let mut peer: Option<PeerId> = None;
    for one in whom {
        match one {
            Whom::Addr(addr) => addrs.push(addr.clone()),
            Whom::Peer(id) if peer.is_some_and(|other| other != *id) => {
                return Err("name one peer only".into());
            }
            Whom::Peer(id) => peer = Some(*id),
        }
    }
    Ok(match peer {
        Some(peer) if addrs.is_empty() => peer.into(),
        Some(peer) => {
            let addrs: Result<Vec<_>, _> =
                addrs.into_iter().map(|addr| addr.with_peer(peer)).collect();
            addrs?.into()
        }
        None => addrs.into(),
    })
}

/// The command's own deadline came first: what was still being tried, and what had failed before.
fn unanswered(timeout: Duration, attempts: &Mutex<Attempts>) -> Failure {
    let attempts = attempts
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut lines = vec![format!(
        "no connection within {timeout:?}; check the addresses or raise --timeout"
    )];
    lines.extend(attempts.failed.iter().cloned());
    let running = attempts.running.iter();
    lines.extend(running.map(|(addr, _)| format!("{addr}: no answer yet")));
    Failure(lines.join("\n  "))
}

/// Those of one dial.
#[derive(Default)]
struct Attempts {
    /// With when they began.
    running: Vec<(Multiaddr, Duration)>,
    /// A line for each.
    failed: Vec<String>,
}

/// Most failed attempts that are kept for the error.
const KEPT: usize = 64;

/// Keeps where the attempts are, and prints the step if it is asked for, with how long the attempt ran when
/// it ends.
fn tell(trace: bool, json: bool, event: &DialEvent, attempts: &Mutex<Attempts>) {
    let mut attempts = attempts
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let running = &mut attempts.running;
    let begun = running.iter().position(|(addr, _)| *addr == event.addr);
    let ran = begun.map(|at| event.at.saturating_sub(running[at].1));
    let (what, stage, detail) = match &event.step {
        DialStep::Resolving => ("resolving", Some("name"), None),
        DialStep::Resolved(resolution) => {
            let text = format!(
                "{} address(es), {} look-up(s), {} dropped",
                resolution.addresses.len(),
                resolution.lookups.len(),
                resolution.dropped.len() + resolution.dropped_more
            );
            ("resolved", Some("name"), Some(text))
        }
        DialStep::Started => ("start", None, None),
        DialStep::Connected(info) => {
            let text = format!("{}, {}, {}", info.transport, info.security, info.muxer);
            ("connected", Some("ready"), Some(text))
        }
        DialStep::Cancelled => ("cancelled", None, Some("another address was faster".into())),
        DialStep::Failed(error) => {
            let what = match error {
                DialError::Skipped { .. } | DialError::PrivateName { .. } => "skipped",
                _ => "failed",
            };
            (what, Some(stage(error)), Some(error.to_string()))
        }
        _ => return,
    };
    match (&event.step, begun) {
        (DialStep::Started | DialStep::Resolving, _) => {
            running.push((event.addr.clone(), event.at));
        }
        (_, Some(at)) => {
            running.swap_remove(at);
        }
        _ => {}
    }
    if let DialStep::Failed(error) = &event.step
        && attempts.failed.len() < KEPT
    {
        let (addr, error) = (event.addr.to_string(), error.to_string());
        attempts.failed.push(match error.contains(&addr) {
            true => error,
            false => format!("{addr}: {error}"),
        });
    }
    if !trace {
        return;
    }
    let ran = ran.map(ms);
    if json {
        let mut value = json!({
            "event": "dial", "at_ms": ms(event.at), "addr": event.addr.to_string(), "what": what,
            "stage": stage, "ran_ms": ran, "detail": detail,
        });
        if let DialStep::Resolved(resolution) = &event.step {
            value["resolution"] = as_json(resolution);
        }
        say(&value.to_string());
        return;
    }
    let ran = ran
        .map(|ran| format!(" after {ran} ms"))
        .unwrap_or_default();
    let detail = detail.map(|text| format!(": {text}")).unwrap_or_default();
    let line = format!(
        "{:>9} ms  {what:<9} {}{ran}{detail}",
        ms(event.at),
        event.addr
    );
    say(&printable(&line));
}

/// How far an attempt came that failed.
fn stage(error: &DialError) -> &'static str {
    match error {
        DialError::Name { .. } | DialError::PrivateName { .. } => "name",
        DialError::Transport(_) => "connect",
        DialError::Upgrade { .. } | DialError::WrongPeer { .. } => "upgrade",
        DialError::Gated { .. } | DialError::Limit { .. } => "admission",
        _ => "plan",
    }
}

fn ms(duration: Duration) -> f64 {
    tenth(duration.as_secs_f64() * 1e3)
}
