//! Handlers by protocol id.

use std::{collections::HashMap, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use barewire_base::{Fault, multistream};
use barewire_transport::{Connection, Stream};

use crate::{
    endpoint::{Endpoint, ShutdownReport},
    protocols::{hold, identify, ping},
};

/// A boxed future that can move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Serves one protocol.
///
/// Closures implement it:
///
/// ```
/// use barewire_node::{Connection, ProtocolHandler, Stream};
///
/// fn is_handler(_: impl ProtocolHandler) {}
/// is_handler(|mut stream: Stream, _: Connection| async move {
///     while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX).await {
///         println!("{} bytes", chunk.len());
///     }
/// });
/// ```
pub trait ProtocolHandler: Send + Sync + 'static {
    /// Serves one stream whose protocol is agreed; [`Stream::protocol`] tells which.
    ///
    /// The future is polled once inside the task that accepts streams of this connection, and goes
    /// on in a task of its own if it has to wait: do no long computation before the first await.
    /// A panic ends only this stream. At shutdown the future is dropped at the deadline. It is not
    /// dropped when the connection ends: its stream fails then.
    fn handle(&self, stream: Stream, connection: Connection) -> BoxFuture<'static, ()>;

    /// Whether a stream of this protocol keeps its connection open against the idle timeout while it
    /// is open. Default: it does. A protocol that is not worth a connection says no.
    fn holds_connection(&self) -> bool {
        true
    }
}

impl<F, Fut> ProtocolHandler for F
where
    F: Fn(Stream, Connection) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    fn handle(&self, stream: Stream, connection: Connection) -> BoxFuture<'static, ()> {
        Box::pin(self(stream, connection))
    }
}

/// What answers a protocol.
#[derive(Clone)]
pub(crate) enum Service {
    Identify,
    IdentifyPush,
    Ping,
    Hold,
    Handler(Arc<dyn ProtocolHandler>),
}

/// All protocols an endpoint accepts.
pub(crate) struct Registry {
    services: HashMap<Arc<str>, Service>,
    /// The ids in a fixed order, as identify lists them.
    names: Vec<Arc<str>>,
}

impl Registry {
    /// What each endpoint serves by itself, and `handlers`.
    pub(crate) fn new(handlers: Vec<(Arc<str>, Arc<dyn ProtocolHandler>)>) -> Self {
        let built_in = [
            (identify::PROTOCOL, Service::Identify),
            (identify::PUSH_PROTOCOL, Service::IdentifyPush),
            (ping::PROTOCOL, Service::Ping),
            (hold::PROTOCOL, Service::Hold),
        ];
        let all: Vec<_> = built_in
            .into_iter()
            .map(|(name, service)| (Arc::from(name), service))
            .chain(
                handlers
                    .into_iter()
                    .map(|(name, handler)| (name, Service::Handler(handler))),
            )
            .collect();
        Self {
            names: all.iter().map(|(name, _)| Arc::clone(name)).collect(),
            services: all.into_iter().collect(),
        }
    }

    pub(crate) fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// The registered id equal to a proposed one.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<str>> {
        self.services
            .get_key_value(name)
            .map(|(name, _)| Arc::clone(name))
    }

    pub(crate) fn service(&self, name: &str) -> Option<&Service> {
        self.services.get(name)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.names).finish()
    }
}

/// Why a router could not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouterError {
    /// Two handlers for one protocol, or one that the endpoint serves itself.
    #[error("{0} has a handler already")]
    Duplicate(String),
    /// Not a protocol id: it must start with `/` and fit one multistream line.
    #[error("`{0}` is not a protocol id: it must start with / and be shorter than 1 KiB")]
    InvalidProtocol(String),
    /// The protocol list must fit one identify message, or peers would not learn all of it.
    #[error("the protocol ids do not fit one identify message; use fewer or shorter ones")]
    TooManyProtocols,
}

impl RouterError {
    /// Always this side.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::Local
    }
}

/// Collects handlers; see [`Router::builder`].
pub struct RouterBuilder {
    endpoint: Endpoint,
    handlers: Vec<(Arc<str>, Arc<dyn ProtocolHandler>)>,
}

impl fmt::Debug for RouterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.handlers.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

impl RouterBuilder {
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Serves `protocol` with `handler`.
    #[must_use]
    pub fn accept(mut self, protocol: impl Into<Arc<str>>, handler: impl ProtocolHandler) -> Self {
        self.handlers.push((protocol.into(), Arc::new(handler)));
        self
    }

    /// Puts the handlers to work, for connections that exist already too. Peers that accept pushes
    /// are told.
    pub fn spawn(self) -> Result<Router, RouterError> {
        let built_in = [
            identify::PROTOCOL,
            identify::PUSH_PROTOCOL,
            ping::PROTOCOL,
            hold::PROTOCOL,
        ];
        for (index, (name, _)) in self.handlers.iter().enumerate() {
            if !name.starts_with('/') || name.len() >= multistream::MAX_LINE {
                return Err(RouterError::InvalidProtocol(name.to_string()));
            }
            let before = self.handlers[..index].iter().map(|(name, _)| &**name);
            if built_in.into_iter().chain(before).any(|n| *n == **name) {
                return Err(RouterError::Duplicate(name.to_string()));
            }
        }
        let registry = Registry::new(self.handlers);
        if registry.names().len() > identify::MAX_PROTOCOLS
            || identify::protocols_len(registry.names().iter().map(|name| &**name))
                > identify::MAX_PROTOCOLS_LEN
        {
            return Err(RouterError::TooManyProtocols);
        }
        self.endpoint.set_registry(registry);
        Ok(Router {
            endpoint: self.endpoint,
        })
    }
}

/// An endpoint whose inbound streams are served by handlers.
///
/// Spawn it before listening: a stream that arrives earlier finds only identify and ping.
#[derive(Debug, Clone)]
pub struct Router {
    endpoint: Endpoint,
}

impl Router {
    /// Starts to collect handlers for `endpoint`. They replace those of an earlier router.
    #[must_use]
    pub fn builder(endpoint: Endpoint) -> RouterBuilder {
        RouterBuilder {
            endpoint,
            handlers: Vec::new(),
        }
    }

    /// The endpoint.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// See [`Endpoint::shutdown`].
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        self.endpoint.shutdown(deadline).await
    }
}
