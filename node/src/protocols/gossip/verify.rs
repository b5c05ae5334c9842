//! Signatures are checked in batches on other threads, or at once if there are few: handing a message over takes about as long as
//! checking a short one.

use std::collections::VecDeque;

use barewire_gossip::{MessageHandle, Verifier, VerifyRequest};

/// Up to so many messages are checked at once while no batch is on its way.
const INLINE: usize = 2;
/// And so many bytes.
const INLINE_BYTES: usize = 8 << 10;
/// Most messages of a batch: about 2 ms of work.
const BATCH: usize = 64;
/// And bytes, unless one message is longer.
const BATCH_BYTES: usize = 512 << 10;

/// Requests that wait, and verifiers that are free.
#[derive(Debug)]
pub(super) struct Pool {
    waiting: VecDeque<VerifyRequest>,
    free: Vec<Verifier>,
    running: usize,
    max_running: usize,
}

/// What a thread works on.
#[derive(Debug)]
pub(super) struct Job {
    verifier: Verifier,
    requests: Vec<VerifyRequest>,
}

/// What it found.
#[derive(Debug)]
pub(super) struct Verified {
    verifier: Verifier,
    pub(super) answers: Vec<(MessageHandle, bool)>,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Next {
    Nothing,
    /// Known already.
    Now(MessageHandle, bool),
    /// To be done by a thread.
    Later(Job),
}

impl Pool {
    /// With a single verifier the answers come in the order of the requests.
    pub(super) fn new(verifiers: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            free: Vec::new(),
            running: 0,
            max_running: verifiers.max(1),
        }
    }

    pub(super) fn push(&mut self, request: VerifyRequest) {
        self.waiting.push_back(request);
    }

    pub(super) fn next(&mut self) -> Next {
        if self.waiting.is_empty() || self.running >= self.max_running {
            return Next::Nothing;
        }
        let mut verifier = self.free.pop().unwrap_or_default();
        if self.running == 0 && self.waiting.len() <= INLINE && self.bytes() <= INLINE_BYTES {
            let Some(request) = self.waiting.pop_front() else {
                return Next::Nothing;
            };
            let valid = verifier.verify(&request.message);
            self.free.push(verifier);
            return Next::Now(request.handle, valid);
        }
        let share = self.waiting.len().div_ceil(self.max_running - self.running);
        let mut requests = Vec::with_capacity(share.min(BATCH));
        let mut bytes = 0;
        while requests.len() < share.min(BATCH) && bytes < BATCH_BYTES {
            let Some(request) = self.waiting.pop_front() else {
                break;
            };
            bytes += request.message.encoded.len();
            requests.push(request);
        }
        self.running += 1;
        Next::Later(Job { verifier, requests })
    }

    fn bytes(&self) -> usize {
        let waiting = self.waiting.iter();
        waiting.map(|request| request.message.encoded.len()).sum()
    }

    /// A job is back.
    pub(super) fn done(&mut self, verified: Verified) -> Vec<(MessageHandle, bool)> {
        self.running -= 1;
        self.free.push(verified.verifier);
        verified.answers
    }
}

impl Job {
    pub(super) fn run(mut self) -> Verified {
        let verifier = &mut self.verifier;
        let answers = self
            .requests
            .into_iter()
            .map(|request| (request.handle, verifier.verify(&request.message)))
            .collect();
        Verified {
            verifier: self.verifier,
            answers,
        }
    }
}
