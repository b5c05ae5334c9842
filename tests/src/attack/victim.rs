//! The node under attack, and the process that takes the same traffic in its place.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use barewire_base::Multiaddr;
use tokio::sync::oneshot;

use super::{
    Carrier,
    net::{Side, at, enter, victim_ip},
};
use crate::{cgroup::Cgroup, usage::Usage};

/// A `barewire listen` process.
#[derive(Debug)]
pub struct Victim {
    process: Child,
    stdin: Option<ChildStdin>,
    /// Where it listens, with its peer id.
    pub addr: Multiaddr,
    /// The socket in that address.
    pub socket: SocketAddr,
    stderr: std::path::PathBuf,
    /// Its memory cgroup, if it has one. Dropped after the process has ended.
    pub cgroup: Option<Cgroup>,
}

/// What a process holds.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Resident memory in KiB.
    pub rss_kib: i64,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
}

impl Victim {
    /// Starts a node on a port of its own, in a memory cgroup of `limit` bytes if one is given.
    pub fn start(name: &str, carrier: Carrier, limit: Option<u64>) -> Self {
        let stderr =
            std::env::temp_dir().join(format!("barewire-attack-{name}-{}.log", std::process::id()));
        let log = fs::File::create(&stderr).unwrap();
        let program = crate::peers::barewire().unwrap();
        let cgroup = limit.and_then(|limit| match Cgroup::new(name, limit) {
            Ok(cgroup) => Some(cgroup),
            Err(reason) => {
                assert!(
                    !(crate::peers::required() && super::net::isolated()),
                    "CI needs a memory cgroup: {reason}"
                );
                println!("the victim runs without a memory cgroup: {reason}");
                None
            }
        });
        let mut command = match &cgroup {
            // A process joins before it becomes the victim, so that nothing it takes is left out.
            Some(cgroup) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
                shell.arg(cgroup.door()).arg(program);
                shell
            }
            None => Command::new(program),
        };
        command
            .args([
                "listen",
                "--listen",
                &match carrier {
                    Carrier::Tcp => format!("/ip4/{}/tcp/0", victim_ip()),
                    Carrier::Quic => format!("/ip4/{}/udp/0/quic-v1", victim_ip()),
                },
                "--json",
            ])
            .env("RUST_LOG", "info")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        if let Some(limit) = limit {
            // Half for the node; the rest is for the kernel's socket buffers and what else lives there.
            command.args(["--memory-limit", &format!("{}MiB", (limit / 2) >> 20)]);
        }
        // Its namespace and processor are those of the thread that starts it.
        let mut process = at(Side::Victim, || command.spawn().unwrap());
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        let addr: Multiaddr = event["addr"].as_str().unwrap().parse().unwrap();
        let (socket, _) = addr.to_tcp().or_else(|| addr.to_quic()).unwrap();
        Self {
            stdin: process.stdin.take(),
            process,
            addr,
            socket,
            stderr,
            cgroup,
        }
    }

    fn usage(&self) -> Usage {
        Usage(self.process.id())
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> i64 {
        self.usage().rss_kib() as i64
    }

    /// Most resident memory since [`reset_peak`](Self::reset_peak), in KiB.
    pub fn peak_kib(&self) -> i64 {
        self.usage().peak_kib() as i64
    }

    /// Lets the peak begin at what is resident now.
    pub fn reset_peak(&self) {
        let file = format!("/proc/{}/clear_refs", self.process.id());
        fs::OpenOptions::new()
            .write(true)
            .open(file)
            .and_then(|mut file| file.write_all(b"5"))
            .unwrap();
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        self.usage().descriptors()
    }

    /// What it holds now.
    pub fn held(&self) -> Held {
        Held {
            rss_kib: self.rss_kib(),
            descriptors: self.descriptors(),
            threads: self.usage().threads(),
        }
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> Duration {
        self.usage().cpu()
    }

    /// How many lines of its log name this kind of incident.
    pub fn lines_about(&self, kind: &str) -> usize {
        let log = fs::read_to_string(&self.stderr).unwrap();
        let field = format!("kind={kind} ");
        log.lines().filter(|line| line.contains(&field)).count()
    }

    /// Ends the node in an orderly way, and fails if it panicked or does not end.
    pub fn stop(mut self) {
        assert!(
            self.process.try_wait().unwrap().is_none(),
            "the victim died"
        );
        drop(self.stdin.take());
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(15), "no orderly end");
            std::thread::sleep(Duration::from_millis(20));
        };
        let log = fs::read_to_string(&self.stderr).unwrap();
        assert!(!log.contains("panicked"), "the victim panicked:\n{log}");
        // A remote whose goodbye was lost in a flood is still served, and cut off in the end.
        let cut_off = log.contains("were cut off after");
        assert!(status.success() || cut_off, "{status}\n{log}");
        fs::remove_file(&self.stderr).ok();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Takes connections, or datagrams, at the victim's place and reads all that comes. What an attack costs the bystanders when nobody
/// defends against anything is what it is measured against.
#[derive(Debug)]
pub struct Sink {
    /// Where it listens.
    pub socket: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Sink {
    /// Starts one on a thread of its own.
    pub fn start(carrier: Carrier) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let (bound, is_bound) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::spawn(move || {
            enter(Side::Victim);
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                if carrier == Carrier::Quic {
                    let socket = tokio::net::UdpSocket::bind((victim_ip(), 0)).await.unwrap();
                    bound.send(socket.local_addr().unwrap()).unwrap();
                    let mut scratch = vec![0; 64 << 10];
                    loop {
                        tokio::select! {
                            _ = &mut stopped => return,
                            // What it is told of earlier datagrams is nothing to it.
                            _ = socket.recv_from(&mut scratch) => {}
                        }
                    }
                }
                let listener = tokio::net::TcpListener::bind((victim_ip(), 0))
                    .await
                    .unwrap();
                bound.send(listener.local_addr().unwrap()).unwrap();
                loop {
                    tokio::select! {
                        _ = &mut stopped => return,
                        accepted = listener.accept() => {
                            // Out of descriptors at worst: then it takes less.
                            if let Ok((socket, _)) = accepted {
                                tokio::spawn(swallow(socket));
                            }
                        }
                    }
                }
            });
        });
        Self {
            socket: is_bound.recv().unwrap(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

async fn swallow(mut socket: tokio::net::TcpStream) {
    use tokio::io::AsyncReadExt;
    let mut scratch = vec![0; 64 << 10];
    while socket.read(&mut scratch).await.is_ok_and(|n| n > 0) {}
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
