//! What happens, as JSON lines, and the lines read back.
//!
//! Each line is an object with `us`, microseconds since the trace began, and `event`. Peers are their ids as text, message ids
//! hexadecimal. Everything that changes a mesh, a subscription or the fate of a message is there, so that [`Replay`] knows from a
//! file what the node knew at any moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufWriter, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use barewire_gossip::{Event, MessageId};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

/// Lines that wait to be written.
const WAITING: usize = 16_384;

/// Where the lines go.
#[derive(Debug)]
pub struct TraceWriter {
    lines: mpsc::Sender<String>,
    begun: Instant,
    dropped: Arc<AtomicU64>,
}

impl TraceWriter {
    /// Writes to `out` from a thread of its own. Lines that it cannot take in time are dropped; the next one that it takes says how
    /// many by its field `missed`. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(out: impl Write + Send + 'static) -> Self {
        let (lines, waiting) = mpsc::channel(WAITING);
        tokio::task::spawn_blocking(move || {
            // A disk that is full ends the trace, not the node.
            if let Err(error) = write(waiting, BufWriter::new(out)) {
                tracing::warn!(%error, "the trace of gossip ends");
            }
        });
        Self {
            lines,
            begun: Instant::now(),
            dropped: Arc::default(),
        }
    }

    /// Writes one line. `fields` is an object.
    pub(super) fn write(&self, event: &str, mut fields: Value) {
        let micros = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        fields["us"] = micros.into();
        fields["event"] = event.into();
        let missed = self.dropped.swap(0, Ordering::Relaxed);
        if missed > 0 {
            fields["missed"] = missed.into();
        }
        if self.lines.try_send(fields.to_string()).is_err() {
            self.dropped.fetch_add(missed + 1, Ordering::Relaxed);
        }
    }

    /// Writes what the router reports of a peer.
    pub(super) fn event(&self, peer: &str, event: &Event) {
        let (name, fields) = match event {
            Event::Subscribed { topic, .. } => ("subscribed", json!({"topic": &**topic})),
            Event::Unsubscribed { topic, .. } => ("unsubscribed", json!({"topic": &**topic})),
            Event::Grafted { topic, by_peer, .. } => {
                ("grafted", json!({"topic": &**topic, "by_peer": by_peer}))
            }
            Event::Pruned { topic, reason, .. } => (
                "pruned",
                json!({"topic": &**topic, "reason": format!("{reason:?}")}),
            ),
            Event::Received {
                topic,
                id,
                duplicate,
                ..
            } => (
                "received",
                json!({"topic": &**topic, "id": hex(id), "duplicate": duplicate}),
            ),
            Event::Rejected { topic, reason, .. } => (
                "rejected",
                json!({"topic": &**topic, "reason": format!("{reason:?}")}),
            ),
            Event::Dropped { id, reason, .. } => {
                let id = id.as_ref().map(hex);
                (
                    "dropped",
                    json!({"id": id, "reason": format!("{reason:?}")}),
                )
            }
            Event::Penalty { kind, .. } => ("penalty", json!({"kind": format!("{kind:?}")})),
            Event::Graylisted { score, .. } => ("graylisted", json!({"score": score})),
            Event::Drained { .. } => ("drained", json!({})),
            _ => return,
        };
        let mut fields = fields;
        fields["peer"] = peer.into();
        self.write(name, fields);
    }
}

