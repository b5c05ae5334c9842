//! Rows of three: a publisher, a relay and a subscriber, of one stack and of ours.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Instant,
};

use barewire_tests::{
    full,
    peers::{self, Foreign},
    process::{Failure, Process, number, run, text},
};
use futures::{StreamExt, future::try_join_all, stream};

use super::{DEADLINE, TOPIC};

/// Messages of each size.
const COUNT: usize = 4;
const SIZES: [&str; 4] = ["1", "200", "64KiB", "1MiB"];
const EDGES: [&str; 2] = ["1", "1MiB"];
/// Meshes at a time.
const AT_ONCE: usize = 4;
/// How long a publisher stays unless it is stopped: as long as everything else may take.
const LINGER_MS: &str = "60000";

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

/// What is asked of a stack.
struct Case {
    name: String,
    options: Vec<&'static str>,
    orders: &'static [Order],
    sizes: &'static [&'static str],
}

impl Case {
    fn new(
        version: &'static str,
        sign: &'static str,
        orders: &'static [Order],
        sizes: &'static [&'static str],
    ) -> Self {
        let mut options = vec!["--version", version, "--sign", sign];
        // Ids differ from stack to stack, and so does what fits into an RPC.
        options.extend(["--message-id", "sha256", "--max-message-size", "2MiB"]);
        Self {
            name: format!("{version} {sign}"),
            options,
            orders,
            sizes,
        }
    }
}

/// What a stack speaks: the first in all orders, what is usual in both directions, the rest with the shortest and the longest
/// messages. And once everything as it is when nobody says anything.
fn cases(stack: Foreign) -> Vec<Case> {
    let (usual, rest): (&[_], &[_]) = match stack {
        Foreign::Go => (
            &[
                ("1.3", "strict"),
                ("1.2", "strict"),
                ("1.1", "strict"),
                ("1.3", "anonymous"),
            ],
            &[("1.0", "strict"), ("floodsub", "strict"), ("1.3", "none")],
        ),
        // It cannot offer 1.2 without 1.3.
        Foreign::Rust => (
            &[("1.3", "strict"), ("1.1", "strict"), ("1.3", "anonymous")],
            &[("1.0", "strict"), ("floodsub", "strict"), ("1.3", "none")],
        ),
        // It has no 1.3, and no messages with an author and without a signature.
        Foreign::Js => (
            &[("1.2", "strict"), ("1.1", "strict"), ("1.2", "anonymous")],
            &[("1.0", "strict"), ("floodsub", "strict")],
        ),
        // It names an author in every message.
        _ => (
            &[("1.2", "strict"), ("1.1", "strict")],
            &[
                ("1.3", "strict"),
                ("1.0", "strict"),
                ("floodsub", "strict"),
                ("1.2", "none"),
            ],
        ),
    };
    let mut cases = Vec::new();
    for (at, (version, sign)) in usual.iter().enumerate() {
        let orders = if at == 0 { &ORDERS[..] } else { &ORDERS[..2] };
        cases.push(Case::new(version, sign, orders, &SIZES));
    }
    for (version, sign) in rest {
        let orders = match *sign {
            // They name an author that nobody signs for, which the specification forbids and we refuse. They get what is ours.
            "none" => &ORDERS[3..],
            _ if full() => &ORDERS[..2],
            _ => &ORDERS[..1],
        };
        cases.push(Case::new(version, sign, orders, &EDGES));
    }
    cases.push(Case {
        name: "all defaults".to_owned(),
        options: Vec::new(),
        orders: &ORDERS[..2],
        sizes: &["32KiB"],
    });
    cases
}

