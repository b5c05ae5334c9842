//! What the foreign peers written in Rust have in common: barewire's command line, the services a listener offers,
//! what a dialler does and measures, and the JSON events, one object per line.
//!
//! A peer implements [`Stack`] for its networking stack and calls [`main`].

mod bench;
mod client;
mod gossip;
mod options;
mod serve;

use std::{error::Error, future::Future, io::Write, process::ExitCode, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

pub use gossip::{Gossip, Message, NoGossip};
pub use options::{
    DialOptions, GossipOptions, ListenOptions, PublishOptions, RendezvousCommand,
    RendezvousOptions, StackOptions, SubscribeOptions,
};
pub use serve::Services;

/// One sentence for stderr.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Protocol ids of barewire's own, served by every peer, and the standard ones the peers measure.
pub mod protocol {
    pub const ECHO: &str = "/barewire/echo/1.0.0";
    pub const HALF_CLOSE: &str = "/barewire/test/half-close/1.0.0";
    pub const RESET: &str = "/barewire/test/reset/1.0.0";
    pub const HOLD: &str = "/barewire/test/hold/1.0.0";
    pub const PERF: &str = "/perf/1.0.0";
    pub const IDENTIFY: &str = "/ipfs/id/1.0.0";
    pub const PING: &str = "/ipfs/ping/1.0.0";
}

/// A byte stream of the stack; dropped without shutdown it resets.
pub trait PeerStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> PeerStream for T {}

/// A networking stack as the common command line needs it.
pub trait Stack: Sized + Send + Sync + 'static {
    type Dialer: Dialer;
    type Gossip: Gossip;

    /// Whether the listener gossips about the topics of its options.
    const GOSSIPS: bool = false;

    /// How many identities one worker takes turns with when it makes one fresh connection after another:
    /// more than 1 where the stack's listener refuses a peer whose last connection it has not yet seen end.
    const IDENTITIES_PER_WORKER: usize = 1;

    /// Listens on every address, offers `services`, and returns the peer id and the bound addresses without `/p2p`.
    fn listen(
        options: &ListenOptions,
        services: Arc<Services>,
    ) -> impl Future<Output = Result<Listening<Self>, Failure>> + Send;

    /// A node with a fresh identity and no listener, made to dial `options.addr` and to use these protocols only.
    fn dialer(
        options: &DialOptions,
        protocols: &[&str],
    ) -> impl Future<Output = Result<Self::Dialer, Failure>> + Send;

    /// A node with no listener that gossips and has dialled every address; subscribed to the topics unless it only publishes.
    fn gossip(
        _stack: &StackOptions,
        _options: &GossipOptions,
        _addrs: &[String],
        _subscribed: bool,
    ) -> impl Future<Output = Result<Self::Gossip, Failure>> + Send {
        async { Err("this stack does not gossip".into()) }
    }

    /// Asks a rendezvous point, and tells of the answers.
    fn rendezvous(_: &RendezvousCommand) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Err("this stack has no rendezvous".into()) }
    }
}

/// A listening node; it lives as long as this value.
pub struct Listening<S> {
    pub node: S,
    pub peer: String,
    pub addrs: Vec<String>,
}

/// A node that dials.
pub trait Dialer: Send + Sync + 'static {
    type Connection: Connection;

    /// Opens one new connection to the address of the options.
    fn dial(&self) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;
}

/// An open connection.
pub trait Connection: Send + Sync + 'static {
    type Stream: PeerStream;

    /// The authenticated peer id of the other side.
    fn peer(&self) -> String;

    /// A new stream. The stack's own choice whether it waits for the other side's consent.
    fn open(&self, protocol: &str) -> impl Future<Output = Result<Self::Stream, Failure>> + Send;

    /// For a node made with [`protocol::IDENTIFY`]: what identify told about the other side: the fields of the `identify` event besides `event` and `peer`.
    fn identify(&self) -> impl Future<Output = Result<Value, Failure>> + Send;

    /// Closes the connection; returns when the node is ready to dial the same peer again.
    fn close(self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Runs the command line over stack `S`.
pub fn main<S: Stack>() -> ExitCode {
    let command = options::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(cause) => return fail(&cause),
    };
    let result = runtime.block_on(run::<S>(command));
    // Node tasks may still hold sockets; nothing is left that anyone waits for.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => fail(&*cause),
    }
}

fn fail(cause: &dyn Error) -> ExitCode {
    eprintln!("peer: {cause}");
    ExitCode::FAILURE
}

async fn run<S: Stack>(command: options::Command) -> Result<(), Failure> {
    use options::{BenchCommand, Command};
    match command {
        Command::Listen(options) => serve::listen::<S>(&options).await,
        Command::Identify(options) => {
            within(options.timeout, client::identify::<S>(&options)).await
        }
        Command::Ping(options) => within(options.timeout, client::ping::<S>(&options)).await,
        Command::Perf(options) => within(options.timeout, client::perf::<S>(&options)).await,
        Command::Echo(options) => within(options.timeout, client::echo::<S>(&options)).await,
        Command::HalfClose(options) => {
            within(options.timeout, client::half_close::<S>(&options)).await
        }
        Command::Reset(options) => within(options.timeout, client::reset::<S>(&options)).await,
        Command::Hold(options) => within(options.timeout, client::hold::<S>(&options)).await,
        Command::Subscribe(options) => gossip::subscribe::<S>(&options).await,
        Command::Publish(options) => within(options.timeout, gossip::publish::<S>(&options)).await,
        Command::Rendezvous(command) => {
            let timeout = command.options().timeout;
            within(timeout, S::rendezvous(&command)).await
        }
        Command::Bench(BenchCommand::Handshakes(options)) => {
            within(options.timeout, bench::handshakes::<S>(&options)).await
        }
        Command::Bench(BenchCommand::Streams(options)) => {
            within(options.timeout, bench::streams::<S>(&options)).await
        }
        Command::Bench(BenchCommand::Connections(options)) => {
            let held = within(options.timeout, bench::connections::<S>(&options)).await?;
            serve::wait_for_end().await?;
            drop(held);
            Ok(())
        }
    }
}

async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(time, work)
        .await
        .map_err(|_| format!("not done within {time:?}"))?
}

/// Prints one event as one line.
pub fn emit(event: &str, peer: &str, fields: Value) {
    let mut line = json!({ "event": event, "peer": peer });
    if let (Value::Object(line), Value::Object(fields)) = (&mut line, fields) {
        line.extend(fields);
    }
    emit_line(&line);
}

/// Prints one event as one line.
pub fn emit_line(line: &Value) {
    let mut out = std::io::stdout().lock();
    // A reader that has gone away shows itself by closing stdin or by a signal.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
