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
    let keys = files.psk.each_ref().map(|file| file.display().to_string());
    let other = files.other_psk.display().to_string();
    let with = |addr: &str, command: &[&str], key: &str| {
        group.dial_line(&[command, &["--psk", key]].concat(), addr)
    };
    let listen = async |key: &str| {
        let mut line = group.listen_line();
        line.extend(["--json", "--psk", key].map(str::to_owned));
        Process::listen(listener, line, DEADLINE).await
    };
    // Each end reads the key in each form, never both in the same.
    for (at, what) in [What::Ping, What::Echo, What::Streams]
        .into_iter()
        .enumerate()
    {
        let (listener, addr) = listen(&keys[(at + 1) % keys.len()]).await?;
        let (command, event) = what.command();
        run(dialler, with(&addr, command, &keys[at]), event, DEADLINE).await?;
        listener.stop(DEADLINE).await?;
    }
    let (listener, addr) = listen(&keys[0]).await?;
    let with = |command: &[&str], key: &str| with(&addr, command, key);
    let key = &keys[0];
    // Neither another key nor none gets in, and the listener goes on.
    let mut said = Vec::new();
    for line in [with(&["ping"], &other), group.dial_line(&["ping"], &addr)] {
        let sentence = run_failing(dialler, line, DEADLINE).await?;
        ensure(!sentence.contains("panic"), || sentence.clone())?;
        said.push(sentence.trim().replace('\n', " "));
    }
    run(dialler, with(&["ping"], key), "ping", DEADLINE).await?;
    listener.stop(DEADLINE).await?;
    Ok(format!(
        "base16, base64 and bin work; other key: {}; none: {}",
        said[0], said[1]
    ))
}
