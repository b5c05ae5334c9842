//! How long messages take through ten nodes of one stack, between two of ours in this process: one clock, and the same ends for
//! all stacks.

use std::time::{Duration, Instant};

use barewire_base::{Keypair, Multiaddr};
use barewire_node::{
    Endpoint, Router,
    protocols::gossip::{Config, Gossip, GossipConfig, PublishOptions, Subscription},
};
use barewire_tests::process::Process;
use tokio::time::{sleep, sleep_until, timeout};

use super::{Bench, TCP, TOPIC, targets::Metric};
use crate::{
    Failure,
    measure::DEADLINE,
    stacks::{Program, Stack},
};

const NODES: usize = 10;
/// Time between two messages.
const PACE: Duration = Duration::from_millis(1);
/// Messages that warm up, and all.
const WARM: usize = 2_000;
const COUNT: usize = 12_000;
const SIZE: usize = 1_024;
/// Everybody has grafted by then: heartbeats come each second.
const SETTLE: Duration = Duration::from_secs(3);
/// After so long without a message those that are missing are lost.
const SILENCE: Duration = Duration::from_secs(5);

/// A node of ours at the end of the row.
struct End {
    endpoint: Endpoint,
    gossip: Gossip,
    inbox: Subscription,
    _router: Router,
}

impl End {
    async fn connected(addr: &str) -> Result<Self, Failure> {
        let endpoint = Endpoint::builder(Keypair::generate(&mut rand::rng()));
        let endpoint = endpoint.bind().await?;
        let gossip = Gossip::spawn(&endpoint, GossipConfig::new(Config::default()))?;
        let router = gossip.register(Router::builder(endpoint.clone()));
        let router = router.spawn()?;
        endpoint.connect(addr.parse::<Multiaddr>()?).await?;
        let inbox = gossip.subscribe(TOPIC).await?;
        gossip.wait_for_mesh(TOPIC, 1, DEADLINE).await?;
        Ok(Self {
            endpoint,
            gossip,
            inbox,
            _router: router,
        })
    }
}

impl Bench {
    /// Each node has dialled the two before it. We publish at the first and listen at the last.
    pub(super) async fn latency(&mut self, program: &Program) -> Result<(), Failure> {
        let dial = match program.stack {
            Stack::Barewire => "--keep",
            Stack::Go | Stack::Rust | Stack::Litep2p => "--connect",
        };
        let mut nodes = Vec::new();
        let mut addrs: Vec<String> = Vec::new();
        for _ in 0..NODES {
            let mut args = vec!["listen", "--listen", TCP, "--topic", TOPIC];
            args.extend(["--quiet", "--json"]);
            for addr in addrs.iter().rev().take(2) {
                args.extend([dial, addr]);
            }
            let (node, addr) = Process::listen(program.path(), args, DEADLINE).await?;
            nodes.push(node);
            addrs.push(addr);
        }
        let [first, .., last] = addrs.as_slice() else {
            return Err("too few nodes".into());
        };
        let (from, mut to) = (End::connected(first).await?, End::connected(last).await?);
        sleep(SETTLE).await;
        let times = times(&from.gossip, &mut to.inbox).await?;
        for end in [from, to] {
            end.endpoint.shutdown(DEADLINE).await;
        }
        for node in nodes {
            node.stop(DEADLINE).await?;
        }
        let ms = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e3;
        self.samples.add(Metric::Latency50, program.stack, ms(50));
        self.samples.add(Metric::Latency99, program.stack, ms(99));
        Ok(())
    }
}

/// From the call that publishes until the message is handed out, sorted.
async fn times(from: &Gossip, to: &mut Subscription) -> Result<Vec<Duration>, Failure> {
    let zero = Instant::now();
    let publishing = async {
        for number in 0..COUNT {
            sleep_until((zero + PACE * number as u32).into()).await;
            let mut data = vec![0; SIZE];
            data[..8].copy_from_slice(&(number as u64).to_le_bytes());
            data[8..16].copy_from_slice(&(zero.elapsed().as_nanos() as u64).to_le_bytes());
            let options = PublishOptions::default().wait_for_space(DEADLINE);
            // What reaches nobody is lost, and counted as that.
            drop(from.publish_with(TOPIC, data.into(), options).await?);
        }
        Ok::<_, Failure>(())
    };
    let receiving = async {
        let mut times = Vec::with_capacity(COUNT);
        let mut got = 0;
        while got < COUNT
            && let Ok(Some(message)) = timeout(SILENCE, to.next()).await
        {
            let now = zero.elapsed();
            let data = message.data().to_bytes();
            let number = |at: usize| {
                let bytes = data.get(at..at + 8).and_then(|part| part.try_into().ok());
                bytes.map(u64::from_le_bytes).ok_or("not a message of ours")
            };
            got += 1;
            if number(0)? as usize >= WARM {
                times.push(now.saturating_sub(Duration::from_nanos(number(8)?)));
            }
        }
        Ok((times, got))
    };
    let ((), (mut times, got)) = tokio::try_join!(publishing, receiving)?;
    if got < COUNT {
        return Err(format!("lost {} of {COUNT}", COUNT - got).into());
    }
    times.sort_unstable();
    Ok(times)
}
