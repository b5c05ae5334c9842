//! Foreign clients at our point, and ours at theirs.

use barewire_tests::peers::Foreign;

use super::*;

async fn register(program: &Path, point: &str, key: &str, more: &[&str]) -> Result<Value, Failure> {
    let args = [
        "rendezvous",
        "register",
        point,
        "--ns",
        NS,
        "--key",
        key,
        "--json",
    ];
    run(program, [&args[..], more].concat(), "registered", SOON).await
}

async fn unregister(program: &Path, point: &str, key: &str) -> Result<Value, Failure> {
    let args = [
        "rendezvous",
        "unregister",
        point,
        "--ns",
        NS,
        "--key",
        key,
        "--json",
    ];
    run(program, args, "unregistered", SOON).await
}

/// Registers two of theirs and one of ours with the point, and everybody finds all of them.
async fn meet(stack: Foreign, theirs: &Path, point: &str, pages: bool) -> Result<(), Failure> {
    let ours = barewire();
    let folder = Folder::new(&format!("{stack}-{pages}"));
    let (first, first_key) = folder.key("first").await;
    let (second, second_key) = folder.key("second").await;
    let (third, third_key) = folder.key("third").await;
    for key in [&first_key, &second_key] {
        let registered = register(theirs, point, key, &["--ttl", "7200"]).await?;
        assert_eq!(number(&registered, "ttl")? as u64, 7_200, "{registered}");
    }
    let address = ["--address", "/ip4/127.0.0.1/tcp/4001"];
    let registered = register(&ours, point, &third_key, &address).await?;
    assert_eq!(number(&registered, "ttl")? as u64, 7_200, "{registered}");
    let mut all = vec![first.clone(), second, third.clone()];
    all.sort();
    for (name, program, key) in [
        ("ours", ours.as_path(), &third_key),
        ("theirs", theirs, &first_key),
    ] {
        let mut found = discover(program, point, &["--key", key]).await?;
        found.peers.sort();
        let mut all = all.clone();
        if stack == Foreign::Js && name == "theirs" {
            // canvas-js leaves out who asks.
            all.retain(|peer| *peer != first);
        }
        assert_eq!(found.peers, all, "{name} at {point}");
        for one in &found.registrations {
            let addrs = one["addrs"].as_array().unwrap();
            assert!(!addrs.is_empty(), "{one}");
            assert!(
                one["ttl"]
                    .as_u64()
                    .is_none_or(|ttl| (7_000..=7_200).contains(&ttl)),
                "{one}"
            );
        }
        // Page by page with cookies: the last one is empty.
        if pages {
            let mut found = discover(program, point, &["--key", key, "--limit", "2"]).await?;
            found.peers.sort();
            assert_eq!(found.peers, all, "{name} at {point}");
            assert_eq!(found.pages, 3, "{name} at {point}");
        }
    }
    unregister(theirs, point, &first_key).await?;
    unregister(&ours, point, &third_key).await?;
    let left = discover(&ours, point, &[]).await?;
    assert!(!left.peers.contains(&first) && !left.peers.contains(&third));
    assert_eq!(left.peers.len(), 1);
    Ok(())
}

/// A node of ours stays registered with a foreign point, and another finds it there and connects.
async fn stay(point: &str) -> Result<(), Failure> {
    let args = |ns| {
        [
            "listen",
            "--json",
            "--listen",
            TCP,
            "--rendezvous",
            point,
            "--ns",
            ns,
        ]
    };
    let (mut first, addr) = Process::listen(&barewire(), args("room"), SOON).await?;
    first.expect("registered", SOON).await?;
    let more = ["--events", "--rendezvous-poll", "1"];
    let mut second = Process::start(&barewire(), [&args("room")[..], &more].concat())?;
    let found = second.expect("registration", SOON).await?;
    let peer = text(&found, "peer")?;
    assert!(addr.ends_with(peer), "{addr} {peer}");
    loop {
        let connected = second.expect("connected", SOON).await?;
        if text(&connected, "peer")? == peer {
            return Ok(());
        }
    }
}

async fn both_ways(stack: Foreign, pages_there: bool) {
    let Some(theirs) = stack.build_or_skip() else {
        return;
    };
    let serve = ["listen", "--json", "--listen", TCP, "--rendezvous-server"];
    let (at_ours, point) = Process::listen(&barewire(), serve, SOON).await.unwrap();
    // canvas-js asks for one page only.
    meet(stack, &theirs, &point, stack != Foreign::Js)
        .await
        .unwrap();
    at_ours.stop(SOON).await.unwrap();
    let (_at_theirs, point) = Process::listen(&theirs, serve, SOON).await.unwrap();
    meet(stack, &theirs, &point, pages_there).await.unwrap();
    stay(&point).await.unwrap();
}

#[tokio::test]
async fn go() {
    both_ways(Foreign::Go, true).await;
}

#[tokio::test]
async fn rust() {
    both_ways(Foreign::Rust, true).await;
}

/// The cookies of its point lead back to where the page began.
#[tokio::test]
async fn js() {
    both_ways(Foreign::Js, false).await;
}
