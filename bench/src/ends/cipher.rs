//! Ciphers and hashes by themselves: ChaCha20-Poly1305 in place on records of full size, SHA-512.

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use aws_lc_rs::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    digest::{SHA512, digest},
};
use barewire_security::MAX_PLAINTEXT;

use crate::Failure;

/// How long each direction is measured.
const SPAN: Duration = Duration::from_millis(300);

/// Bytes per second, on one core.
#[derive(Debug, Clone, Copy)]
pub struct CipherRates {
    /// Encrypting and authenticating.
    pub seal: f64,
    /// Verifying and decrypting.
    pub open: f64,
}

/// Measures both directions.
pub fn cipher_rates() -> Result<CipherRates, Failure> {
    let key =
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).map_err(|_| "no key")?);
    let nonce = || Nonce::assume_unique_for_key([0; 12]);
    let mut record = vec![0_u8; MAX_PLAINTEXT];
    let seal = rate(|| {
        key.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut record)
            .map(|_| ())
            .map_err(|_| "sealing failed".into())
    })?;
    let mut sealed = vec![0_u8; MAX_PLAINTEXT];
    let tag = key
        .seal_in_place_separate_tag(nonce(), Aad::empty(), &mut sealed)
        .map_err(|_| "sealing failed")?;
    sealed.extend_from_slice(tag.as_ref());
    let mut work = sealed.clone();
    let open = rate(|| {
        // Opening destroys the record, so each round starts with a copy; a copy is small beside the cipher.
        work.copy_from_slice(&sealed);
        key.open_in_place(nonce(), Aad::empty(), &mut work)
            .map(|_| ())
            .map_err(|_| "opening failed".into())
    })?;
    Ok(CipherRates { seal, open })
}

/// Bytes per second that all processors together put through SHA-512, in pieces of the size of a record.
#[must_use]
pub fn sha512_rate() -> f64 {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let hashing: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| {
                    let piece = vec![7; MAX_PLAINTEXT];
                    rate(|| {
                        black_box(digest(&SHA512, black_box(&piece)));
                        Ok(())
                    })
                })
            })
            .collect();
        let rates = hashing.into_iter().map(|one| one.join());
        rates
            .map(|rate| rate.ok().and_then(Result::ok).unwrap_or(0.0))
            .sum()
    })
}

fn rate(mut once: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let start = Instant::now();
    let mut bytes = 0_u64;
    while start.elapsed() < SPAN {
        once()?;
        bytes += MAX_PLAINTEXT as u64;
    }
    Ok(bytes as f64 / start.elapsed().as_secs_f64())
}
