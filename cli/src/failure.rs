//! One sentence for the person at the terminal: what went wrong, and what to try.

use barewire_base::multiaddr::MultiaddrError;
use barewire_node::{
    BindError, DialError, ListenError, OpenStreamError, RouterError, StreamError, UpgradeError,
    keyfile::KeyFileError,
    peer_book::PeerBookError,
    pnet::PskError,
    protocols::{
        echo::EchoError,
        gossip::{ConfigError, PublishError, Stopped, SubscribeError, WaitError},
        identify::IdentifyError,
        perf::PerfError,
        ping::PingError,
        rendezvous::{AskError, ClientError, StoreError},
    },
    ws::PemError,
};
use barewire_sim::ScenarioError;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) String);

const LIST_PROTOCOLS: &str = "barewire identify ADDR lists what it speaks";
const STILL_THERE: &str = "is the node still running and reachable?";
const ITS_LOG: &str = "the log of the node may say why";
const DAMAGED: &str = "the node or the path to it damages data";
const SLOW: &str = "raise --timeout if the path is slow";
const ANOTHER_SERVICE: &str = "does a libp2p node with Noise and Yamux listen there?";

impl Failure {
    fn advised(cause: impl std::fmt::Display, advice: Option<&str>) -> Self {
        Self(match advice {
            Some(advice) => format!("{cause}; {advice}"),
            None => cause.to_string(),
        })
    }
}

/// For errors whose own sentence says what to try, or that no advice helps against.
macro_rules! as_it_is {
    ($($error:ty),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::advised(error, None)
            }
        })*
    };
}

as_it_is!(
    String,
    &str,
    KeyFileError,
    PeerBookError,
    BindError,
    RouterError,
    ListenError,
    MultiaddrError,
    PskError,
    PemError,
    ClientError,
    StoreError,
    ConfigError,
    PublishError,
    barewire_node::protocols::relay::RelayAddressError,
    ScenarioError,
    Stopped,
    SubscribeError,
    WaitError,
    std::io::Error,
    std::net::AddrParseError,
    std::num::TryFromIntError,
    tokio::task::JoinError,
);

macro_rules! advised {
    ($($error:ty => $advice:expr),* $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                let advice: fn(&$error) -> Option<&'static str> = $advice;
                let advice = advice(&error);
                Self::advised(error, advice)
            }
        })*
    };
}

advised!(
    StreamError => stream,
    OpenStreamError => open,
    DialError => |error| match error {
        // A timeout asks the same question itself.
        DialError::Upgrade { error: UpgradeError::Timeout { .. }, .. } => None,
        DialError::Upgrade {
            error: UpgradeError::WebSocket(_) | UpgradeError::OtherNetwork,
            ..
        } => None,
        DialError::Upgrade { .. } => Some(ANOTHER_SERVICE),
        _ => None,
    },
    AskError => ask,
    IdentifyError => |error| match error {
        IdentifyError::Open(error) => open(error),
        IdentifyError::Stream(error) => stream(error),
        IdentifyError::Timeout(_) => Some(SLOW),
        _ => None,
    },
    PingError => |error| match error {
        PingError::Open(error) => open(error),
        PingError::Stream(error) => stream(error),
        PingError::Timeout(_) => Some(SLOW),
        PingError::Differs => Some(DAMAGED),
        _ => Some(ITS_LOG),
    },
    PerfError => |error| match error {
        PerfError::Open(error) => open(error),
        PerfError::Stream(error) => stream(error),
        _ => Some(ITS_LOG),
    },
    EchoError => |error| match error {
        EchoError::Open(error) => open(error),
        EchoError::Stream(error) => stream(error),
        _ => Some(DAMAGED),
    },
);

fn ask(error: &AskError) -> Option<&'static str> {
    match error {
        AskError::Open(error) => open(error),
        AskError::Stream(error) => stream(error),
        AskError::Timeout(_) | AskError::Ended => Some(ITS_LOG),
        _ => None,
    }
}

fn stream(error: &StreamError) -> Option<&'static str> {
    match error {
        StreamError::ProtocolNotSupported(_) => Some(LIST_PROTOCOLS),
        StreamError::Closed(_) => Some(STILL_THERE),
        StreamError::LocallyClosed => None,
        _ => Some(ITS_LOG),
    }
}

fn open(error: &OpenStreamError) -> Option<&'static str> {
    match error {
        OpenStreamError::Closed(_) => Some(STILL_THERE),
        OpenStreamError::ProtocolNotSupported(_) => Some(LIST_PROTOCOLS),
        OpenStreamError::Stream(error) => stream(error),
        _ => None,
    }
}
