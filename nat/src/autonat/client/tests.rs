#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use barewire_base::Keypair;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn peer(n: u8) -> PeerId {
    Keypair::from_seed(&[n; 32]).peer_id()
}

fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn response(index: u32, dial: DialStatus) -> DialResponse {
    DialResponse {
        status: ResponseStatus::Ok,
        index,
        dial,
    }
}

/// What servers do with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Does {
    Reach,
    Fail,
    /// They say that they have reached it, and have not.
    Claim,
    Refuse,
    Reject,
    Nothing,
}

/// A client, its servers by number, and the time.
struct Sim {
    client: Client,
    now: Instant,
    nonce: u64,
    asked: Vec<(PeerId, Vec<Multiaddr>)>,
}

const LOCAL: &str = "/ip4/10.0.0.2/tcp/4001";
const TESTED: &str = "/ip4/192.0.2.1/tcp/4001";

impl Sim {
    /// Servers 0, 1, … each in a network of its own.
    fn new(servers: u8, addrs: &[&str]) -> Self {
        let (mut client, now) = (Client::new(ClientConfig::default()), Instant::now());
        client.set_addresses(now, addrs.iter().map(|text| addr(text)).collect());
        for n in 0..servers {
            let ip = IpAddr::from([198, 51, n, 1]);
            client.add_server(now, peer(n), Some(ip), Version::V2);
        }
        Self {
            client,
            now,
            nonce: 0,
            asked: Vec::new(),
        }
    }

    /// Lets time pass, in which servers do this.
    fn run(&mut self, time: Duration, does: impl Fn(PeerId) -> Does) {
        let end = self.now + time;
        loop {
            loop {
                self.nonce += 1;
                let Some(probe) = self.client.poll(self.now, self.nonce) else {
                    break;
                };
                self.asked.push((probe.server, probe.addrs.clone()));
                self.serve(&probe, does(probe.server));
            }
            match self.client.poll_timeout() {
                Some(next) if next <= end => {
                    assert!(next > self.now, "something is due");
                    self.now = next;
                }
                _ => break,
            }
        }
        self.now = end;
        self.client.handle_timeout(end);
    }

    fn serve(&mut self, probe: &Probe, does: Does) {
        let Self { client, now, .. } = self;
        let refusal = |status| DialResponse::refusal(status);
        let answer = match does {
            Does::Reach => {
                let came = client.dial_back(*now, probe.id.nonce(), &addr(LOCAL));
                assert_eq!(came, Ok(()));
                response(0, DialStatus::Ok)
            }
            Does::Fail => response(0, DialStatus::DialError),
            Does::Claim => response(0, DialStatus::Ok),
            Does::Refuse => refusal(ResponseStatus::DialRefused),
            Does::Reject => refusal(ResponseStatus::RequestRejected),
            Does::Nothing => {
                client.failed(*now, probe.id);
                return;
            }
        };
        let result = client.answer(*now, probe.id, answer);
        assert_eq!(result.is_err(), does == Does::Reject, "{result:?}");
    }

    fn state(&self) -> (Reachability, usize, usize) {
        let tested = &self.client.tested()[0];
        (tested.reachability, tested.reached, tested.failed)
    }
}

#[test]
fn three_networks_have_to_agree() {
    for (does, reachability) in [
        (Does::Reach, Reachability::Public),
        (Does::Fail, Reachability::Private),
    ] {
        let mut sim = Sim::new(2, &[TESTED]);
        sim.run(MINUTE, |_| does);
        assert_eq!(sim.state().0, Reachability::Unknown);
        // Many servers of a network that has spoken are no third one.
        for n in 10..20 {
            let ip = IpAddr::from([198, 51, 0, n]);
            let now = sim.now;
            sim.client.add_server(now, peer(n), Some(ip), Version::V2);
        }
        sim.run(MINUTE, |_| does);
        assert_eq!(sim.state().0, Reachability::Unknown);
        assert_eq!(sim.asked.len(), 2);
        let now = sim.now;
        let third = Some(IpAddr::from([198, 51, 100, 1]));
        sim.client.add_server(now, peer(20), third, Version::V2);
        sim.run(MINUTE, |_| does);
        assert_eq!(sim.state().0, reachability);
        assert_eq!(sim.client.reachability(), reachability);
        // Then there is an hour of peace.
        assert_eq!(sim.asked.len(), 3);
        sim.run(58 * MINUTE, |_| does);
        assert_eq!(sim.asked.len(), 3);
        sim.run(2 * MINUTE, |_| does);
        assert_eq!(sim.asked.len(), 4);
    }
}

