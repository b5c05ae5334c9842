//! Meshes of `barewire` with real go-, rust-, js- and py-libp2p peers: every message reaches every subscriber.
//!
//! `cargo test -p barewire-tests --test gossip_interop -- --nocapture` prints a line per mesh. A stack whose toolchain is absent is
//! skipped with the reason, unless CI=true.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use barewire_tests::{
    peers::{self, Foreign, Unavailable},
    process::{Failure, Process, number, run, text},
};
use futures::{StreamExt, future::try_join_all, stream};

/// Every step ends within this, also on a machine that builds something else meanwhile.
const DEADLINE: Duration = Duration::from_secs(60);
const TOPIC: &str = "interop";
/// Messages of each size.
const COUNT: usize = 4;
const SIZES: [&str; 4] = ["1", "200", "64KiB", "1MiB"];
/// Meshes at a time.
const AT_ONCE: usize = 4;

/// One side of a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Ours,
    Theirs,
}
use Who::{Ours, Theirs};

/// Publisher, relay, subscriber.
type Order = [Who; 3];

const ORDERS: [Order; 4] = [
    [Theirs, Ours, Theirs],
    [Ours, Theirs, Ours],
    [Theirs, Ours, Ours],
    [Ours, Ours, Theirs],
];

/// What is asked of a stack: version and policy. The first in all orders, the others in two.
fn cases(stack: Foreign) -> &'static [(&'static str, &'static str)] {
    match stack {
        Foreign::Go => &[
            ("1.3", "strict"),
            ("1.2", "strict"),
            ("1.1", "strict"),
            ("1.3", "anonymous"),
        ],
        // It cannot offer 1.2 without 1.3.
        Foreign::Rust => &[("1.3", "strict"), ("1.1", "strict"), ("1.3", "anonymous")],
        // It has no 1.3.
        Foreign::Js => &[("1.2", "strict"), ("1.1", "strict"), ("1.2", "anonymous")],
        // It names an author in every message.
        _ => &[("1.2", "strict"), ("1.1", "strict")],
    }
}

struct Mesh<'a> {
    ours: &'a Path,
    theirs: &'a Path,
    options: Vec<&'a str>,
}

impl Mesh<'_> {
    fn program(&self, who: Who) -> &Path {
        match who {
            Ours => self.ours,
            Theirs => self.theirs,
        }
    }

    fn args<'a>(&'a self, command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
        let common = [command, "--topic", TOPIC, "--json"];
        [&common[..], &self.options, more].concat()
    }

    /// All messages, once, from the publisher through the relay to the subscriber.
    async fn chain(&self, [publisher, relay, subscriber]: Order) -> Result<(), Failure> {
        let args = self.args("listen", &["--listen", "/ip4/127.0.0.1/tcp/0", "--quiet"]);
        let (relaying, addr) = Process::listen(self.program(relay), args, DEADLINE).await?;
        let total = COUNT * SIZES.len();
        let expect = total.to_string();
        let args = self.args(
            "subscribe",
            &[&addr, "--expect", &expect, "--timeout", "60"],
        );
        let mut subscribing = Process::start(self.program(subscriber), args)?;
        subscribing.expect("subscribed", DEADLINE).await?;
        for size in SIZES {
            self.publish(publisher, &addr, size).await?;
        }
        let mut seen = BTreeSet::new();
        for _ in 0..total {
            let message = subscribing.expect("message", DEADLINE).await?;
            seen.insert((
                number(&message, "len")? as u64,
                text(&message, "sha256")?.to_owned(),
            ));
        }
        let received = subscribing.expect("received", DEADLINE).await?;
        let largest = seen.iter().filter(|(len, _)| *len == 1 << 20).count();
        if (number(&received, "count")? as usize, seen.len(), largest) != (total, total, COUNT) {
            return Err(format!("{received}, {} different, {largest} of 1 MiB", seen.len()).into());
        }
        relaying.stop(DEADLINE).await
    }

    async fn publish(&self, who: Who, addr: &str, size: &str) -> Result<(), Failure> {
        let count = COUNT.to_string();
        let times = ["--settle-ms", "300", "--linger-ms", "500"];
        let what = [addr, "--count", &count, "--size", size];
        let args = self.args("publish", &[&what[..], &times].concat());
        let published = run(self.program(who), args, "published", DEADLINE).await?;
        match number(&published, "dropped")? {
            0.0 => Ok(()),
            _ => Err(format!("the publisher dropped messages: {published}").into()),
        }
    }
}

