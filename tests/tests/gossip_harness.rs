//! The contract of the public harness for gossipsub: three processes of ours and one on go-libp2p follow one script, each in a
//! network namespace of its own and with the host name that the harness would give it. Needs root and `ip`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use barewire_tests::{
    netns::{self, Netns},
    peers::{self, Foreign},
    process::{Failure, Process, run_failing, text},
};
use serde_json::{Value, json};

/// Longest that a node may take beyond its script.
const DEADLINE: Duration = Duration::from_secs(60);
/// The go node comes second, between two of ours.
const GO: usize = 1;
const NODES: usize = 4;
/// Messages of each node.
const EACH: usize = 3;
const TOPIC: &str = "blobs";
const PARTS: &str = "parts";

/// A namespace for each node, and one with the switch between them.
struct Net {
    _switch: Netns,
    nodes: Vec<Netns>,
}

impl Net {
    fn new() -> Result<Self, Failure> {
        let switch = Netns::new("s")?;
        switch.ip("link add br0 type bridge\nlink set br0 up")?;
        let hosts: String = (0..NODES)
            .map(|node| format!("{} node{node}\n", address(node)))
            .collect();
        let mut nodes = Vec::new();
        for node in 0..NODES {
            let home = Netns::new("n")?;
            // `ip netns exec` shows these files in place of those of /etc.
            fs::create_dir_all(files(home.name()))?;
            fs::write(files(home.name()).join("hosts"), &hosts)?;
            let port = format!("v{node}");
            netns::cable((&switch, &port), (&home, "eth0"))?;
            switch.ip(&format!("link set {port} master br0"))?;
            home.ip(&format!("addr add {}/24 dev eth0", address(node)))?;
            nodes.push(home);
        }
        Ok(Self {
            _switch: switch,
            nodes,
        })
    }

    fn start(&self, node: usize, program: &Path, script: &Path) -> Result<Process, Failure> {
        let become_it =
            format!("echo node{node} > /proc/sys/kernel/hostname && exec \"$0\" \"$@\"");
        let mut command = self.nodes[node].command("unshare");
        command
            .args(["--uts", "sh", "-c", &become_it])
            .arg(program)
            .args(["interop", "gossip", "--params"])
            .arg(script);
        Process::spawn(command)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for home in &self.nodes {
            drop(fs::remove_dir_all(files(home.name())));
        }
    }
}

fn address(node: usize) -> String {
    format!("10.62.0.{}", node + 1)
}

fn files(namespace: &str) -> PathBuf {
    Path::new("/etc/netns").join(namespace)
}

/// `instruction` for one node.
fn only(node: usize, instruction: &Value) -> Value {
    json!({"type": "ifNodeIDEquals", "nodeID": node, "instruction": instruction})
}

/// A row of nodes that all publish, and each have two of the eight parts of a message.
fn script() -> Value {
    let wait = |seconds: u64| json!({"type": "waitUntil", "elapsedSeconds": seconds});
    let mut script = vec![];
    for node in 0..NODES {
        // Whole numbers, for go reads no others as times.
        let params = json!({
            "HeartbeatInitialDelay": 100_000_000 + 100_000 * node,
            "HeartbeatInterval": 500_000_000,
        });
        script.push(only(
            node,
            &json!({"type": "initGossipSub", "gossipSubParams": params}),
        ));
    }
    script
        .push(json!({"type": "setTopicValidationDelay", "topicID": TOPIC, "delaySeconds": 0.005}));
    for node in 0..NODES - 1 {
        script.push(only(
            node,
            &json!({"type": "connect", "connectTo": [node + 1]}),
        ));
    }
    script.push(json!({"type": "subscribeToTopic", "topicID": TOPIC}));
    script.push(json!({"type": "subscribeToTopic", "topicID": PARTS, "partial": true}));
    script.push(wait(6));
    for id in 0..NODES * EACH {
        // From what fits into one frame to what takes more than go's usual limit.
        let size = [8, 96 << 10, 3 << 20][id / NODES];
        let publish =
            json!({"type": "publish", "messageID": id, "messageSizeBytes": size, "topicID": TOPIC});
        script.push(only(id % NODES, &publish));
    }
    // Parts are told once: a peer of go drops what its queue of 32 does not take.
    script.push(wait(9));
    for node in 0..NODES {
        let add = json!({"type": "addPartialMessage", "topicID": PARTS, "groupID": 7, "parts": 3 << (2 * node)});
        script.push(only(node, &add));
    }
    script.push(json!({"type": "publishPartial", "topicID": PARTS, "groupID": 7}));
    script.push(wait(13));
    json!({"script": script})
}

