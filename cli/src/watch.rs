//! What happens on a running node, told on stdout: connections, and peers that are kept.

use barewire_base::{Multiaddr, PeerId};
use barewire_node::{
    Endpoint, Event, EventItem, Role,
    manager::{KeptPeer, KeptState, now},
    protocols::dcutr::{PunchStep, Side},
};
use serde_json::{Value, json};

use crate::output::{self, printable};

/// Tells of connections made, refused and ended, until the node is gone.
pub(crate) async fn connections(endpoint: Endpoint, json: bool) {
    let mut events = endpoint.events();
    // Only the events are held, so that the endpoint may end.
    drop(endpoint);
    while let Some(item) = events.next().await {
        if let Some(value) = describe(&item) {
            output::event(json, &value, || sentence(&value));
        }
    }
}

fn describe(item: &EventItem) -> Option<Value> {
    Some(match item {
        EventItem::Event(Event::Connected { peer, remote, role }) => json!({
            "event": "connected", "peer": peer.to_string(), "remote": remote.to_string(),
            "dialled_by": if *role == Role::Client { "us" } else { "remote" },
        }),
        EventItem::Event(Event::Disconnected { peer, reason, last }) => json!({
            "event": "disconnected", "peer": peer.to_string(), "who": reason.who().as_str(),
            "why": reason.why(), "reason": reason.to_string(), "last": last,
        }),
        EventItem::Event(Event::Refused {
            remote,
            peer,
            reason,
        }) => json!({
            "event": "refused", "peer": peer.map(|peer| peer.to_string()),
            "remote": remote.to_string(), "why": reason.name(), "reason": reason.to_string(),
        }),
        EventItem::Event(Event::HolePunch { peer, step }) => punch(peer, step)?,
        EventItem::Missed(count) => json!({"event": "missed", "count": count}),
        EventItem::Event(_) => return None,
    })
}

fn punch(peer: &PeerId, step: &PunchStep) -> Option<Value> {
    let mut value = json!({"event": "hole_punch", "peer": peer.to_string()});
    match step {
        PunchStep::Dialling => value["step"] = json!("dialling"),
        PunchStep::Punching {
            attempt,
            side,
            addrs,
            rtt,
        } => {
            value["step"] = json!("punching");
            value["attempt"] = json!(attempt);
            value["side"] = json!(if *side == Side::Client {
                "client"
            } else {
                "server"
            });
            value["addrs"] = json!(addrs.iter().map(ToString::to_string).collect::<Vec<_>>());
            value["rtt_ms"] = json!(rtt.map(|rtt| rtt.as_secs_f64() * 1e3));
        }
        PunchStep::Direct {
            addr,
            attempt,
            took,
        } => {
            value["step"] = json!("direct");
            value["addr"] = json!(addr.to_string());
            value["attempt"] = json!(attempt);
            value["ms"] = json!(took.as_secs_f64() * 1e3);
        }
        PunchStep::Failed(error) => {
            value["step"] = json!("failed");
            value["error"] = json!(error.to_string());
        }
        _ => return None,
    }
    Some(value)
}

/// Tells each state of a kept peer, until the node is gone.
pub(crate) async fn kept(peer: KeptPeer, addr: Multiaddr, json: bool) {
    let mut states = peer.watch();
    let mut known = addr.peer_id();
    loop {
        let state = states.borrow_and_update().clone();
        let mut value = json!({"event": "kept", "addr": addr.to_string()});
        match &state {
            KeptState::Connecting { attempt } => {
                value["state"] = json!("connecting");
                value["attempt"] = json!(attempt);
            }
            KeptState::Connected { peer } => {
                known = Some(*peer);
                value["state"] = json!("connected");
            }
            KeptState::Backoff {
                until,
                attempt,
                error,
            } => {
                let wait = until.saturating_duration_since(now());
                value["state"] = json!("backoff");
                value["attempt"] = json!(attempt);
                value["wait_s"] = json!(wait.as_secs_f64());
                value["error"] = json!(error.to_string());
            }
            _ => value["state"] = json!("stopped"),
        }
        value["peer"] = json!(known.map(|peer| peer.to_string()));
        output::event(json, &value, || sentence(&value));
        if state == KeptState::Stopped || states.changed().await.is_err() {
            return;
        }
    }
}

/// The fields of an event in a line for people.
fn sentence(value: &Value) -> String {
    let fields = value.as_object().into_iter().flatten();
    let words: Vec<String> = fields
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), printable);
            match name.as_str() {
                "event" => text,
                name => format!("{name}={text}"),
            }
        })
        .collect();
    words.join(" ")
}
