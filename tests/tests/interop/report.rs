//! What the cells have shown: one line each while they run, a table and the failures at the end.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

/// A place in the matrix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) stack: String,
    pub(crate) combination: &'static str,
    pub(crate) direction: &'static str,
}

/// How a cell ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It works; what was seen.
    Ok(String),
    /// It does not, and why.
    Failed(String),
    /// The foreign stack cannot do it: the reason, and how that was checked.
    Cannot(String),
    /// There was no program to run.
    Skipped(String),
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self {
            Self::Ok(_) => "ok",
            Self::Failed(_) => "FAILED",
            Self::Cannot(_) => "cannot",
            Self::Skipped(_) => "skipped",
        }
    }

    fn said(&self) -> &str {
        let (Self::Ok(said) | Self::Failed(said) | Self::Cannot(said) | Self::Skipped(said)) = self;
        said
    }
}

struct Cell {
    place: Place,
    what: String,
    outcome: Outcome,
    secs: f64,
}

impl Cell {
    fn name(&self) -> String {
        name(&self.place, &self.what)
    }
}

/// `STACK COMBINATION DIRECTION WHAT`, which is what a filter looks at.
fn name(place: &Place, what: &str) -> String {
    let Place {
        stack,
        combination,
        direction,
    } = place;
    format!("{stack} {combination} {direction} {what}")
}

/// Collects cells of groups that run at the same time.
pub(crate) struct Report {
    filter: Vec<String>,
    json: bool,
    cells: Mutex<Vec<Cell>>,
}

impl Report {
    pub(crate) fn new(filter: Vec<String>, json: bool) -> Self {
        Self {
            filter,
            json,
            cells: Mutex::new(Vec::new()),
        }
    }

    /// Whether the words of the command line ask for this cell.
    pub(crate) fn wants(&self, place: &Place, what: &str) -> bool {
        let name = name(place, what);
        self.filter.iter().all(|part| name.contains(part.as_str()))
    }

    pub(crate) fn add(&self, place: &Place, what: &str, outcome: Outcome, secs: f64) {
        let cell = Cell {
            place: place.clone(),
            what: what.to_owned(),
            outcome,
            secs,
        };
        self.say(&format!(
            "{:<7} {:<48} {secs:6.2} s  {}",
            cell.outcome.word(),
            cell.name(),
            cell.outcome.said().trim_end()
        ));
        self.cells
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(cell);
    }

    /// With `--json` stdout holds one object and nothing else.
    fn say(&self, line: &str) {
        if self.json {
            eprintln!("{line}");
        } else {
            println!("{line}");
        }
    }

    /// Prints table and failures; whether nothing failed. `required`: nothing may be skipped either.
    pub(crate) fn finish(&self, required: bool, secs: f64) -> bool {
        let cells = self.cells.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |word: &str| {
            cells
                .iter()
                .filter(|cell| cell.outcome.word() == word)
                .count()
        };
        let (passed, failed, cannot, skipped) = (
            count("ok"),
            count("FAILED"),
            count("cannot"),
            count("skipped"),
        );
        self.say(&format!("\n{}", table(&cells)));
        for cell in cells.iter() {
            if let Outcome::Failed(cause) = &cell.outcome {
                self.say(&format!("failed: {}: {}", cell.name(), cause.trim_end()));
            }
        }
        self.say(&format!(
            "interop: {passed} passed, {failed} failed, {cannot} beyond the other stack, {skipped} skipped in {secs:.0} s"
        ));
        if self.json {
            let cells: Vec<Value> = cells.iter().map(as_json).collect();
            let total = json!({
                "passed": passed, "failed": failed, "cannot": cannot, "skipped": skipped, "secs": secs,
                "cells": cells,
            });
            println!("{total}");
        }
        failed == 0 && passed > 0 && (skipped == 0 || !required)
    }
}

fn as_json(cell: &Cell) -> Value {
    json!({
        "stack": cell.place.stack,
        "combination": cell.place.combination,
        "direction": cell.place.direction,
        "what": cell.what,
        "outcome": cell.outcome.word().to_lowercase(),
        "said": cell.outcome.said(),
        "secs": cell.secs,
    })
}

/// Stack and combination down, direction across; passed of tried, or why nothing was tried.
fn table(cells: &[Cell]) -> String {
    let mut directions: Vec<&str> = cells.iter().map(|cell| cell.place.direction).collect();
    directions.sort_unstable();
    directions.dedup();
    let mut rows: BTreeMap<(&str, &str), BTreeMap<&str, Vec<&Cell>>> = BTreeMap::new();
    for cell in cells {
        rows.entry((&cell.place.stack, cell.place.combination))
            .or_default()
            .entry(cell.place.direction)
            .or_default()
            .push(cell);
    }
    let mut out = format!("{:<10} {:<10}", "stack", "over");
    for direction in &directions {
        out += &format!(" {direction:<34}");
    }
    for ((stack, combination), row) in rows {
        out += &format!("\n{stack:<10} {combination:<10}");
        for direction in &directions {
            let cells = row.get(direction).map_or(&[][..], Vec::as_slice);
            out += &format!(" {:<34}", summary(cells));
        }
    }
    out.lines()
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

fn summary(cells: &[&Cell]) -> String {
    let of = |word: &'static str| cells.iter().filter(move |cell| cell.outcome.word() == word);
    let (passed, failed) = (of("ok").count(), of("FAILED").count());
    let mut parts = Vec::new();
    if passed + failed > 0 {
        parts.push(format!("{passed}/{} ok", passed + failed));
    }
    let beyond: Vec<&str> = of("cannot").map(|cell| cell.what.as_str()).collect();
    if !beyond.is_empty() {
        parts.push(format!("cannot {}", beyond.join(", ")));
    }
    if of("skipped").next().is_some() {
        parts.push("skipped".to_owned());
    }
    if parts.is_empty() {
        "-".to_owned()
    } else {
        parts.join("; ")
    }
}
