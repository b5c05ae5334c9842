//! Arithmetic of scoring: whatever parameters pass validation and whatever a peer does, a score is a finite number, penalties never
//! help, and time alone heals.
#![no_main]

use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use barewire_base::Keypair;
use barewire_gossip::{
    Config, NewPeer, Output, Payload, Router, ScoreParams, SubscribeOptions, TopicScoreParams,
    Version,
};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Numbers {
    weights: [f64; 10],
    caps: [f64; 5],
    decays: [f64; 8],
    seconds: [u16; 4],
    relative: Option<f64>,
    colocated: u8,
}

#[derive(Arbitrary, Debug)]
enum Op {
    Malformed,
    Graft,
    Prune,
    Invalid,
    App(f64),
    Address(u8),
    Sleep(u32),
    Reconnect,
}

const TOPIC: &str = "t";

fn params(n: &Numbers) -> Option<ScoreParams> {
    let mut topic = TopicScoreParams::default();
    topic.topic_weight = n.weights[0];
    topic.time_in_mesh_weight = n.weights[1];
    topic.first_deliveries_weight = n.weights[2];
    topic.mesh_deliveries_weight = n.weights[3];
    topic.mesh_failure_weight = n.weights[4];
    topic.invalid_weight = n.weights[5];
    topic.time_in_mesh_cap = n.caps[0];
    topic.first_deliveries_cap = n.caps[1];
    topic.mesh_deliveries_cap = n.caps[2];
    topic.mesh_deliveries_threshold = n.caps[3];
    topic.first_deliveries_decay = n.decays[0];
    topic.mesh_deliveries_decay = n.decays[1];
    topic.mesh_failure_decay = n.decays[2];
    topic.invalid_decay = n.decays[3];
    topic.mesh_deliveries_relative = n.relative;
    topic.mesh_deliveries_activation = Duration::from_secs(u64::from(n.seconds[0]));
    topic.time_in_mesh_quantum = Duration::from_millis(u64::from(n.seconds[1]));
    let mut score = ScoreParams::default();
    score.topic_defaults = Some(topic);
    score.app_weight = n.weights[6];
    score.ip_colocation_weight = n.weights[7];
    score.behaviour_weight = n.weights[8];
    score.slow_peer_weight = n.weights[9];
    score.topic_score_cap = n.caps[4];
    score.behaviour_decay = n.decays[4];
    score.slow_peer_decay = n.decays[5];
    score.decay_to_zero = n.decays[6];
    score.ip_colocation_threshold = u32::from(n.colocated);
    score.retain_score = Duration::from_secs(u64::from(n.seconds[2]));
    score.decay_interval = Duration::from_secs(u64::from(n.seconds[3]));
    score.validate().is_ok().then_some(score)
}

/// Field `number` of a control message that names the topic.
fn control(number: u8) -> Payload {
    Payload::from(vec![0x1a, 5, number << 3 | 2, 3, 0x0a, 1, b't'])
}

fuzz_target!(|input: (Numbers, Vec<Op>)| {
    let (numbers, ops) = input;
    // Most arbitrary numbers are refused, which is right and tells little: such runs take the defaults.
    let score = params(&numbers).unwrap_or_else(ScoreParams::adversarial);
    let mut config = Config::default();
    config.score = Some(score.clone());
    let mut now = Instant::now();
    let mut router = Router::new(config, Keypair::from_seed(&[1; 32]).peer_id(), 1, now).unwrap();
    router
        .subscribe(now, TOPIC, SubscribeOptions::default())
        .unwrap();
    let new = NewPeer::new(Keypair::from_seed(&[2; 32]).peer_id(), Version::V1_2);
    let mut peer = router.connect(now, new).unwrap();
    for other in 3..6 {
        let new = NewPeer::new(Keypair::from_seed(&[other; 32]).peer_id(), Version::V1_2);
        router
            .connect(now, new.address(Some([10, 0, 0, other].into())))
            .unwrap();
    }
    for op in ops.iter().take(100) {
        let before = router.score(peer).unwrap();
        match op {
            Op::Malformed => {
                let _ = router.receive(now, peer, &Payload::from(vec![0x0a]));
                assert!(router.score(peer).unwrap().behaviour <= before.behaviour);
            }
            Op::Graft => router.receive(now, peer, &control(3)).unwrap(),
            Op::Prune => router.receive(now, peer, &control(4)).unwrap(),
            Op::Invalid => {
                // No signature.
                router
                    .receive(now, peer, &Payload::from(vec![0x12, 3, 0x22, 1, b't']))
                    .unwrap();
                assert!(router.score(peer).unwrap().total <= before.total);
            }
            Op::App(value) => router.set_app_score(peer, *value),
            Op::Address(last) => router.set_address(peer, Some([10, 0, 0, *last].into())),
            Op::Sleep(ms) => {
                now += Duration::from_millis(u64::from(*ms));
                router.handle_timeout(now);
                let after = router.score(peer).unwrap();
                assert!(after.behaviour >= before.behaviour, "P7 heals");
            }
            Op::Reconnect => {
                router.disconnect(now, peer);
                peer = router.connect(now, new).unwrap();
                if before.behaviour < 0.0 && before.total <= 0.0 && !score.retain_score.is_zero() {
                    assert!(
                        router.score(peer).unwrap().behaviour < 0.0,
                        "leaving does not help"
                    );
                }
            }
        }
        while let Some(output) = router.poll_output() {
            if let Output::Ready(peer) = output {
                while router.next_frame(now, peer).is_some() {}
            }
        }
        let breakdown = router.score(peer).unwrap();
        assert!(breakdown.total.is_finite(), "{breakdown:?}");
        assert_eq!(
            router.status(peer).unwrap().score,
            breakdown.total,
            "the cached score is the score"
        );
    }
});