fn build(stack: Foreign) -> Option<PathBuf> {
    match stack.build() {
        Ok(program) => Some(program),
        Err(Unavailable::NoToolchain(reason)) if !peers::required() => {
            println!("skipped: {stack}: {reason}");
            None
        }
        Err(cause) => panic!("{stack}: {cause}"),
    }
}

async fn chains(stack: Foreign) {
    let Some(theirs) = build(stack) else { return };
    let ours = peers::barewire().expect("barewire builds");
    let mut meshes = Vec::new();
    for (index, (version, sign)) in cases(stack).iter().enumerate() {
        let options = vec![
            "--version",
            *version,
            "--sign",
            *sign,
            "--message-id",
            "sha256",
            "--max-message-size",
            "2MiB",
        ];
        let orders = if index == 0 {
            &ORDERS[..]
        } else {
            &ORDERS[..2]
        };
        for order in orders {
            let mesh = Mesh {
                ours: &ours,
                theirs: &theirs,
                options: options.clone(),
            };
            meshes.push((*version, *sign, *order, mesh));
        }
    }
    let results = stream::iter(meshes).map(|(version, sign, order, mesh)| async move {
        let begun = Instant::now();
        let result = mesh.chain(order).await;
        let secs = begun.elapsed().as_secs_f64();
        let name = format!("{stack} {version} {sign} {order:?}");
        match &result {
            Ok(()) => println!("ok   {name}: {} of {0}, {secs:.1} s", COUNT * SIZES.len()),
            Err(cause) => println!("FAIL {name}: {cause}, {secs:.1} s"),
        }
        result.is_err().then_some(name)
    });
    let failed: Vec<_> = results
        .buffer_unordered(AT_ONCE)
        .filter_map(|name| async { name })
        .collect()
        .await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test]
async fn go() {
    chains(Foreign::Go).await;
}

#[tokio::test]
async fn rust() {
    chains(Foreign::Rust).await;
}

#[tokio::test]
async fn js() {
    chains(Foreign::Js).await;
}

#[tokio::test]
async fn py() {
    chains(Foreign::Py).await;
}

/// Everybody around one hub; each publishes, and each gets everything.
#[tokio::test]
async fn a_mesh_of_all_stacks() {
    const EACH: usize = 5;
    let ours = peers::barewire().expect("barewire builds");
    let stacks = [Foreign::Go, Foreign::Rust, Foreign::Js, Foreign::Py];
    let mut all: Vec<(String, PathBuf)> = vec![("ours".into(), ours)];
    all.extend(
        stacks
            .into_iter()
            .filter_map(|stack| Some((stack.to_string(), build(stack)?))),
    );
    let options = [
        "--topic",
        TOPIC,
        "--message-id",
        "sha256",
        "--max-message-size",
        "2MiB",
        "--json",
    ];
    for hub in 0..all.len().min(2) {
        let (hub_name, program) = &all[hub];
        let listen = ["listen", "--listen", "/ip4/127.0.0.1/tcp/0", "--quiet"];
        let args = [&listen[..], &options].concat();
        let (relaying, addr) = Process::listen(program, args, DEADLINE).await.unwrap();
        let expect = (EACH * all.len()).to_string();
        let mut subscribers = Vec::new();
        for (name, program) in &all {
            let mine = ["subscribe", &addr, "--expect", &expect, "--timeout", "60"];
            let process = Process::start(program, [&mine[..], &options].concat()).unwrap();
            subscribers.push((name, process));
        }
        for (_, process) in &mut subscribers {
            process.expect("subscribed", DEADLINE).await.unwrap();
        }
        let count = EACH.to_string();
        let publishing = all.iter().map(|(_, program)| {
            let mine = [
                "publish",
                &addr,
                "--count",
                &count,
                "--size",
                "1000",
                "--settle-ms",
                "500",
            ];
            run(
                program,
                [&mine[..], &options].concat(),
                "published",
                DEADLINE,
            )
        });
        try_join_all(publishing).await.unwrap();
        for (name, process) in &mut subscribers {
            let received = process.expect("received", DEADLINE).await;
            let received = received.unwrap_or_else(|cause| panic!("{name}: {cause}"));
            assert_eq!(
                number(&received, "count").unwrap() as usize,
                EACH * all.len(),
                "{name}"
            );
            println!("ok   hub {hub_name}: {name} got {expect}");
        }
        relaying.stop(DEADLINE).await.unwrap();
    }
}
