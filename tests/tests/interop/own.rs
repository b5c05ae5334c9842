//! The barewire side of the cells that need more than the command line offers, through the library.

use barewire_node::{
    Connection, Endpoint, Keypair, Router, Stream, StreamError,
    protocols::{echo, perf},
};
use barewire_tests::process::Failure;
use bytes::{Bytes, BytesMut};
use tokio::{sync::mpsc, time::timeout};

use crate::{DEADLINE, Group, protocol};

/// Most bytes the half-close handler keeps.
const HALF_CLOSE_LIMIT: usize = 16 << 20;

/// A node that serves the protocols of the tests, and tells how held streams ended.
pub(crate) struct Node {
    pub(crate) router: Router,
    pub(crate) addr: String,
    pub(crate) ends: mpsc::Receiver<StreamError>,
}

impl Node {
    /// How the next held stream ended.
    pub(crate) async fn lost(&mut self) -> Result<StreamError, Failure> {
        let ended = timeout(DEADLINE, self.ends.recv()).await?;
        Ok(ended.ok_or("the node is gone")?)
    }
}

/// An endpoint that speaks what the cells of the group speak.
pub(crate) async fn endpoint(group: &Group<'_>) -> Result<Endpoint, Failure> {
    let config = group.combination.config(&group.matrix.files)?;
    Ok(Endpoint::builder(Keypair::generate(&mut rand::rng()))
        .config(config)
        .bind()
        .await?)
}

pub(crate) async fn listen(group: &Group<'_>) -> Result<Node, Failure> {
    let (tell, ends) = mpsc::channel(16);
    let router = Router::builder(endpoint(group).await?)
        .accept(echo::PROTOCOL, echo::Echo)
        .accept(perf::PROTOCOL, perf::Perf)
        .accept(protocol::HALF_CLOSE, |stream, _: Connection| async move {
            // A stream dropped unfinished is reset, which the other side notices.
            let _ = half_close(stream).await;
        })
        .accept(
            protocol::RESET,
            |mut stream: Stream, _: Connection| async move {
                let _ = stream.read_chunk(1).await;
                stream.reset(0);
            },
        )
        .accept(protocol::HOLD, move |stream, _: Connection| {
            let tell = tell.clone();
            async move {
                if let Err(cause) = hold(stream).await {
                    let _ = tell.send(cause).await;
                }
            }
        })
        .spawn()?;
    let bound = router
        .endpoint()
        .listen(group.combination.listen.parse()?)
        .await?;
    let addr = format!("{bound}/p2p/{}", router.endpoint().peer_id());
    Ok(Node { router, addr, ends })
}

async fn half_close(mut stream: Stream) -> Result<(), StreamError> {
    let all = read_all(&mut stream, HALF_CLOSE_LIMIT).await?;
    stream.write_chunk(all).await?;
    stream.finish()
}

async fn hold(mut stream: Stream) -> Result<(), StreamError> {
    stream.write_chunk(Bytes::from_static(b"h")).await?;
    while stream.read_chunk(usize::MAX).await?.is_some() {}
    Ok(())
}

/// Everything up to the other side's end, or to `limit`.
pub(crate) async fn read_all(stream: &mut Stream, limit: usize) -> Result<Bytes, StreamError> {
    let mut all = BytesMut::new();
    while all.len() < limit
        && let Some(chunk) = stream.read_chunk(limit - all.len()).await?
    {
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

/// A stream whose listener has shown that it serves it.
pub(crate) async fn open_hold(connection: &Connection) -> Result<Stream, Failure> {
    let mut stream = connection.open_stream(protocol::HOLD).await?;
    stream.write_chunk(Bytes::from_static(b"hold")).await?;
    match timeout(DEADLINE, stream.read_chunk(1)).await?? {
        Some(first) if *first == *b"h" => Ok(stream),
        other => Err(format!("expected `h`, got {other:?}").into()),
    }
}