/// Everything that a node says, and what it complains of.
async fn all_of(mut process: Process) -> Result<(Vec<Value>, String), Failure> {
    let mut lines = Vec::new();
    while let Ok(line) = process.event(DEADLINE).await {
        lines.push(line);
    }
    let stderr = process.stderr();
    match process.wait(DEADLINE).await? {
        status if status.success() => Ok((lines, stderr)),
        status => Err(format!("{status}: {stderr}").into()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_of_two_stacks_follow_a_script() {
    if !netns::available() {
        barewire_tests::skip("needs root and iproute2 for network namespaces");
        return;
    }
    let Some(go) = Foreign::Go.build_or_skip() else {
        return;
    };
    let ours = peers::barewire().expect("barewire builds");
    let net = Net::new().unwrap();
    let file = std::env::temp_dir().join(format!("{}.json", net.nodes[0].name()));
    fs::write(&file, script().to_string()).unwrap();
    let nodes: Vec<_> = (0..NODES)
        .map(|node| {
            let program = if node == GO { &go } else { &ours };
            net.start(node, program, &file).unwrap()
        })
        .collect();
    let said = futures::future::join_all(nodes.into_iter().map(all_of)).await;
    fs::remove_file(&file).unwrap();
    let mut peers = BTreeSet::new();
    let mut missing = Vec::new();
    for (node, lines) in said.into_iter().enumerate() {
        let (lines, stderr) = lines.unwrap_or_else(|cause| panic!("node {node}: {cause}"));
        for line in &lines {
            let time = text(line, "time").unwrap();
            assert!(time.len() >= 20 && time.as_bytes()[10] == b'T', "{line}");
        }
        let of = |msg: &'static str| lines.iter().filter(move |line| line["msg"] == msg);
        let first = of("PeerID").next().unwrap();
        assert_eq!(first["node_id"], node);
        peers.insert(text(first, "id").unwrap().to_owned());
        let blobs: Vec<_> = of("Received Message")
            .map(|line| {
                assert_eq!(line["topic"], TOPIC, "{line}");
                text(line, "from").unwrap();
                text(line, "id").unwrap().parse::<usize>().unwrap()
            })
            .collect();
        let expected: BTreeSet<usize> = (0..NODES * EACH).filter(|id| id % NODES != node).collect();
        let got: BTreeSet<usize> = blobs.iter().copied().collect();
        let whole = of("All parts received").count();
        println!(
            "node {node} ({}): {} receipts of {} messages, {}",
            if node == GO { "go" } else { "ours" },
            blobs.len(),
            got.len(),
            if whole == 1 {
                "all parts"
            } else {
                "not all parts"
            }
        );
        if (&got, whole) != (&expected, 1) {
            missing.push((node, got, whole, stderr));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert_eq!(peers.len(), NODES);
}

/// What is no script, or for nobody here, is an error that says so.
#[tokio::test]
async fn what_is_no_script_is_an_error() {
    let ours = peers::barewire().expect("barewire builds");
    let file = std::env::temp_dir().join(format!("bwg{}.json", std::process::id()));
    for (content, word) in [
        ("{", "is no script"),
        (r#"{"script":[{"type":"dance"}]}"#, "dance"),
        (r#"{"script":[]}"#, "node"),
    ] {
        fs::write(&file, content).unwrap();
        let args = ["interop", "gossip", "--params", file.to_str().unwrap()];
        let said = run_failing(&ours, args, DEADLINE).await.unwrap();
        assert!(said.contains(word), "{content}: {said}");
    }
    fs::remove_file(&file).unwrap();
    let said = run_failing(&ours, ["interop", "gossip"], DEADLINE)
        .await
        .unwrap();
    assert!(said.contains("--params"), "{said}");
}
