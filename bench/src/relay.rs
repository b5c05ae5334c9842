//! A TCP relay that delays: each byte leaves the given time after it came, in both directions, at any rate the machine
//! carries. It stands in for a long path where only one machine is at hand.
//!
//! Two blocking threads per direction: one reads into blocks stamped with the time they are due, one waits for that time
//! and writes. What is under way is bounded; when the bound is reached the relay reads no more, and TCP pushes back.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Bytes of one block: large enough that a block costs little beside its copies.
const BLOCK: usize = 256 * 1024;
/// A read shorter than this is copied out, so that small messages do not hold whole blocks.
const SMALL: usize = 16 * 1024;
/// Bytes under way in one direction; at 2 GiB/s a path of 60 ms holds 123 MiB.
const IN_FLIGHT: usize = 256 * 1024 * 1024;

/// Accepts connections for ever and relays each to `to`, every byte `delay` late.
pub fn serve(listener: &TcpListener, to: SocketAddr, delay: Duration) -> io::Result<()> {
    loop {
        let (near, _) = listener.accept()?;
        let far = TcpStream::connect(to)?;
        for (from, into) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
            from.set_nodelay(true)?;
            let pipe = Arc::new(Pipe::default());
            let writing = Arc::clone(&pipe);
            thread::spawn(move || writing.drain(into));
            thread::spawn(move || pipe.fill(from, delay));
        }
    }
}

/// One direction of one connection.
#[derive(Default)]
struct Pipe {
    state: Mutex<State>,
    /// Something was queued, or the end is known.
    queued: Condvar,
    /// Something has left.
    drained: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Piece>,
    bytes: usize,
    /// Used blocks, the last one first, since it may still be in a cache.
    free: Vec<Vec<u8>>,
    ended: bool,
    /// The writer has failed: nothing leaves any more.
    broken: bool,
}

struct Piece {
    due: Instant,
    data: Vec<u8>,
    len: usize,
}

impl Pipe {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self, mut from: TcpStream, delay: Duration) {
        let mut block = vec![0; BLOCK];
        // A reset counts as an end: the far side sees the connection close, late as everything.
        while let Ok(len @ 1..) = from.read(&mut block) {
            let due = Instant::now() + delay;
            let small = (len < SMALL).then(|| block[..len].to_vec());
            let mut state = self.lock();
            while state.bytes + len > IN_FLIGHT && !state.broken {
                state = self
                    .drained
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            if state.broken {
                break;
            }
            state.bytes += len;
            let next = if small.is_some() {
                None
            } else {
                Some(state.free.pop())
            };
            let data = small.unwrap_or_else(|| std::mem::take(&mut block));
            state.queue.push_back(Piece { due, data, len });
            let wake = state.queue.len() == 1;
            drop(state);
            if wake {
                self.queued.notify_one();
            }
            if let Some(recycled) = next {
                block = recycled.unwrap_or_else(|| vec![0; BLOCK]);
            }
        }
        self.lock().ended = true;
        self.queued.notify_one();
    }

    fn drain(&self, mut into: TcpStream) {
        let mut done: Option<Piece> = None;
        loop {
            let mut state = self.lock();
            if let Some(piece) = done.take() {
                state.bytes -= piece.len;
                if piece.data.len() == BLOCK {
                    state.free.push(piece.data);
                }
                self.drained.notify_one();
            }
            while state.queue.is_empty() && !state.ended {
                state = self
                    .queued
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            let Some(piece) = state.queue.pop_front() else {
                break;
            };
            drop(state);
            thread::sleep(piece.due.saturating_duration_since(Instant::now()));
            if into.write_all(&piece.data[..piece.len]).is_err() {
                self.lock().broken = true;
                self.drained.notify_one();
                break;
            }
            done = Some(piece);
        }
        // The other direction goes on: a half close passes the relay as one.
        let _ = into.shutdown(Shutdown::Write);
    }
}
