//! The standard pass: what every attack must leave as it was.
//!
//! Two honest bystanders exchange 1 KiB with the victim each 10 ms while the attack runs, first against a sink in the
//! victim's place (the baseline: processors are shared, and that is not the victim's fault), then against the victim.
//! The victim must live, must not have panicked, and may lose no message; the bystanders' p99 may at most double and
//! grow by 20 ms; resident memory may grow by 64 MiB. Afterwards memory, descriptors and threads have to come back, and
//! the log has to name the reason.

use std::{
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use barewire_base::{Keypair, Multiaddr};
use barewire_node::{Config, Endpoint};
use bytes::Bytes;

use super::{
    Carrier,
    net::{self, Side, at, enter},
    victim::{Held, Sink, Victim},
};
use crate::full;

/// Times the latencies are compared before they count as a failure.
const ATTEMPTS: u32 = 3;

/// Two time slices of the scheduler, one on each way: victim and bystanders share a processor, and what is below this
/// says nothing about the victim.
const SLICE: Duration = Duration::from_millis(8);

/// How long one side of the comparison lasts.
pub fn window() -> Duration {
    Duration::from_secs(if full() { 6 } else { 2 })
}

/// Whom an attack is aimed at.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Where it listens.
    pub socket: SocketAddr,
    /// Nobody answers, and nobody closes.
    pub sink: bool,
    /// How long an attack that holds something holds it; `None`: until the victim ends it.
    pub hold: Option<Duration>,
}

/// A victim, its bystanders, and what replaces it for the baseline. One at a time in this process.
#[derive(Debug)]
pub struct Rig {
    row: &'static str,
    /// The node under attack.
    pub victim: Victim,
    bystanders: Bystanders,
    sink: Sink,
    before: Held,
    /// Memory the attack may cost, in KiB.
    pub growth_kib: i64,
    started: Instant,
    _turn: MutexGuard<'static, ()>,
}

impl Rig {
    /// Starts a victim on TCP with its bystanders. `row` is what the printed lines begin with, `name` a name for files.
    pub fn start(row: &'static str, name: &str) -> Self {
        Self::limited(row, name, None)
    }

    /// With a victim on QUIC.
    pub fn quic(row: &'static str, name: &str) -> Self {
        Self::with(row, name, Carrier::Quic, None)
    }

    /// With a victim in a memory cgroup of `limit` bytes.
    pub fn limited(row: &'static str, name: &str, limit: Option<u64>) -> Self {
        Self::with(row, name, Carrier::Tcp, limit)
    }

    fn with(row: &'static str, name: &str, carrier: Carrier, limit: Option<u64>) -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let victim = Victim::start(name, carrier, limit);
        let bystanders = Bystanders::start(&victim);
        // Identify and the first pings are over.
        std::thread::sleep(Duration::from_millis(500));
        let before = victim.held();
        Self {
            row,
            bystanders,
            sink: Sink::start(carrier),
            before,
            growth_kib: 64 << 10,
            victim,
            started: Instant::now(),
            _turn: turn,
        }
    }

    /// The victim as it is attacked until it ends the attack.
    pub fn target(&self) -> Target {
        Target {
            socket: self.victim.socket,
            sink: false,
            hold: None,
        }
    }

    /// What the victim held before anything happened.
    pub fn before(&self) -> Held {
        self.before
    }

    /// Runs an attack once, from the attacker's side.
    pub fn strike<T: Send>(&self, attack: impl FnOnce(Target) -> T + Send) -> T {
        let target = self.target();
        at(Side::Attacker, || attack(target))
    }

    /// Dials the victim from fresh honest nodes, one after another, until `over`: how many came through, and how many did not.
    pub fn honest_dials(&self, over: &AtomicBool) -> (usize, usize) {
        let dial = || async {
            let (mut dialled, mut failed) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                let honest = honest_endpoint().await;
                match honest.connect(self.victim.addr.clone()).await {
                    Ok(_) => dialled += 1,
                    Err(_) => failed += 1,
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            (dialled, failed)
        };
        at(Side::Honest, || run(dial()))
    }

    /// The p99 of the bystanders while `attack` runs against `target`, again and again, and how often that was.
    fn under<T>(&self, target: Target, attack: &(impl Fn(Target) -> T + Sync)) -> (Duration, u32) {
        self.bystanders.take();
        let begun = Instant::now();
        let strikes = at(Side::Attacker, || {
            let mut strikes = 0;
            while strikes == 0 || begun.elapsed() < window() {
                // What it holds is let go before the next.
                drop(attack(target));
                strikes += 1;
            }
            strikes
        });
        (p99(self.bystanders.take()), strikes)
    }

    /// The part of the standard pass that is measured during the attack.
    pub fn standard<T>(&self, attack: impl Fn(Target) -> T + Sync) {
        let hold = Some(window());
        let mut attempt = 1;
        loop {
            let sink = Target {
                socket: self.sink.socket,
                sink: true,
                hold,
            };
            let (calm, _) = self.under(sink, &attack);
            self.victim.reset_peak();
            let victim = Target {
                hold,
                ..self.target()
            };
            let (attacked, strikes) = self.under(victim, &attack);
            let grown = self.victim.peak_kib() - self.before.rss_kib;
            println!(
                "{}: S: bystanders' p99 {attacked:.2?} under {strikes} strikes, {calm:.2?} with a sink in the victim's \
                 place ({:.2} times); at most {grown} KiB more",
                self.row,
                attacked.as_secs_f64() / calm.as_secs_f64()
            );
            assert!(grown <= self.growth_kib, "{grown} KiB more");
            let target = (2 * calm).min(calm + Duration::from_millis(20)).max(SLICE);
            // As with every time: see `within`.
            let most = if full() { target } else { 5 * target };
            if attacked <= most {
                return;
            }
            assert!(
                attempt < ATTEMPTS,
                "p99 {attacked:.2?}, at most {most:.2?} allowed"
            );
            attempt += 1;
        }
    }

    /// The part that is measured afterwards. `reason` is the kind of incident that the log has to name.
    pub fn finish(self, reason: Option<&str>) {
        let before = self.before;
        let limit = Duration::from_secs(if full() { 60 } else { 25 });
        let ended = Instant::now();
        let back = |now: &Held| {
            now.rss_kib <= before.rss_kib + (16 << 10)
                && now.descriptors <= before.descriptors + before.descriptors / 100 + 1
                && now.threads <= before.threads + 1
        };
        let mut now = self.victim.held();
        while !back(&now) && ended.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(50));
            now = self.victim.held();
        }
        println!(
            "{}: S: {:.1?} after the attack {} KiB (before {}), {} descriptors ({}), {} threads ({})",
            self.row,
            ended.elapsed(),
            now.rss_kib,
            before.rss_kib,
            now.descriptors,
            before.descriptors,
            now.threads,
            before.threads
        );
        assert!(back(&now), "{now:?}, before {before:?}");
        let messages = self.bystanders.finish();
        let mut told = String::new();
        if let Some(kind) = reason {
            let lines = self.victim.lines_about(kind);
            let most = 1 + self.started.elapsed().as_secs() / 10;
            assert!(lines > 0, "no line of the log says {kind}");
            assert!(lines as u64 <= most, "{lines} lines say {kind}");
            told = format!("; {lines} line(s) of the log say {kind}");
        }
        self.victim.stop();
        println!(
            "{}: S: {messages} messages of the bystanders, 0 lost{told}",
            self.row
        );
    }
}

