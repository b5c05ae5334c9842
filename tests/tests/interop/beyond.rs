//! What a foreign stack cannot do, with the reason. Each entry is checked whenever it is met: the same must fail with
//! another foreign stack in barewire's place, so that an entry is struck out as soon as the stack learns it.

use barewire_tests::{
    peers::Foreign,
    process::{Process, run_failing},
};

use crate::{
    CellResult, DEADLINE, Group, THEY_DIAL, WE_DIAL, between, combination::Combination,
    report::Outcome, what::What,
};

/// How often something has to work before its entry counts as wrong.
const ATTEMPTS: usize = 3;

pub(crate) struct Beyond {
    stack: Foreign,
    /// Beginning of the combination's name.
    over: &'static str,
    /// In one direction, or in both.
    direction: Option<&'static str>,
    /// One cell, or all.
    what: Option<What>,
    reason: &'static str,
    /// Stacks with which it fails alike; none where it fails by itself: it cannot listen, or dials not even barewire.
    with: &'static [Foreign],
}

const LIST: &[Beyond] = &[
    // Dropping a stream, the one way to abandon it, makes quinn end it cleanly.
    rust_quic(WE_DIAL, What::ResetByListener),
    rust_quic(THEY_DIAL, What::ResetByDialler),
    // The end of a QUIC stream can overtake the data before it, of any protocol.
    py(
        "quic",
        None,
        "py-libp2p loses data over QUIC: its end of a stream overtakes what is before it",
        &[Foreign::Py],
    ),
    py(
        "wss",
        Some(THEY_DIAL),
        "py-libp2p dials no /tls/ws address that ends with a peer id",
        &[Foreign::Go],
    ),
    chromium("", Some(WE_DIAL), "a browser opens no listening socket"),
    chromium("tcp", Some(THEY_DIAL), "a browser has no TCP sockets"),
    chromium("quic", Some(THEY_DIAL), "a browser has no UDP sockets"),
    chromium(
        "ws+tls",
        Some(THEY_DIAL),
        "js-libp2p's TLS is made of node:tls, which a browser does not have",
    ),
];

const fn rust_quic(direction: &'static str, what: What) -> Beyond {
    Beyond {
        stack: Foreign::Rust,
        over: "quic",
        direction: Some(direction),
        what: Some(what),
        reason: "rust-libp2p has no way to reset a QUIC stream: a dropped one ends cleanly",
        with: &[Foreign::Go],
    }
}

const fn py(
    over: &'static str,
    direction: Option<&'static str>,
    reason: &'static str,
    with: &'static [Foreign],
) -> Beyond {
    Beyond {
        stack: Foreign::Py,
        over,
        direction,
        what: None,
        reason,
        with,
    }
}

const fn chromium(
    over: &'static str,
    direction: Option<&'static str>,
    reason: &'static str,
) -> Beyond {
    Beyond {
        stack: Foreign::Chromium,
        over,
        direction,
        what: None,
        reason,
        with: &[],
    }
}

fn find<'a>(
    stack: Foreign,
    combination: &'a Combination,
    direction: &'a str,
) -> impl Iterator<Item = &'static Beyond> + 'a {
    LIST.iter().filter(move |entry| {
        entry.stack == stack
            && combination.name.starts_with(entry.over)
            && entry.direction.is_none_or(|only| only == direction)
    })
}

/// The entry that covers a place as a whole.
pub(crate) fn all(
    stack: Foreign,
    combination: &Combination,
    direction: &str,
) -> Option<&'static Beyond> {
    find(stack, combination, direction).find(|entry| entry.what.is_none())
}

/// The entry for one cell.
pub(crate) fn one(
    stack: Foreign,
    combination: &Combination,
    direction: &str,
    what: What,
) -> Option<&'static Beyond> {
    find(stack, combination, direction).find(|entry| entry.what == Some(what))
}

impl Beyond {
    /// Whether it is still so.
    pub(crate) async fn check(&self, group: &Group<'_>, what: What) -> Outcome {
        let mut seen = Vec::new();
        for &other in self.with {
            if !group.matrix.foreign.contains_key(&other) {
                continue;
            }
            let (dialler, listener) = if group.place.direction == WE_DIAL {
                (other, self.stack)
            } else {
                (self.stack, other)
            };
            // What loses data loses it most of the time, not always.
            let mut tried = Ok(());
            for _ in 0..ATTEMPTS {
                tried = between::try_one(group.matrix, dialler, listener, group.combination, what)
                    .await;
                if tried.is_err() {
                    break;
                }
            }
            match tried {
                Ok(()) => {
                    return Outcome::Failed(format!(
                        "works with {other} although listed as beyond {}: {}",
                        self.stack, self.reason
                    ));
                }
                Err(cause) => {
                    let cause = cause.to_string();
                    let first = cause.lines().next().unwrap_or_default();
                    seen.push(format!("with {other} likewise: {first:.160}"));
                }
            }
        }
        if self.with.is_empty() {
            match alone(group, what).await {
                Ok(said) => seen.push(said),
                Err(cause) => {
                    return Outcome::Failed(format!("{cause}, listed as: {}", self.reason));
                }
            }
        }
        seen.insert(0, self.reason.to_owned());
        Outcome::Cannot(seen.join("; "))
    }
}

/// Starts the foreign program where it is said to be unable, and returns what it says about that.
async fn alone(group: &Group<'_>, what: What) -> CellResult {
    let said = if group.place.direction == WE_DIAL {
        run_failing(group.foreign(), group.listen_line(), DEADLINE).await?
    } else {
        let mut line = group.listen_line();
        line.push("--json".to_owned());
        let (listener, addr) = Process::listen(group.barewire(), line, DEADLINE).await?;
        let (command, _) = what.command();
        let line = group.dial_line(command, &addr);
        let said = run_failing(group.foreign(), line, DEADLINE).await?;
        listener.stop(DEADLINE).await?;
        said
    };
    let first = said
        .lines()
        .find(|line| line.contains(' '))
        .unwrap_or_default();
    Ok(format!("it says: {first:.160}"))
}
