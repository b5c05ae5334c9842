//! Private networks: whoever has the key gets in, and nobody else.

use barewire_tests::process::{Process, run, run_failing};

use crate::{CellResult, DEADLINE, Group, WE_DIAL, ensure, what::What};

pub(crate) async fn cell(group: &Group<'_>) -> CellResult {
    let (ours, theirs) = (group.barewire(), group.foreign());
    let (listener, dialler) = if group.place.direction == WE_DIAL {
        (theirs, ours)
    } else {
        (ours, theirs)
    };
    let files = &group.matrix.files;
    let (key, other) = (
        files.psk.display().to_string(),
        files.other_psk.display().to_string(),
    );
    let mut line = group.listen_line();
    line.extend(["--json".to_owned(), "--psk".to_owned(), key.clone()]);
    let (listener, addr) = Process::listen(listener, line, DEADLINE).await?;
    let with =
        |command: &[&str], key: &str| group.dial_line(&[command, &["--psk", key]].concat(), &addr);
    for what in [What::Ping, What::Echo, What::Streams] {
        let (command, event) = what.command();
        run(dialler, with(command, &key), event, DEADLINE).await?;
    }
    // Neither another key nor none gets in, and the listener goes on.
    let mut said = Vec::new();
    for line in [with(&["ping"], &other), group.dial_line(&["ping"], &addr)] {
        let sentence = run_failing(dialler, line, DEADLINE).await?;
        ensure(!sentence.contains("panic"), || sentence.clone())?;
        said.push(sentence.trim().replace('\n', " "));
    }
    run(dialler, with(&["ping"], &key), "ping", DEADLINE).await?;
    listener.stop(DEADLINE).await?;
    Ok(format!("works; other key: {}; none: {}", said[0], said[1]))
}
