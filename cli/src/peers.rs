//! `barewire peers`: what a peer book holds.

use std::time::{SystemTime, UNIX_EPOCH};

use barewire_node::peer_book::{KnownAddress, PeerBook, PeerBookConfig, PeerEntry};
use serde_json::json;

use crate::{
    args::PeersArgs,
    failure::Failure,
    output::{self, printable},
};

/// Lists a peer book.
pub(crate) fn peers(args: &PeersArgs) -> Result<(), Failure> {
    // Looking must not make one.
    if !args.peer_book.exists() {
        let path = args.peer_book.display();
        return Err(
            format!("there is no peer book {path}; a node with --peer-book makes it").into(),
        );
    }
    let mut config = PeerBookConfig::default();
    config.path = Some(args.peer_book.clone());
    let book = PeerBook::open(&config)?;
    let entries = book.entries();
    for entry in &entries {
        let value = json!({
            "event": "peer",
            "peer": entry.peer_id.to_string(),
            "agent": entry.agent_version,
            "protocols": entry.protocols.iter().map(|id| &**id).collect::<Vec<_>>(),
            "last_seen": entry.last_seen,
            "signed_record": entry.signed_record.as_ref().map(|(seq, _)| seq),
            "addrs": entry.addrs.iter().map(|known| json!({
                "addr": known.addr.to_string(),
                "source": known.source.name(),
                "expires": known.expires,
                "last_success": known.last_success,
                "last_failure": known.last_failure,
                "successes": known.successes,
                "failures": known.failures,
            })).collect::<Vec<_>>(),
        });
        output::event(args.json, &value, || describe(entry));
    }
    if entries.is_empty() && !args.json {
        output::say("the peer book is empty");
    }
    Ok(())
}

fn describe(entry: &PeerEntry) -> String {
    let agent = match &*entry.agent_version {
        "" => String::new(),
        agent => format!(", {}", printable(agent)),
    };
    let mut lines = vec![format!(
        "{}{agent}, last seen {}",
        entry.peer_id,
        ago(entry.last_seen)
    )];
    lines.extend(entry.addrs.iter().map(|known| {
        let addr = printable(&known.addr.to_string());
        format!("  {addr}  ({})", quality(known))
    }));
    lines.join("\n")
}

fn quality(known: &KnownAddress) -> String {
    let mut parts = vec![format!("from {}", known.source.name())];
    if let Some(at) = known.last_success {
        parts.push(format!(
            "worked {} times, last {}",
            known.successes,
            ago(at)
        ));
    }
    if let Some(at) = known.last_failure.filter(|_| known.failures > 0) {
        parts.push(format!(
            "failed {} times since, last {}",
            known.failures,
            ago(at)
        ));
    }
    parts.push(match known.expires {
        Some(at) => format!("kept for {}", span(at.saturating_sub(now()))),
        None => "kept for ever".into(),
    });
    parts.join(", ")
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

fn ago(at: u64) -> String {
    format!("{} ago", span(now().saturating_sub(at)))
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