fn write(mut lines: mpsc::Receiver<String>, mut out: impl Write) -> io::Result<()> {
    while let Some(line) = lines.blocking_recv() {
        writeln!(out, "{line}")?;
        while let Ok(line) = lines.try_recv() {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
    }
    Ok(())
}

/// An id as a trace writes it.
pub(super) fn hex(id: &MessageId) -> String {
    id.as_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Why a line cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// It is no JSON object.
    #[error("line {0} of the trace is no JSON object")]
    NotJson(u64),
    /// A field is missing.
    #[error("line {0} of the trace has no `{1}`")]
    Missing(u64, &'static str),
}

/// What a node knew, from the lines of its trace. Feed it all lines, or those up to the moment that matters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replay {
    /// Time of the last line, in microseconds since the trace began.
    pub us: u64,
    /// Connected peers.
    pub peers: BTreeSet<String>,
    /// Subscribed peers by topic.
    pub subscribed: BTreeMap<String, BTreeSet<String>>,
    /// Peers in the mesh by topic.
    pub meshes: BTreeMap<String, BTreeSet<String>>,
    /// Messages by id: how often each was delivered here.
    pub delivered: BTreeMap<String, u64>,
    /// Ids of own messages.
    pub published: BTreeSet<String>,
    /// How often each event occurred, with its reason if it has one: `dropped QueueFull`.
    pub counts: BTreeMap<String, u64>,
    /// Lines that the writer had to drop.
    pub missed: u64,
    lines: u64,
}

impl Replay {
    /// Takes the next line.
    ///
    /// # Errors
    /// [`ReplayError`]; the line changed nothing then.
    pub fn line(&mut self, line: &str) -> Result<(), ReplayError> {
        let number = self.lines + 1;
        let value: Value = serde_json::from_str(line).map_err(|_| ReplayError::NotJson(number))?;
        let text = |name: &'static str| {
            let field = value[name].as_str().map(str::to_owned);
            field.ok_or(ReplayError::Missing(number, name))
        };
        let event = text("event")?;
        let us = value["us"]
            .as_u64()
            .ok_or(ReplayError::Missing(number, "us"))?;
        match &*event {
            "connected" => {
                self.peers.insert(text("peer")?);
            }
            "disconnected" => {
                self.peers.remove(&text("peer")?);
            }
            "subscribed" => {
                self.subscribed
                    .entry(text("topic")?)
                    .or_default()
                    .insert(text("peer")?);
            }
            "unsubscribed" => {
                self.subscribed
                    .entry(text("topic")?)
                    .or_default()
                    .remove(&text("peer")?);
            }
            "grafted" => {
                self.meshes
                    .entry(text("topic")?)
                    .or_default()
                    .insert(text("peer")?);
            }
            "pruned" => {
                self.meshes
                    .entry(text("topic")?)
                    .or_default()
                    .remove(&text("peer")?);
            }
            "delivered" => *self.delivered.entry(text("id")?).or_default() += 1,
            "published" => {
                self.published.insert(text("id")?);
            }
            _ => {}
        }
        let reason = value["reason"].as_str().or_else(|| value["kind"].as_str());
        let name = match reason {
            Some(reason) => format!("{event} {reason}"),
            None => event,
        };
        *self.counts.entry(name).or_default() += 1;
        self.missed += value["missed"].as_u64().unwrap_or(0);
        (self.lines, self.us) = (number, us);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn lines_bring_back_what_was_known() {
        let mut replay = Replay::default();
        for line in [
            r#"{"event":"connected","peer":"a","us":1}"#,
            r#"{"event":"subscribed","peer":"a","topic":"t","us":2}"#,
            r#"{"event":"grafted","peer":"a","topic":"t","by_peer":true,"us":3}"#,
            r#"{"event":"delivered","id":"00","topic":"t","us":4,"missed":2}"#,
            r#"{"event":"dropped","id":null,"reason":"QueueFull","us":5}"#,
        ] {
            replay.line(line).unwrap();
        }
        assert!(replay.meshes["t"].contains("a"));
        assert_eq!(
            (replay.delivered["00"], replay.missed, replay.us),
            (1, 2, 5)
        );
        assert_eq!(replay.counts["dropped QueueFull"], 1);
        replay
            .line(r#"{"event":"pruned","peer":"a","topic":"t","reason":"Left","us":6}"#)
            .unwrap();
        assert!(replay.meshes["t"].is_empty());
        let before = replay.clone();
        assert_eq!(replay.line("no"), Err(ReplayError::NotJson(7)));
        assert_eq!(
            replay.line(r#"{"event":"x"}"#),
            Err(ReplayError::Missing(7, "us"))
        );
        assert_eq!(replay, before);
    }
}
