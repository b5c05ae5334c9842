//! What came of all attempts.

use std::{collections::BTreeMap, fmt, time::Duration};

use barewire_tests::process::Failure;

use crate::{
    FROM_GO, GO, OURS, SHARE, TO_GO,
    lab::{Case, Outcome, Transport},
};

/// Attempts of one case.
#[derive(Debug, Default)]
struct Cell {
    tried: usize,
    /// There was not even a relayed connection, or a process failed.
    failed: usize,
    direct: Vec<Duration>,
}

impl Cell {
    fn median(&self) -> Option<Duration> {
        let mut sorted = self.direct.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied()
    }

    fn share(&self) -> f64 {
        self.direct.len() as f64 / self.tried.max(1) as f64
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(" {failed} failed"),
        };
        let text = match self.median() {
            Some(median) => format!(
                "{}/{} {:.0} ms{failed}",
                self.direct.len(),
                self.tried,
                median.as_secs_f64() * 1e3
            ),
            None => format!("relayed {}{failed}", self.tried - self.failed),
        };
        f.pad(&text)
    }
}

/// All cases.
#[derive(Debug, Default)]
pub(crate) struct Table(BTreeMap<Case, Cell>);

impl Table {
    pub(crate) fn add(&mut self, case: Case, outcome: &Result<Outcome, Failure>) {
        let cell = self.0.entry(case).or_default();
        cell.tried += 1;
        match outcome {
            Ok(Outcome::Direct(took)) => cell.direct.push(*took),
            Ok(Outcome::Relayed(_)) => {}
            Err(_) => cell.failed += 1,
        }
    }

    /// The cases with our stack at both ends, and what stands beside them.
    fn rows(&self) -> impl Iterator<Item = (Case, [Option<&Cell>; 4])> {
        let ours = self.0.keys().filter(|case| case.stacks == OURS);
        ours.map(|case| {
            let of = |stacks| self.0.get(&Case { stacks, ..*case });
            (*case, [OURS, TO_GO, FROM_GO, GO].map(of))
        })
    }

    /// Our median over go-libp2p's, in each row in which both come to direct connections.
    fn ratios(&self, transport: Transport) -> Vec<f64> {
        let rows = self.rows().filter(|(case, _)| case.transport == transport);
        let both = rows.filter_map(|(_, [ours, _, _, go])| Some((ours?.median()?, go?.median()?)));
        let mut ratios: Vec<_> = both
            .map(|(ours, go)| ours.as_secs_f64() / go.as_secs_f64())
            .collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }

    /// Where the targets were missed.
    pub(crate) fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for (case, [ours, to_go, from_go, go]) in self.rows() {
            let Some(go) = go.filter(|go| !go.direct.is_empty()) else {
                continue;
            };
            for (name, cell) in [("ours", ours), ("ours → go", to_go), ("go → ours", from_go)] {
                let Some(cell) = cell else { continue };
                if cell.share() < go.share() {
                    let nats = case.nats.map(barewire_tests::nat::Nat::name);
                    missed.push(format!(
                        "{} {nats:?}, {name}: {cell}; go with go: {go}",
                        case.transport.name()
                    ));
                }
            }
        }
        for transport in Transport::ALL {
            let ratios = self.ratios(transport);
            if let Some(median) = ratios.get(ratios.len() / 2)
                && *median > SHARE
            {
                missed.push(format!(
                    "{}: our time is {median:.2} of go-libp2p's in the median of all rows, at most {SHARE} is the target",
                    transport.name()
                ));
            }
        }
        missed
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<5} {:<18} {:<18} {:<22} {:<22} {:<22} {:<22} ours/go",
            "", "dialler", "listener", "ours → ours", "ours → go", "go → ours", "go → go"
        )?;
        for (case, cells) in self.rows() {
            let [dialler, listener] = case.nats.map(barewire_tests::nat::Nat::name);
            write!(
                f,
                "{:<5} {dialler:<18} {listener:<18}",
                case.transport.name()
            )?;
            for cell in cells {
                match cell {
                    Some(cell) => write!(f, " {cell:<22}")?,
                    None => write!(f, " {:<22}", "-")?,
                }
            }
            let [ours, _, _, go] = cells.map(|cell| cell.and_then(Cell::median));
            match (ours, go) {
                (Some(ours), Some(go)) => {
                    writeln!(f, " {:.2}", ours.as_secs_f64() / go.as_secs_f64())?;
                }
                _ => writeln!(f)?,
            }
        }
        for transport in Transport::ALL {
            let ratios = self.ratios(transport);
            if let Some(median) = ratios.get(ratios.len() / 2) {
                writeln!(
                    f,
                    "{}: our time over go-libp2p's is {median:.2} in the median of {} rows, {:.2} at most",
                    transport.name(),
                    ratios.len(),
                    ratios.last().copied().unwrap_or_default()
                )?;
            }
        }
        Ok(())
    }
}
