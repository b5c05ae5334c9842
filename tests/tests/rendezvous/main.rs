//! Rendezvous end to end: with real go, rust and js peers in both roles, and among ourselves (scenario 7).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod foreign;
mod own;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use barewire_tests::{
    peers,
    process::{Failure, Process, number, run, text},
};
use serde_json::Value;

/// For one step, on a machine that does other things.
const SOON: Duration = Duration::from_secs(60);
const NS: &str = "meeting";
const TCP: &str = "/ip4/127.0.0.1/tcp/0";

fn barewire() -> PathBuf {
    peers::barewire().expect("barewire builds")
}

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("barewire-rendezvous-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// An identity in a file, and the file.
    async fn key(&self, name: &str) -> (String, String) {
        let file = self.0.join(name).display().to_string();
        let args = ["id", "--json", "--key", &file];
        let made = run(&barewire(), args, "id", SOON).await.unwrap();
        (text(&made, "peer").unwrap().to_owned(), file)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Everything that `rendezvous discover` says.
struct Found {
    peers: Vec<String>,
    pages: u64,
    registrations: Vec<Value>,
}

async fn discover(program: &Path, point: &str, more: &[&str]) -> Result<Found, Failure> {
    let args = ["rendezvous", "discover", point, "--json", "--ns", NS];
    let mut process = Process::start(program, [&args[..], more].concat())?;
    let mut registrations = Vec::new();
    let done = loop {
        let event = process.event(SOON).await?;
        match text(&event, "event")? {
            "registration" => registrations.push(event),
            "discovered" => break event,
            _ => {}
        }
    };
    process.wait(SOON).await?;
    assert_eq!(number(&done, "count")? as usize, registrations.len());
    let peer = |event: &Value| text(event, "peer").map(str::to_owned);
    Ok(Found {
        peers: registrations.iter().map(peer).collect::<Result<_, _>>()?,
        pages: number(&done, "pages")? as u64,
        registrations,
    })
}