#[test]
fn one_that_lies_changes_nothing() {
    let liar = peer(0);
    for (truth, lies, reachability) in [
        (Does::Reach, Does::Fail, Reachability::Public),
        (Does::Fail, Does::Claim, Reachability::Private),
    ] {
        for servers in 4..8 {
            let mut sim = Sim::new(servers, &[TESTED]);
            let mut flips = 0;
            for _ in 0..24 * 60 {
                let before = sim.state().0;
                sim.run(MINUTE, |server| if server == liar { lies } else { truth });
                let after = sim.state().0;
                flips += usize::from(before != after);
                assert!(after == reachability || before == Reachability::Unknown);
            }
            assert_eq!(flips, 1, "{servers} servers");
            println!(
                "{reachability}: one of {servers} servers says {lies:?} for a day: known at once, 0 flips, {} requests, {} lies found",
                sim.asked.len(),
                sim.client.lies()
            );
            assert_eq!(sim.client.lies() > 0, lies == Does::Claim);
            assert!(sim.asked.len() < 200);
        }
    }
}

#[test]
fn a_change_is_seen_with_the_next_look() {
    for servers in [3, 4, 12] {
        let mut sim = Sim::new(servers, &[TESTED]);
        sim.run(10 * 60 * MINUTE, |_| Does::Reach);
        assert_eq!(sim.state().0, Reachability::Public);
        sim.run(62 * MINUTE, |_| Does::Fail);
        assert_eq!(sim.state().0, Reachability::Private, "{servers} servers");
        sim.run(62 * MINUTE, |_| Does::Reach);
        assert_eq!(sim.state().0, Reachability::Public, "{servers} servers");
        // With nobody to ask it is forgotten some day.
        for n in 0..servers {
            sim.client.remove_server(&peer(n));
        }
        sim.run(6 * 60 * MINUTE, |_| Does::Reach);
        assert_eq!(sim.state(), (Reachability::Unknown, 0, 0));
    }
}

#[test]
fn a_nonce_is_the_proof() {
    let mut sim = Sim::new(1, &[TESTED, "/ip4/192.0.2.1/udp/1/quic-v1"]);
    let poll = |sim: &mut Sim, ms| {
        sim.now += Duration::from_millis(ms);
        sim.nonce += 1;
        sim.client.poll(sim.now, sim.nonce)
    };
    let probe = poll(&mut sim, 1000).unwrap();
    let Sim { client, now, .. } = &mut sim;
    let (id, local) = (probe.id, addr(LOCAL));
    assert_eq!(probe.addrs.len(), 2);
    let unknown = client.dial_back(*now, 99, &local);
    assert_eq!(unknown, Err(DialBackError::Unknown));
    // It may come after the answer.
    let ok = response(0, DialStatus::Ok);
    assert_eq!(client.answer(*now, id, ok), Ok(Progress::Wait));
    assert_eq!(client.answer(*now, id, ok), Err(AnswerError::Over));
    *now += Duration::from_secs(4);
    assert_eq!(client.dial_back(*now, id.nonce(), &local), Ok(()));
    assert_eq!((client.tested()[0].reached, client.pending()), (1, 0));
    let again = client.dial_back(*now, id.nonce(), &local);
    assert_eq!(again, Err(DialBackError::Unknown));

    // On a connection of another transport than the one that was tested, it is a lie.
    let probe = poll(&mut sim, 60_000).unwrap();
    let Sim { client, now, .. } = &mut sim;
    assert!(client.dial_back(*now, probe.id.nonce(), &local).is_ok());
    let again = client.dial_back(*now, probe.id.nonce(), &local);
    assert_eq!(again, Err(DialBackError::Again));
    let lie = client.answer(*now, probe.id, ok);
    assert_eq!(lie, Err(AnswerError::Inconsistent));
    assert_eq!((client.tested()[1].reached, client.lies()), (0, 1));
    assert_eq!(poll(&mut sim, 60_000), None, "it is left alone");
    // And so it is if it never comes.
    let later = 3_600_000;
    let probe = poll(&mut sim, later).unwrap();
    let Sim { client, now, .. } = &mut sim;
    assert_eq!(client.answer(*now, probe.id, ok), Ok(Progress::Wait));
    assert_eq!(client.poll_timeout(), Some(*now + NONCE_WAIT));
    client.handle_timeout(*now + NONCE_WAIT);
    assert_eq!((client.lies(), client.pending()), (2, 0));
}

