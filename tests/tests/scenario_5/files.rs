//! Key files.

use std::{
    fs,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use barewire_tests::{
    full,
    peers::{self, Foreign, Unavailable},
    process::{Process, run, run_failing, text},
};
use data_encoding::HEXLOWER;

use crate::{Folder, SOON};

/// The Ed25519 key of the specification of peer ids, in protobuf.
const SPECIFIED: &str = "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d\
                         1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e";
/// Its public key there: the peer id is its hash of the kind identity.
const SPECIFIED_PUBLIC: &str =
    "080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e";

async fn peer_of(barewire: &Path, key: &Path) -> String {
    let args = ["id", "--json", "--key", key.to_str().unwrap()];
    let event = run(barewire, args, "id", SOON).await.unwrap();
    text(&event, "peer").unwrap().to_owned()
}

async fn refused(barewire: &Path, key: &Path) -> String {
    let key = key.to_str().unwrap();
    let said = run_failing(barewire, ["listen", "--key", key], SOON);
    let said = said.await.unwrap();
    assert!(said.contains(key), "the file is named: {said}");
    said.trim_end().to_owned()
}

fn write(path: &Path, bytes: &[u8], mode: u32) {
    drop(fs::remove_file(path));
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, bytes))
        .unwrap();
    // Whatever the mask of this process is.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_key_file_is_private_and_survives_a_restart() {
    let barewire = peers::barewire().expect("barewire builds");
    let folder = Folder::new("files");
    let key = folder.file("node.key");
    let mut peers = Vec::new();
    for _ in 0..2 {
        let args = ["listen", "--json", "--key", key.to_str().unwrap()];
        let (listener, addr) = Process::listen(&barewire, args, SOON).await.unwrap();
        peers.push(addr.rsplit_once("/p2p/").unwrap().1.to_owned());
        listener.stop(SOON).await.unwrap();
    }
    assert_eq!(peers[0], peers[1], "after a restart");
    assert_eq!(peer_of(&barewire, &key).await, peers[0]);
    let mode = fs::metadata(&key).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600, "{mode:o}");
    println!(
        "scenario 5: a new key file has mode {mode:o} and is {} each time",
        peers[0]
    );

    let good = fs::read(&key).unwrap();
    let cases: [(&str, &[u8], u32, &str); 8] = [
        ("empty", b"", 0o600, "is empty"),
        (
            "garbage",
            b"not a key at all",
            0o600,
            "no usable Ed25519 private key",
        ),
        (
            "cut short",
            &good[..40],
            0o600,
            "no usable Ed25519 private key",
        ),
        (
            "a public key",
            &good[36..],
            0o600,
            "no usable Ed25519 private key",
        ),
        (
            "an RSA key",
            &[8, 0, 18, 2, 1, 1],
            0o600,
            "no usable Ed25519 private key",
        ),
        ("far too long", &[8; 20_000], 0o600, "too long"),
        (
            "readable by all",
            &good,
            0o644,
            "any user of this machine may read",
        ),
        (
            "readable by all, not the group",
            &good,
            0o604,
            "any user of this machine may read",
        ),
    ];
    for (name, bytes, mode, sentence) in cases {
        write(&key, bytes, mode);
        let said = refused(&barewire, &key).await;
        assert!(said.contains(sentence), "{name}: {said}");
        assert_eq!(fs::read(&key).unwrap(), bytes, "{name}: left as it was");
        println!("scenario 5: a key file that is {name}: {said}");
    }
    // A key whose halves do not belong together.
    let mut mixed = good.clone();
    *mixed.last_mut().unwrap() ^= 1;
    write(&key, &mixed, 0o600);
    let said = refused(&barewire, &key).await;
    assert!(said.contains("no usable Ed25519 private key"), "{said}");
    write(&key, &good, 0o600);
    assert_eq!(peer_of(&barewire, &key).await, peers[0]);
}

/// A key that was not made here is the same peer in every stack, as listener and to diallers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_key_is_the_same_peer_everywhere() {
    let barewire = peers::barewire().expect("barewire builds");
    let folder = Folder::new("import");
    let key = folder.file("imported.key");
    let bytes = HEXLOWER.decode(SPECIFIED.as_bytes()).unwrap();
    write(&key, &bytes, 0o600);
    let peer = peer_of(&barewire, &key).await;
    let public = HEXLOWER.decode(SPECIFIED_PUBLIC.as_bytes()).unwrap();
    let hash = [&[0, public.len() as u8][..], &public].concat();
    let id = barewire_base::PeerId::from_bytes(&hash).unwrap();
    assert_eq!(peer, id.to_string());
    assert_eq!(fs::read(&key).unwrap(), bytes, "an import changes nothing");
    let key = key.to_str().unwrap();
    let stranger = barewire_base::Keypair::generate(&mut rand::rng()).peer_id();
    let args = ["listen", "--json", "--key", key];
    let (own, addr) = Process::listen(&barewire, args, SOON).await.unwrap();
    let (base, _) = addr.rsplit_once("/p2p/").unwrap();
    for stack in [Foreign::Go, Foreign::Rust, Foreign::Js, Foreign::Py] {
        let foreign = match stack.build() {
            Ok(program) => program,
            Err(Unavailable::NoToolchain(reason)) => {
                barewire_tests::skip(&format!("{stack}: {reason}"));
                continue;
            }
            Err(cause) => panic!("{stack}: {cause}"),
        };
        // It proves for itself who we are: the right id gets through and another does not.
        let securities: &[&str] = if full() { &["noise", "tls"] } else { &["tls"] };
        for &security in securities {
            let line = ["ping", "--json", "--security", security];
            run(&foreign, line.into_iter().chain([&*addr]), "ping", SOON)
                .await
                .unwrap_or_else(|cause| panic!("{stack} {security}: {cause}"));
            let wrong = format!("{base}/p2p/{stranger}");
            run_failing(&foreign, line.into_iter().chain([&*wrong]), SOON)
                .await
                .unwrap_or_else(|cause| panic!("{stack} {security}: {cause}"));
        }
        // py-libp2p's peer takes no key.
        if stack != Foreign::Py {
            let args = ["listen", "--key", key];
            let (theirs, shown) = Process::listen(&foreign, args, SOON).await.unwrap();
            assert!(shown.ends_with(&format!("/p2p/{peer}")), "{stack}: {shown}");
            run(&barewire, ["ping", "--json", &shown], "ping", SOON)
                .await
                .unwrap_or_else(|cause| panic!("{stack}: {cause}"));
            theirs.stop(SOON).await.unwrap();
        }
        println!("scenario 5: {stack} agrees that the imported key is {peer}");
    }
    own.stop(SOON).await.unwrap();
}
