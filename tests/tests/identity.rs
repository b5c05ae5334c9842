//! One key file is one identity, for barewire, go-libp2p and rust-libp2p alike, and whoever shows another is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use barewire_tests::{
    peers::{self, Foreign},
    process::Process,
};

const SOON: Duration = Duration::from_secs(20);

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("barewire-identity-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn key(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

fn run(program: &Path, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap()
}

fn peer_of(program: &Path, key: &str) -> String {
    let output = run(program, &["id", "--key", key, "--json"]);
    assert!(output.status.success(), "{output:?}");
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    shown["peer"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_file_is_the_same_peer_in_every_stack() {
    let barewire = peers::barewire().expect("barewire builds");
    let folder = Folder::new();
    let (key, other) = (folder.key("one.key"), folder.key("other.key"));
    let (peer, stranger) = (peer_of(&barewire, &key), peer_of(&barewire, &other));
    assert_eq!(peer_of(&barewire, &key), peer, "after a restart");
    for stack in [Foreign::Go, Foreign::Rust] {
        let Some(foreign) = stack.build_or_skip() else {
            continue;
        };
        for security in ["noise", "tls"] {
            let args = ["listen", "--key", &key, "--security", security];
            let (listener, addr) = Process::listen(&foreign, args, SOON).await.unwrap();
            let (rest, shown) = addr.rsplit_once("/p2p/").unwrap();
            assert_eq!(shown, peer, "{stack} reads our key file as another peer");
            let proven = run(
                &barewire,
                &["identify", rest, "--security", security, "--json"],
            );
            assert!(proven.status.success(), "{proven:?}");
            let text = String::from_utf8_lossy(&proven.stdout);
            assert!(text.contains(&peer), "{text}");
            // Whoever answers with another key than the one dialled is refused, and both are named.
            let wrong = format!("{rest}/p2p/{stranger}");
            let refused = run(&barewire, &["ping", &wrong, "--security", security]);
            assert!(!refused.status.success());
            let sentence = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(
                sentence.contains(&peer) && sentence.contains(&stranger),
                "{sentence}"
            );
            println!("{stack} {security}: {peer}; the stranger's id is refused");
            listener.stop(SOON).await.unwrap();
        }
    }
}
