//! A process that prints one JSON object per line: a foreign peer or `barewire` itself.

use std::{
    ffi::OsStr,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

/// Longest stderr kept, in bytes: enough for any sentence or panic.
const STDERR_LIMIT: usize = 64 * 1024;

/// Events a process may be ahead of its reader.
const EVENTS: usize = 1024;

/// One sentence about what a process did wrong, with what it said on stderr.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// With when they were read, whenever somebody asks for them.
    events: mpsc::Receiver<(Instant, Value)>,
    stderr: Arc<Mutex<String>>,
    stderr_read: JoinHandle<()>,
}

impl Process {
    /// Starts `program`. Its stdin stays open until [`stop`](Self::stop).
    pub fn start<A: AsRef<OsStr>>(
        program: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Self, Failure> {
        let mut command = Command::new(program);
        command.args(args);
        Self::spawn(command)
    }

    /// Starts a prepared command.
    pub fn spawn(mut command: Command) -> Result<Self, Failure> {
        let name = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|cause| format!("cannot start {name}: {cause}"))?;
        let (sender, events) = mpsc::channel(EVENTS);
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(async move {
                let mut lines = BufReader::new(stdout).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    // Anything else is a table or a stray print.
                    if let Ok(event) = serde_json::from_str(&line)
                        && sender.send((Instant::now(), event)).await.is_err()
                    {
                        return;
                    }
                }
            });
        }
        let stderr = Arc::new(Mutex::new(String::new()));
        let pipe = child.stderr.take();
        let kept = Arc::clone(&stderr);
        let stderr_read = tokio::spawn(async move {
            let Some(pipe) = pipe else { return };
            let mut lines = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                if kept.len() < STDERR_LIMIT {
                    kept.push_str(&line);
                    kept.push('\n');
                }
            }
        });
        Ok(Self {
            name,
            child,
            events,
            stderr,
            stderr_read,
        })
    }

    /// Starts a listener and waits for its first address, with `/p2p` at its end.
    pub async fn listen<A: AsRef<OsStr>>(
        program: &Path,
        args: impl IntoIterator<Item = A>,
        within: Duration,
    ) -> Result<(Self, String), Failure> {
        let mut process = Self::start(program, args)?;
        let addr = process.listening(within).await?;
        Ok((process, addr))
    }

    /// The next address a listener announces.
    pub async fn listening(&mut self, within: Duration) -> Result<String, Failure> {
        let event = self.expect("listening", within).await?;
        Ok(text(&event, "addr")?.to_owned())
    }

    /// Process id, `None` after it was reaped.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it has said on stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The next event, whatever it is.
    pub async fn event(&mut self, within: Duration) -> Result<Value, Failure> {
        Ok(self.timed_event(within).await?.1)
    }

    /// The next event, whatever it is, and when it came.
    pub async fn timed_event(&mut self, within: Duration) -> Result<(Instant, Value), Failure> {
        match timeout(within, self.events.recv()).await {
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err(self.failure("ended")),
            Err(_) => Err(self.failure(&format!("said nothing within {within:?}"))),
        }
    }

    /// The next event of this name; others are skipped.
    pub async fn expect(&mut self, name: &str, within: Duration) -> Result<Value, Failure> {
        let found = timeout(within, async {
            loop {
                match self.events.recv().await {
                    Some((_, event)) if event["event"] == name => return Some(event),
                    Some(_) => {}
                    None => return None,
                }
            }
        });
        match found.await {
            Ok(Some(event)) => Ok(event),
            Ok(None) => {
                // Its stdout is closed, so it is about to end.
                let how = match self.wait(within).await {
                    Ok(status) => status.to_string(),
                    Err(_) => "still running".to_owned(),
                };
                Err(self.failure(&format!("ended without `{name}` ({how})")))
            }
            Err(_) => Err(self.failure(&format!("said no `{name}` within {within:?}"))),
        }
    }

    /// Waits for the process to end by itself.
    pub async fn wait(&mut self, within: Duration) -> Result<ExitStatus, Failure> {
        match timeout(within, self.child.wait()).await {
            Ok(status) => {
                // A grandchild may keep the pipe open; what was said until now counts.
                let _ = timeout(within, &mut self.stderr_read).await;
                Ok(status?)
            }
            Err(_) => Err(self.failure(&format!("did not end within {within:?}"))),
        }
    }

    /// Closes stdin, which asks a listener or holder to end, and demands exit code 0.
    pub async fn stop(mut self, within: Duration) -> Result<(), Failure> {
        drop(self.child.stdin.take());
        let status = self.wait(within).await?;
        if status.success() {
            Ok(())
        } else {
            Err(self.failure(&format!("ended with {status}")))
        }
    }

    /// Closes stdin, and returns the event of this name that it says before it ends with exit code 0.
    pub async fn finish(mut self, name: &str, within: Duration) -> Result<Value, Failure> {
        drop(self.child.stdin.take());
        let event = self.expect(name, within).await?;
        self.stop(within).await?;
        Ok(event)
    }

    /// Kills it the hard way and reaps it.
    pub async fn kill(&mut self) -> Result<(), Failure> {
        Ok(self.child.kill().await?)
    }

    fn failure(&self, what: &str) -> Failure {
        let stderr = self.stderr();
        let said = if stderr.is_empty() {
            String::new()
        } else {
            format!("; stderr: {}", stderr.trim_end())
        };
        format!("{} {what}{said}", self.name).into()
    }
}

/// Runs a command to its end and returns the event `name`; the exit code must be 0.
pub async fn run<A: AsRef<OsStr>>(
    program: &Path,
    args: impl IntoIterator<Item = A>,
    name: &str,
    within: Duration,
) -> Result<Value, Failure> {
    let mut process = Process::start(program, args)?;
    let event = process.expect(name, within).await?;
    let status = process.wait(within).await?;
    if status.success() {
        Ok(event)
    } else {
        Err(process.failure(&format!("ended with {status}")))
    }
}

/// Runs a command that must fail, and returns what it says on stderr.
pub async fn run_failing<A: AsRef<OsStr>>(
    program: &Path,
    args: impl IntoIterator<Item = A>,
    within: Duration,
) -> Result<String, Failure> {
    let mut process = Process::start(program, args)?;
    drop(process.child.stdin.take());
    // The end of stdout comes after everything else it had to say.
    while timeout(within, process.events.recv()).await?.is_some() {}
    let status = process.wait(within).await?;
    if status.success() {
        return Err(process.failure("succeeded where it had to fail"));
    }
    Ok(process.stderr())
}

/// A text field of an event.
pub fn text<'a>(event: &'a Value, field: &str) -> Result<&'a str, Failure> {
    event[field]
        .as_str()
        .ok_or_else(|| format!("no text `{field}` in {event}").into())
}

/// A number field of an event.
pub fn number(event: &Value, field: &str) -> Result<f64, Failure> {
    event[field]
        .as_f64()
        .ok_or_else(|| format!("no number `{field}` in {event}").into())
}
