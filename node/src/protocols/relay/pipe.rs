//! Carrying bytes between two streams.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use barewire_nat::relay::Limit;
use barewire_transport::{ReadHalf, Stream, StreamError, WriteHalf};

use crate::codes::STREAM_RESOURCE_LIMIT;

/// Most bytes taken at once (own choice: a window's quarter, so that many circuits share a connection evenly).
const CHUNK: usize = 64 << 10;

/// Carries both directions until both have ended, one breaks, or the time is up; then both streams are reset. At the limit of bytes a
/// direction ends as if its sender had ended it, as with go-libp2p.
///
/// Between the streams nothing is held: a chunk is taken from one only when the other takes it at once, and is passed on as it is. What
/// a side that does not read makes the other stream keep is bounded by that stream's window, and paid for out of its budget.
pub(super) async fn run(source: Stream, target: Stream, limit: Limit, carried: &AtomicU64) {
    let (from_source, to_source) = source.split();
    let (from_target, to_target) = target.split();
    let both = async {
        tokio::try_join!(
            one_way(from_source, to_target, limit.data, carried),
            one_way(from_target, to_source, limit.data, carried),
        )
    };
    let duration = limit.duration.unwrap_or(Duration::MAX);
    // Whatever the cause of the end, there is nobody to tell.
    drop(tokio::time::timeout(duration, both).await);
}

/// The halves are returned so that they are dropped together.
async fn one_way(
    mut from: ReadHalf,
    mut to: WriteHalf,
    mut left: Option<u64>,
    carried: &AtomicU64,
) -> Result<(ReadHalf, WriteHalf), StreamError> {
    loop {
        let max = left.map_or(CHUNK, |left| {
            CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))
        });
        if max == 0 {
            from.stop(STREAM_RESOURCE_LIMIT);
            to.finish()?;
            return Ok((from, to));
        }
        to.writable().await?;
        let Some(chunk) = from.read_chunk(max).await? else {
            to.finish()?;
            return Ok((from, to));
        };
        let len = chunk.len() as u64;
        left = left.map(|left| left.saturating_sub(len));
        carried.fetch_add(len, Ordering::Relaxed);
        to.write_chunk(chunk).await?;
    }
}
