#![allow(clippy::unwrap_used, reason = "tests")]
use barewire_base::Keypair;

use super::*;

const OURS: &str = "/ip4/198.51.100.7/tcp/4001";

struct World {
    observed: Observed,
    listening: Vec<Multiaddr>,
    start: Instant,
    now: Instant,
}

fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn peer(n: u8) -> PeerId {
    Keypair::from_seed(&[n; 32]).peer_id()
}

impl World {
    fn new(listening: &[&str]) -> Self {
        let start = Instant::now();
        Self {
            observed: Observed::new(ObservedConfig::default()),
            listening: listening.iter().map(|text| addr(text)).collect(),
            start,
            now: start,
        }
    }

    fn home() -> Self {
        Self::new(&["/ip4/10.0.0.5/tcp/4001", "/ip4/127.0.0.1/tcp/4001"])
    }

    fn minutes(&mut self, minutes: u64) {
        self.now += Duration::from_secs(60 * minutes);
    }

    fn say(&mut self, n: u8, remote: &str, local: &str, observed: &str) -> Result<bool, Ignored> {
        let observation = Observation {
            peer: peer(n),
            remote: &addr(remote),
            local: &addr(local),
            observed: &addr(observed),
        };
        self.observed
            .observe(self.now, &observation, &self.listening)
    }

    /// Peer `n` in a network of its own.
    fn honest(&mut self, n: u8, observed: &str) -> Result<bool, Ignored> {
        let remote = format!("/ip4/203.0.{n}.9/tcp/9");
        self.say(n, &remote, "/ip4/10.0.0.5/tcp/4001", observed)
    }
}

#[test]
fn four_networks_confirm_an_address() {
    let mut world = World::home();
    for n in 1..4 {
        assert_eq!(world.honest(n, OURS), Ok(false));
        assert!(world.observed.confirmed().is_empty());
    }
    assert_eq!(world.honest(4, OURS), Ok(true));
    assert_eq!(world.observed.confirmed(), [addr(OURS)]);
    assert_eq!(world.honest(5, OURS), Ok(false));
}

#[test]
fn one_network_never_confirms_anything() {
    let mut world = World::home();
    let local = "/ip4/10.0.0.5/tcp/4001";
    for n in 0..=255 {
        let remote = format!("/ip4/203.0.113.{n}/tcp/9");
        let lie = "/ip4/192.0.2.1/tcp/4001";
        assert_eq!(world.say(n, &remote, local, lie), Ok(false));
        // An IPv6 network as well, by a listener of that family.
    }
    assert!(world.observed.confirmed().is_empty());
    assert_eq!(world.observed.candidates(), 1);
    let mut world = World::new(&["/ip6/fd00::5/tcp/4001"]);
    for n in 0..=255u8 {
        let remote = format!("/ip6/2001:db8:77:{n:x}::1/tcp/9");
        let lie = "/ip6/2001:db8:1::1/tcp/4001";
        assert_eq!(
            world.say(n, &remote, "/ip6/fd00::5/tcp/4001", lie),
            Ok(false)
        );
    }
    // Four /48 that agree.
    for n in 1..=4u8 {
        let remote = format!("/ip6/2001:db8:{n}::1/tcp/9");
        let seen = "/ip6/2001:db8:ff::1/tcp/4001";
        let local = "/ip6/fd00::5/tcp/4001";
        assert_eq!(world.say(n, &remote, local, seen), Ok(n == 4));
    }
}

#[test]
fn one_network_pushes_out_nothing() {
    let mut world = World::home();
    for n in 1..=4 {
        world.honest(n, OURS).unwrap();
    }
    // Three honest observers of a second mapping, not confirmed yet.
    let second = "/ip4/198.51.100.8/tcp/4001";
    for n in 5..=7 {
        world.honest(n, second).unwrap();
    }
    // Many identities of one network, each with many lies.
    for n in 0..=255u8 {
        for port in 1..=20u16 {
            let remote = format!("/ip4/203.0.113.{n}/tcp/9");
            let lie = format!("/ip4/192.0.2.{n}/tcp/{}", 4000 + port);
            let local = "/ip4/10.0.0.5/tcp/4001";
            world.say(n, &remote, local, &lie).unwrap();
        }
    }
    assert_eq!(world.observed.confirmed(), [addr(OURS)]);
    assert_eq!(world.observed.candidates(), 2 + MAX_PER_NETWORK);
    assert_eq!(world.honest(8, second), Ok(true));
}