struct Mesh<'a> {
    ours: &'a Path,
    theirs: &'a Path,
    /// Where the relay listens.
    listen: &'a str,
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
    async fn chain(
        &self,
        [publisher, relay, subscriber]: Order,
        sizes: &[&str],
    ) -> Result<(), Failure> {
        let args = self.args("listen", &["--listen", self.listen, "--quiet"]);
        let (relaying, addr) = Process::listen(self.program(relay), args, DEADLINE).await?;
        let total = COUNT * sizes.len();
        let expect = total.to_string();
        let args = self.args(
            "subscribe",
            &[&addr, "--expect", &expect, "--timeout", "60"],
        );
        let mut subscribing = Process::start(self.program(subscriber), args)?;
        subscribing.expect("subscribed", DEADLINE).await?;
        let (mut seen, mut all_lens) = (BTreeSet::new(), BTreeSet::new());
        for size in sizes {
            // It stays until all has arrived: what it wrote is in its own buffers for as long as the others are slow.
            let publishing = self.publish(publisher, &addr, size).await?;
            let mut lens = BTreeSet::new();
            for at in 0..COUNT {
                let message = subscribing.expect("message", DEADLINE).await;
                let message = message.map_err(|cause| format!("{size}, message {at}: {cause}"))?;
                lens.insert(number(&message, "len")? as u64);
                seen.insert(text(&message, "sha256")?.to_owned());
            }
            if lens.len() != 1 {
                return Err(format!("messages of {size} have lengths {lens:?}").into());
            }
            all_lens.append(&mut lens);
            drop(publishing);
        }
        let received = subscribing.expect("received", DEADLINE).await?;
        let count = number(&received, "count")? as usize;
        if (count, seen.len(), all_lens.len()) != (total, total, sizes.len()) {
            let different = seen.len();
            return Err(format!("{received}, {different} different, of {all_lens:?}").into());
        }
        relaying.stop(DEADLINE).await
    }

    /// A publisher that has sent everything, and stays.
    async fn publish(&self, who: Who, addr: &str, size: &str) -> Result<Process, Failure> {
        let count = COUNT.to_string();
        let times = ["--settle-ms", "300", "--linger-ms", LINGER_MS];
        let what = [addr, "--count", &count, "--size", size];
        let args = self.args("publish", &[&what[..], &times].concat());
        let mut process = Process::start(self.program(who), args)?;
        let published = process.expect("published", DEADLINE).await?;
        match number(&published, "dropped")? {
            0.0 => Ok(process),
            _ => Err(format!("the publisher dropped messages: {published}").into()),
        }
    }
}

/// Runs each case in its orders, and names those that fail.
async fn run_all(stack: Foreign, listen: &str, cases: Vec<Case>) {
    let Some(theirs) = stack.build_or_skip() else {
        return;
    };
    let ours = peers::barewire().expect("barewire builds");
    let mut meshes = Vec::new();
    for case in &cases {
        for order in case.orders {
            let mesh = Mesh {
                ours: &ours,
                theirs: &theirs,
                listen,
                options: case.options.clone(),
            };
            meshes.push((&case.name, *order, case.sizes, mesh));
        }
    }
    let results = stream::iter(meshes).map(|(name, order, sizes, mesh)| async move {
        let begun = Instant::now();
        let result = mesh.chain(order, sizes).await;
        let secs = begun.elapsed().as_secs_f64();
        let name = format!("{stack} {name} {order:?}");
        match result {
            Ok(()) => {
                println!("ok   {name}: {} of {0}, {secs:.1} s", COUNT * sizes.len());
                None
            }
            Err(cause) => Some(format!("{name}: {cause}, {secs:.1} s")),
        }
    });
    let failed: Vec<_> = results
        .buffer_unordered(AT_ONCE)
        .filter_map(|name| async { name })
        .collect()
        .await;
    assert!(failed.is_empty(), "{failed:#?}");
}

async fn chains(stack: Foreign) {
    run_all(stack, "/ip4/127.0.0.1/tcp/0", cases(stack)).await;
}

/// A browser dials, so that the relay is ours.
#[tokio::test]
async fn chromium() {
    let cases = [("1.2", "strict"), ("1.2", "anonymous")]
        .map(|(version, sign)| Case::new(version, sign, &ORDERS[2..], &EDGES));
    let count = if full() { 2 } else { 1 };
    let cases = cases.into_iter().take(count).collect();
    run_all(Foreign::Chromium, "/ip4/127.0.0.1/tcp/0/ws", cases).await;
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

/// A relay that could read faster than it can send on, to a subscriber that hashes and prints what it gets.
#[tokio::test]
async fn a_relay_drops_nothing_that_the_next_can_take() {
    const COUNT: &str = "2000";
    let ours = peers::barewire().expect("barewire builds");
    for sign in ["none", "strict"] {
        let options = ["--topic", TOPIC, "--sign", sign, "--json"];
        let listen = ["listen", "--listen", "/ip4/127.0.0.1/tcp/0", "--quiet"];
        let args = [&listen[..], &options].concat();
        let (relaying, addr) = Process::listen(&ours, args, DEADLINE).await.unwrap();
        let mine = ["subscribe", &addr, "--expect", COUNT, "--timeout", "60"];
        let mut subscribing = Process::start(&ours, [&mine[..], &options].concat()).unwrap();
        subscribing.expect("subscribed", DEADLINE).await.unwrap();
        let mine = ["publish", &addr, "--count", COUNT, "--size", "64KiB"];
        let publishing = run(&ours, [&mine[..], &options].concat(), "published", DEADLINE);
        let (published, received) =
            futures::join!(publishing, subscribing.expect("received", DEADLINE));
        let received = received.unwrap();
        println!("{}, {received}", published.unwrap());
        assert_eq!(number(&received, "count").unwrap(), 2000.0);
        relaying.stop(DEADLINE).await.unwrap();
    }
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
            .filter_map(|stack| Some((stack.to_string(), stack.build_or_skip()?))),
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
