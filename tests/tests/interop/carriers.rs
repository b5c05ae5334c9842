//! What lies below the security protocol: WebSocket, and private networks.

use std::path::{Path, PathBuf};

use barewire_tests::{
    peers::Foreign,
    process::{Failure, Process, number, run, run_failing},
};

use crate::{CellResult, DEADLINE, Pair, Tally, ensure};

const WS: &str = "/ip4/127.0.0.1/tcp/0/ws";
const TCP: &str = "/ip4/127.0.0.1/tcp/0";

/// Both programs know the same commands, so a cell is a listener of one and a dialler of the other.
struct Ends<'a> {
    listener: &'a Path,
    dialler: &'a Path,
}

impl<'a> Ends<'a> {
    fn both(pair: &'a Pair) -> [(&'static str, Self); 2] {
        let (ours, theirs) = (pair.barewire.as_path(), pair.foreign.as_path());
        [
            (
                "we-dial",
                Self {
                    listener: theirs,
                    dialler: ours,
                },
            ),
            (
                "they-dial",
                Self {
                    listener: ours,
                    dialler: theirs,
                },
            ),
        ]
    }

    async fn listen(&self, addr: &str, more: &[&str]) -> Result<(Process, String), Failure> {
        let mut line = vec!["listen", "--json", "--listen", addr];
        line.extend(more);
        Process::listen(self.listener, line, DEADLINE).await
    }

    /// Ping, 10 MiB of echo and 64 streams.
    async fn work(&self, addr: &str, more: &[&str]) -> CellResult {
        let (listener, target) = self.listen(addr, more).await?;
        let mut figures = Vec::new();
        for (command, event, field, unit) in [
            (&["ping", "--count", "50"][..], "ping", "p50_us", "us p50"),
            (
                &["echo", "--size", "10MiB"],
                "echo",
                "bytes",
                "bytes echoed",
            ),
            (
                &[
                    "bench",
                    "streams",
                    "--count",
                    "64",
                    "--concurrency",
                    "64",
                    "--size",
                    "16KiB",
                ],
                "streams",
                "per_s",
                "streams per s",
            ),
        ] {
            let mut line = command.to_vec();
            line.extend(more);
            line.extend(["--json", target.as_str()]);
            let shown = run(self.dialler, line, event, DEADLINE).await?;
            // Our own echo shows what it compared by ending well.
            if let Ok(value) = number(&shown, field) {
                figures.push(format!("{value:.0} {unit}"));
            }
        }
        listener.stop(DEADLINE).await?;
        Ok(figures.join(", "))
    }
}

pub(crate) async fn cells(tally: &mut Tally, pair: &Pair) -> Result<(), Failure> {
    for (direction, ends) in Ends::both(pair) {
        tally
            .cell(pair, direction, "over ws", ends.work(WS, &[]))
            .await;
    }
    if pair.stack != Foreign::Go {
        // rust-libp2p has its private networks in a crate of its own that this peer does not hold.
        return Ok(());
    }
    let keys = Keys::write()?;
    let (key, other) = (keys.path(0), keys.path(1));
    for (direction, ends) in Ends::both(pair) {
        for (name, addr) in [("tcp", TCP), ("ws", WS)] {
            let what = format!("private network, {name}");
            let member = ["--psk", key.as_str()];
            let work = ends.work(addr, &member);
            tally.cell(pair, direction, &what, work).await;
            let what = format!("other private network, {name}");
            let refused = refused(&ends, addr, &key, &other);
            tally.cell(pair, direction, &what, refused).await;
        }
    }
    Ok(())
}

/// Neither another key nor none gets in, and the listener goes on.
async fn refused(ends: &Ends<'_>, addr: &str, key: &str, other: &str) -> CellResult {
    let (listener, target) = ends.listen(addr, &["--psk", key]).await?;
    let mut said = Vec::new();
    for more in [&["--psk", other][..], &[]] {
        let mut line = vec!["ping", "--json", "--timeout", "10", target.as_str()];
        line.extend(more);
        let sentence = run_failing(ends.dialler, line, DEADLINE).await?;
        ensure(!sentence.contains("panic"), || sentence.clone())?;
        said.push(sentence.trim().replace('\n', " "));
    }
    let line = ["ping", "--json", "--psk", key, target.as_str()];
    run(ends.dialler, line, "ping", DEADLINE).await?;
    listener.stop(DEADLINE).await?;
    Ok(said.join(" | "))
}

/// Two key files in different encodings, gone with the cells.
struct Keys(PathBuf);

impl Keys {
    fn write() -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(format!("barewire-psk-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let keys = Self(folder);
        let random: Vec<String> = (0..32)
            .map(|_| format!("{:02x}", rand::random::<u8>()))
            .collect();
        let head = "/key/swarm/psk/1.0.0/\n";
        let hex = format!("{head}/base16/\n{}\n", random.concat());
        std::fs::write(keys.path(0), hex)?;
        let mut binary = format!("{head}/bin/\n").into_bytes();
        binary.extend(rand::random::<[u8; 32]>());
        std::fs::write(keys.path(1), binary)?;
        Ok(keys)
    }

    fn path(&self, which: usize) -> String {
        self.0.join(format!("{which}.key")).display().to_string()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