#[test]
fn only_what_maps_a_listener_counts() {
    let mut world = World::new(&[
        "/ip4/10.0.0.5/tcp/4001",
        "/ip4/10.0.0.5/udp/4001/quic-v1",
        "/ip4/10.0.0.5/tcp/443/tls/ws",
    ]);
    let far = "/ip4/203.0.113.9/tcp/9";
    let tcp = "/ip4/10.0.0.5/tcp/4001";
    let udp = "/ip4/10.0.0.5/udp/4001/quic-v1";
    let wss = "/ip4/10.0.0.5/tcp/443/tls/ws";
    for (remote, local, observed, expected) in [
        // A dial from a port of its own.
        (far, "/ip4/10.0.0.5/tcp/50000", OURS, Err(Ignored::Port)),
        (far, udp, OURS, Err(Ignored::Transport)),
        (
            far,
            tcp,
            "/ip6/2001:db8::1/tcp/4001",
            Err(Ignored::Transport),
        ),
        (far, tcp, tcp, Err(Ignored::Scope)),
        (far, tcp, "/ip4/127.0.0.1/tcp/4001", Err(Ignored::Scope)),
        (far, tcp, "/ip4/0.0.0.0/tcp/4001", Err(Ignored::Scope)),
        (far, tcp, "/ip4/224.0.0.1/tcp/4001", Err(Ignored::Scope)),
        (far, tcp, "/ip4/198.51.100.7/tcp/0", Err(Ignored::Shape)),
        (far, tcp, "/dns4/a.example/tcp/1", Err(Ignored::Shape)),
        ("/memory/1", tcp, OURS, Err(Ignored::Shape)),
        ("/ip4/127.0.0.1/tcp/9", tcp, OURS, Err(Ignored::Scope)),
        // A neighbour cannot know the public address, but another private one.
        ("/ip4/10.0.0.9/tcp/9", tcp, OURS, Err(Ignored::Scope)),
        ("/ip4/10.0.0.9/tcp/9", tcp, tcp, Err(Ignored::Own)),
        (
            "/ip4/10.0.0.9/tcp/9",
            tcp,
            "/ip4/172.16.0.1/tcp/4001",
            Ok(false),
        ),
        (far, tcp, OURS, Ok(false)),
        // Another port on the outside is what routers do.
        (far, tcp, "/ip4/198.51.100.7/tcp/61000", Ok(false)),
        (far, udp, "/ip4/198.51.100.7/udp/4001/quic-v1", Ok(false)),
        (far, wss, "/ip4/198.51.100.7/tcp/443/wss", Ok(false)),
    ] {
        assert_eq!(
            world.say(1, remote, local, observed),
            expected,
            "{observed}"
        );
    }
}

#[test]
fn what_nobody_renews_expires() {
    let mut world = World::home();
    for n in 1..=4 {
        world.honest(n, OURS).unwrap();
        world.minutes(1);
    }
    // The first observer's word ends 30 minutes after it was given.
    let due = world.observed.poll_timeout().unwrap();
    assert_eq!(due, world.start + Duration::from_secs(30 * 60));
    world.now = due - Duration::from_secs(1);
    assert!(!world.observed.handle_timeout(world.now));
    assert_eq!(world.honest(1, OURS), Ok(false));
    world.now = due;
    // Renewed in time.
    assert!(!world.observed.handle_timeout(world.now));
    assert_eq!(world.observed.confirmed(), [addr(OURS)]);
    world.minutes(1);
    assert!(world.observed.handle_timeout(world.now));
    assert!(world.observed.confirmed().is_empty());
    world.minutes(60);
    assert!(!world.observed.handle_timeout(world.now));
    assert_eq!(world.observed.candidates(), 0);
    assert_eq!(world.observed.poll_timeout(), None);
}

#[test]
fn a_closed_listener_takes_its_addresses_along() {
    let mut world = World::home();
    for n in 1..=4 {
        world.honest(n, OURS).unwrap();
    }
    assert!(world.observed.set_listening(&[addr("/ip4/10.0.0.5/tcp/5")]));
    assert!(world.observed.confirmed().is_empty());
}

#[test]
fn a_router_with_a_port_for_each_connection_confirms_few() {
    let mut world = World::home();
    for port in 1..=10u16 {
        for n in 1..=6u8 {
            // Six observers that each see all ten ports.
            let observed = format!("/ip4/198.51.100.7/tcp/{}", 6000 + port);
            world.honest(n + 6 * port as u8, &observed).unwrap();
        }
    }
    assert_eq!(world.observed.confirmed().len(), MAX_CONFIRMED_PER_LISTENER);
}

#[test]
fn a_peer_vouches_for_few() {
    let mut world = World::home();
    for port in 1..=100u16 {
        let observed = format!("/ip4/198.51.100.7/tcp/{}", 6000 + port);
        world.honest(1, &observed).unwrap();
    }
    assert_eq!(world.observed.candidates(), MAX_PER_PEER);
}