fn p99(mut trips: Vec<Duration>) -> Duration {
    assert!(
        trips.len() >= 50,
        "only {} messages: a bystander is stuck",
        trips.len()
    );
    trips.sort_unstable();
    trips[trips.len() * 99 / 100]
}

/// Two honest peers that exchange 1 KiB with the victim each 10 ms.
#[derive(Debug)]
struct Bystanders {
    stop: Arc<AtomicBool>,
    trips: Arc<Mutex<Vec<Duration>>>,
    thread: JoinHandle<usize>,
}

impl Bystanders {
    fn start(victim: &Victim) -> Self {
        let (stop, trips) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (ready, is_ready) = mpsc::sync_channel(2);
        let thread = {
            let (stop, trips, addr) = (Arc::clone(&stop), Arc::clone(&trips), victim.addr.clone());
            std::thread::spawn(move || {
                enter(Side::Honest);
                run(async {
                    let pair = [(); 2].map(|()| exchange(&addr, &stop, &trips, &ready));
                    let [one, other] = pair;
                    let (one, other) = tokio::join!(one, other);
                    one + other
                })
            })
        };
        for _ in 0..2 {
            is_ready
                .recv_timeout(Duration::from_secs(10))
                .expect("a bystander cannot connect");
        }
        Self {
            stop,
            trips,
            thread,
        }
    }

    /// Round trips since the last call.
    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.trips.lock().unwrap())
    }

    /// Ends the exchange; every message must have come back. Returns how many there were.
    fn finish(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("a bystander lost a message")
    }
}

/// Sends and reads until `stop`; panics when something is lost.
async fn exchange(
    addr: &Multiaddr,
    stop: &AtomicBool,
    trips: &Mutex<Vec<Duration>>,
    ready: &mpsc::SyncSender<()>,
) -> usize {
    let endpoint = honest_endpoint().await;
    let connection = endpoint.connect(addr.clone()).await.unwrap();
    let mut stream = connection
        .open_stream("/barewire/echo/1.0.0")
        .await
        .unwrap();
    let message = Bytes::from(vec![0x42; 1024]);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        stream.write_chunk(message.clone()).await.unwrap();
        let mut got = 0;
        while got < message.len() {
            let chunk = stream.read_chunk(usize::MAX).await.unwrap();
            got += chunk.expect("the echo goes on").len();
        }
        trips.lock().unwrap().push(sent.elapsed());
        count += 1;
        if count == 1 {
            ready.send(()).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(stream);
    drop(connection);
    // Over QUIC nobody but the endpoint says goodbye.
    endpoint.shutdown(Duration::from_secs(2)).await;
    count
}

/// How long a test waits for the victim at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// Connects with deadlines that keep a test from hanging.
pub fn connect(target: Target) -> TcpStream {
    net::connect(target.socket, target.hold.unwrap_or(PATIENCE)).unwrap()
}

/// How long until the victim closes a raw socket, at most what the target is held for; `None` if it does not.
pub fn until_closed(socket: &mut TcpStream, since: Instant, target: Target) -> Option<Duration> {
    let patience = target.hold.unwrap_or(PATIENCE);
    let mut chunk = [0; 4096];
    loop {
        // A timeout of 0 is none.
        let left = patience
            .checked_sub(since.elapsed())
            .filter(|left| !left.is_zero())?;
        socket.set_read_timeout(Some(left)).unwrap();
        match socket.read(&mut chunk) {
            Ok(0) => return Some(since.elapsed()),
            Ok(_) => {}
            Err(error) if closed(&error) => return Some(since.elapsed()),
            Err(_) => return None,
        }
    }
}

/// Whether the other side has ended a connection that fails like this.
#[must_use]
pub fn closed(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted
    )
}

/// Runs `work` on a runtime of this thread.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// A node of our own with a fresh identity that listens nowhere.
pub async fn honest_endpoint() -> Endpoint {
    Endpoint::builder(Keypair::generate(&mut rand::rng()))
        .config(Config::default())
        .bind()
        .await
        .unwrap()
}
