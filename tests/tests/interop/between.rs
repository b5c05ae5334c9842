//! The foreign stacks against each other.

use barewire_tests::{
    peers::Foreign,
    process::{Failure, Process, run},
};
use futures::StreamExt;
use tokio::time::{Duration, Instant, timeout};

use crate::{
    DEADLINE, Matrix, STACKS, THEY_DIAL, WE_DIAL, beyond,
    combination::{COMBINATIONS, Combination},
    report::{Outcome, Place},
    what::What,
};

/// How long a listener may take to notice that a stream was reset.
const NOTICED: Duration = Duration::from_secs(5);

/// Every ordered pair over every combination.
pub(crate) async fn all(matrix: &Matrix, parallel: usize) {
    let mut pairs = Vec::new();
    for dialler in STACKS {
        for listener in STACKS {
            for combination in COMBINATIONS {
                if beyond::all(dialler, combination, THEY_DIAL).is_none()
                    && beyond::all(listener, combination, WE_DIAL).is_none()
                    && matrix.foreign.contains_key(&dialler)
                    && matrix.foreign.contains_key(&listener)
                {
                    pairs.push(pair(matrix, dialler, listener, combination));
                }
            }
        }
    }
    futures::stream::iter(pairs)
        .buffer_unordered(parallel)
        .collect::<()>()
        .await;
}

async fn pair(
    matrix: &Matrix,
    dialler: Foreign,
    listener: Foreign,
    combination: &'static Combination,
) {
    let place = Place {
        stack: format!("{dialler}>{listener}"),
        combination: combination.name,
        direction: "foreign",
    };
    for what in What::MATRIX {
        if !matrix.report.wants(&place, what.name()) {
            continue;
        }
        let start = Instant::now();
        let outcome = match try_one(matrix, dialler, listener, combination, what).await {
            Ok(()) => Outcome::Ok(String::new()),
            Err(cause) => Outcome::Failed(cause.to_string()),
        };
        let secs = start.elapsed().as_secs_f64();
        matrix.report.add(&place, what.name(), outcome, secs);
    }
}

/// One cell between two foreign programs, with a listener of its own.
pub(crate) async fn try_one(
    matrix: &Matrix,
    dialler: Foreign,
    listener: Foreign,
    combination: &Combination,
    what: What,
) -> Result<(), Failure> {
    let mut line = vec!["listen".to_owned()];
    line.extend(combination.listen_args(&matrix.files));
    let work = async {
        let (mut listener, addr) =
            Process::listen(&matrix.foreign[&listener], line, DEADLINE).await?;
        let (command, event) = what.command();
        let line = combination.dial_line(&matrix.files, command, &addr);
        run(&matrix.foreign[&dialler], line, event, DEADLINE).await?;
        if what == What::ResetByDialler {
            // The one cell of which only the listener knows whether it worked.
            listener.expect("lost", NOTICED).await?;
        }
        Ok(())
    };
    timeout(DEADLINE, work).await?
}
