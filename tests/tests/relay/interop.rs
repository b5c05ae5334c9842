//! Every mix of our command, go-libp2p and rust-libp2p as relay, as the node behind it, and as who dials, in which one of the three is
//! ours.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use barewire_tests::{
    peers::{self, Foreign},
    process::{Failure, Process, run, run_failing, text},
};

use crate::DEADLINE;

/// Of the programs, by name.
fn programs() -> BTreeMap<&'static str, PathBuf> {
    let mut programs = BTreeMap::from([("ours", peers::barewire().expect("barewire builds"))]);
    for (name, stack) in [("go", Foreign::Go), ("rust", Foreign::Rust)] {
        if let Some(program) = stack.build_or_skip() {
            programs.insert(name, program);
        }
    }
    programs
}

async fn relay(program: &Path, more: &[&str], at: &str) -> Result<(Process, String), Failure> {
    let args = [
        &["listen", "--json", "--relay-server", "--listen", at][..],
        more,
    ]
    .concat();
    Process::listen(program, args, DEADLINE).await
}

/// A node with a reservation, and the address that leads to it.
async fn behind(program: &Path, relay: &str) -> Result<(Process, String), Failure> {
    let listen = ["listen", "--json", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let args = [&listen[..], &["--relay", relay]].concat();
    let mut process = Process::start(program, args)?;
    let event = process.expect("relay_address", DEADLINE).await?;
    let addr = text(&event, "addr")?.to_owned();
    Ok((process, addr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mix_of_stacks_echoes_through_a_relay() {
    let programs = programs();
    let mut failures = Vec::new();
    let mut passed = 0;
    for (at, transport) in [
        ("/ip4/127.0.0.1/tcp/0", "tcp"),
        ("/ip4/127.0.0.1/udp/0/quic-v1", "quic"),
    ] {
        for (relay_name, program) in &programs {
            let (relaying, relay_addr) = relay(program, &[], at).await.unwrap();
            for (listener_name, program) in &programs {
                let reserved = behind(program, &relay_addr).await;
                let (listening, addr) = match reserved {
                    Ok(reserved) => reserved,
                    Err(cause) => {
                        failures.push(format!("{listener_name} behind {relay_name}: {cause}"));
                        continue;
                    }
                };
                for (dialler_name, program) in &programs {
                    let names = [relay_name, listener_name, dialler_name];
                    if !names.contains(&&"ours") {
                        continue;
                    }
                    let mix =
                        format!("{transport}: {dialler_name} → {relay_name} → {listener_name}");
                    // Less than any limit, both ways together and with all that goes around it.
                    let echo = [
                        "echo",
                        &addr,
                        "--size",
                        "40000",
                        "--json",
                        "--timeout",
                        "30",
                    ];
                    match run(program, echo, "echo", DEADLINE).await {
                        Ok(_) => {
                            passed += 1;
                            println!("{mix}: 40,000 bytes came back");
                        }
                        Err(cause) => failures.push(format!("{mix}: {cause}")),
                    }
                }
                drop(listening);
            }
            relaying.stop(DEADLINE).await.unwrap();
        }
    }
    println!("{passed} mixes passed");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_told_and_kept_by_all_relays() {
    let programs = programs();
    let ours = &programs["ours"];
    for (name, program) in &programs {
        let at = "/ip4/127.0.0.1/tcp/0";
        let limits = ["--relay-data", "60000", "--relay-duration", "30"];
        let (_relaying, relay_addr) = relay(program, &limits, at).await.unwrap();
        let (_listening, addr) = behind(ours, &relay_addr).await.unwrap();
        let dial = ["dial", &addr, "--json"];
        let event = run(ours, dial, "connected", DEADLINE).await.unwrap();
        let limit = &event["limit"];
        assert_eq!(
            (&limit["bytes"], &limit["seconds"]),
            (&60_000.into(), &30.into()),
            "{name}"
        );
        let echo = ["echo", &addr, "--size", "1MiB", "--timeout", "20"];
        let said = run_failing(ours, echo, DEADLINE).await.unwrap();
        println!(
            "{name}'s relay: {limit} were announced; 1 MiB: {}",
            said.trim()
        );
    }
    // Peers that the operator lists have none.
    let at = "/ip4/127.0.0.1/tcp/0";
    let dir = std::env::temp_dir().join(format!("barewire-relay-{}", std::process::id()));
    let file = dir.to_string_lossy().into_owned();
    let event = run(ours, ["id", "--key", &file, "--json"], "id", DEADLINE)
        .await
        .unwrap();
    let peer = text(&event, "peer").unwrap().to_owned();
    let (_relaying, relay_addr) = relay(ours, &["--relay-unlimited", &peer], at)
        .await
        .unwrap();
    let listen = ["listen", "--json", "--key", &file, "--relay", &relay_addr];
    let mut listening = Process::start(ours, listen).unwrap();
    let event = listening.expect("relay_address", DEADLINE).await.unwrap();
    let addr = text(&event, "addr").unwrap().to_owned();
    for (name, program) in &programs {
        let echo = ["echo", &addr, "--size", "4MiB", "--json", "--timeout", "30"];
        run(program, echo, "echo", DEADLINE).await.unwrap();
        println!("{name}: 4 MiB came back through a circuit without limits");
    }
    std::fs::remove_file(dir).unwrap();
}