#[test]
fn data_is_sent_within_limits() {
    let mut sim = Sim::new(30, &[TESTED]);
    let mut sent = 0;
    let mut ask = |index, bytes| {
        sim.now += MINUTE;
        sim.nonce += 1;
        // Refused requests make servers wait; there are enough.
        let probe = sim.client.poll(sim.now, sim.nonce).unwrap();
        let asked = sim.client.data_request(sim.now, probe.id, index, bytes);
        sim.client.failed(sim.now, probe.id);
        asked
    };
    assert_eq!(ask(1, 100), Err(AnswerError::Index(1)));
    assert_eq!(ask(0, MAX_DATA + 1), Err(AnswerError::Price(MAX_DATA + 1)));
    for _ in 0..20 {
        sent += ask(0, MAX_DATA).unwrap();
    }
    assert_eq!(sent, 20 * MAX_DATA);
    let config = ClientConfig {
        data_per_hour: MAX_DATA,
        ..ClientConfig::default()
    };
    sim = Sim::new(3, &[TESTED]);
    sim.client.config = config;
    sim.now += MINUTE;
    let first = sim.client.poll(sim.now, 1).unwrap();
    let second = sim.client.poll(sim.now, 2).unwrap();
    let Sim { client, now, .. } = &mut sim;
    assert_eq!(
        client.data_request(*now, first.id, 0, MAX_DATA),
        Ok(MAX_DATA)
    );
    let more = client.data_request(*now, second.id, 0, 1);
    assert_eq!(more, Err(AnswerError::Budget));
}

#[test]
fn who_does_not_answer_is_asked_ever_more_rarely() {
    for does in [Does::Nothing, Does::Reject] {
        let mut sim = Sim::new(1, &[TESTED]);
        sim.run(24 * 60 * MINUTE, |_| does);
        // After 1, 2, 4, … 32 minutes, then each hour.
        assert!((25..40).contains(&sim.asked.len()), "{}", sim.asked.len());
        assert_eq!(sim.state(), (Reachability::Unknown, 0, 0));
    }
    // Whom a server does not dial, it is asked about once in a round.
    let mut sim = Sim::new(3, &[TESTED]);
    sim.run(10 * MINUTE, |_| Does::Refuse);
    assert_eq!(sim.asked.len(), 3);
}

#[test]
fn an_address_that_nobody_dials_decides_nothing() {
    let mut sim = Sim::new(3, &[TESTED, "/ip6/2001:db8::1/tcp/4001"]);
    sim.run(MINUTE, |_| Does::Fail);
    assert_eq!(sim.client.reachability(), Reachability::Private);
    let mut sim = Sim::new(3, &["/ip6/2001:db8::1/tcp/4001", TESTED]);
    // The second of the list is dialled, because the first is not.
    for _ in 0..3 {
        sim.now += MINUTE;
        sim.nonce += 1;
        let probe = sim.client.poll(sim.now, sim.nonce).unwrap();
        let failed = response(1, DialStatus::DialError);
        assert_eq!(
            sim.client.answer(sim.now, probe.id, failed),
            Ok(Progress::Done)
        );
    }
    let tested = sim.client.tested();
    assert_eq!(tested[0].reachability, Reachability::Unknown);
    assert_eq!(tested[1].reachability, Reachability::Private);
    assert_eq!(sim.client.reachability(), Reachability::Private);
}

#[test]
fn version_1_is_asked_while_there_is_no_other() {
    let mut sim = Sim::new(0, &[TESTED]);
    for n in 0..3 {
        let (now, ip) = (sim.now, IpAddr::from([198, 51, n, 1]));
        sim.client.add_server(now, peer(n), Some(ip), Version::V1);
    }
    sim.now += MINUTE;
    for (nonce, status) in [(1, V1Status::Ok), (2, V1Status::Ok), (3, V1Status::Ok)] {
        let probe = sim.client.poll(sim.now, nonce).unwrap();
        assert_eq!(probe.version, Version::V1);
        let said = sim.client.dial_back(sim.now, nonce, &addr(LOCAL));
        assert_eq!(said, Err(DialBackError::Unknown));
        sim.client.answer_v1(sim.now, probe.id, status).unwrap();
    }
    assert_eq!(sim.client.reachability(), Reachability::Public);
    assert_eq!(sim.state().0, Reachability::Unknown, "of no single address");
    let (now, ip) = (sim.now, IpAddr::from([198, 51, 7, 1]));
    sim.client.add_server(now, peer(7), Some(ip), Version::V2);
    sim.nonce = 100;
    sim.run(3 * 60 * MINUTE, |_| Does::Fail);
    assert!(sim.asked.iter().all(|(server, _)| *server == peer(7)));
}

#[test]
fn stacks_are_compared_without_what_a_listener_cannot_know() {
    let same = |one: &str, other: &str| same_stack(&addr(one), &addr(other));
    assert!(same("/ip4/10.0.0.1/tcp/1", "/ip4/192.0.2.1/tcp/2"));
    assert!(same("/ip6/::ffff:10.0.0.1/tcp/1", "/ip4/192.0.2.1/tcp/2"));
    let dialled = "/ip4/192.0.2.1/tcp/2/tls/sni/a.example/ws";
    assert!(same("/ip4/10.0.0.1/tcp/1/wss", dialled));
    assert!(!same("/ip4/10.0.0.1/tcp/1", "/ip6/2001:db8::1/tcp/1"));
    assert!(!same("/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1/ws"));
    assert!(!same("/ip4/10.0.0.1/udp/1/quic-v1", "/ip4/10.0.0.1/tcp/1"));
}
