//! The public harness for hole punching: two nodes behind routers of their own that translate addresses, with a relay in the open between
//! them. Needs root, `ip` and `nft`.

use std::time::Duration;

use barewire_tests::{
    debian,
    nat::{self, Nat, PUBLIC, World},
    netns::Netns,
    peers,
};

use crate::DEADLINE;

/// The relay.
const RELAY: &str = PUBLIC[0];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_harness_gets_its_answer() {
    if let Err(reason) = nat::available() {
        barewire_tests::skip(&reason);
        return;
    }
    if let Err(reason) = debian::install("redis-server", "redis-server") {
        barewire_tests::skip(&reason);
        return;
    }
    let ours = peers::barewire().expect("barewire builds");
    let world = World::new(Duration::ZERO).unwrap();
    let homes = [1, 2].map(|number| world.home(number, Nat::PortRestricted).unwrap());
    let mut redis = world.namespace().command("redis-server");
    redis
        .stdin(std::process::Stdio::null())
        .args(["--bind", RELAY, "--protected-mode", "no"])
        .args(["--save", "", "--appendonly", "no"])
        .current_dir(std::env::temp_dir())
        .stdout(std::process::Stdio::null());
    let _redis = redis.spawn().unwrap();
    let part = |at: &Netns, more: &[(&str, &str)]| {
        let mut command = at.command(&ours);
        command
            .stdin(std::process::Stdio::null())
            .args(["interop", "hole-punch"])
            .env("REDIS_ADDR", format!("{RELAY}:6379"))
            .env("TEST_KEY", "a5b50d5e")
            .env("TRANSPORT", "quic-v1")
            .envs(more.iter().copied());
        command
    };
    let _relay = part(
        world.namespace(),
        &[("IS_RELAY", "true"), ("RELAY_IP", RELAY)],
    )
    .spawn()
    .unwrap();
    let _listener = part(homes[1].host(), &[]).spawn().unwrap();
    let mut dialler = part(homes[0].host(), &[("IS_DIALER", "true")]);
    let said = tokio::time::timeout(DEADLINE, dialler.output()).await;
    let said = said.expect("the dialler ends").unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    assert_eq!(lines.get(1), Some(&"unit: ms"), "{text}");
    let time = lines[0].strip_prefix("handshakeTime: ").unwrap();
    println!("the harness reads {time} ms to a direct connection");
    assert!(time.parse::<f64>().unwrap() > 0.0);
}
