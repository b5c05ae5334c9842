//! Registrations on disk: one table of a redb database.
//!
//! The key is the length of the peer id in a byte, the id, and the namespace. The value is a version (1), 16
//! bytes of SHA-256 over key and rest, then, big-endian, the Unix second of expiry and the record's sequence number in 8
//! bytes each and the length of its standard form in 2; the standard form and the legacy form of the record follow.

use std::{
    fs, io,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use barewire_base::PeerId;
use barewire_rendezvous::{Change, Records, RegistrationStore, StoreError, Stored};
use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use sha2::{Digest, Sha256};

const REGISTRATIONS: TableDefinition<'_, &[u8], &[u8]> =
    TableDefinition::new("barewire-registrations");
/// The registry holds everything in memory already.
const CACHE: usize = 4 << 20;
const VERSION: u8 = 1;
const CHECKSUM_LEN: usize = 16;
const HEAD_LEN: usize = 1 + CHECKSUM_LEN + 8 + 8 + 2;

/// Registrations in a file of their own, readable for this user only. Each has a checksum; one that does not
/// match is dropped with a warning: its peer registers again.
#[derive(Debug)]
pub struct RedbStore(Database);

impl RedbStore {
    /// Opens the file, or makes it. Blocks.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be opened, is in use, or is something else.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |cause: String| {
            StoreError(format!(
                "cannot open the registrations in {}: {cause}",
                path.display()
            ))
        };
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        match options.open(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error.to_string()));
            }
            _ => {}
        }
        let database = Builder::new().set_cache_size(CACHE).create(path);
        database
            .map(Self)
            .map_err(|error| failed(error.to_string()))
    }

    fn read(&self) -> Result<Vec<Stored>, redb::Error> {
        let now = unix_now();
        let mut stored = Vec::new();
        let mut over = Vec::new();
        let transaction = self.0.begin_read()?;
        let table = match transaction.open_table(REGISTRATIONS) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(stored),
            Err(error) => return Err(error.into()),
        };
        for item in table.iter()? {
            let (key, value) = item?;
            let (key, value) = (key.value(), value.value());
            match decode(key, value) {
                Some((expires, one)) if expires > now => stored.push(Stored {
                    ttl: Duration::from_secs(expires - now),
                    ..one
                }),
                known => {
                    if known.is_none() {
                        tracing::warn!("a stored registration is damaged and dropped");
                    }
                    over.push(key.to_vec());
                }
            }
        }
        if !over.is_empty() {
            let transaction = self.0.begin_write()?;
            {
                let mut table = transaction.open_table(REGISTRATIONS)?;
                for key in &over {
                    table.remove(&key[..])?;
                }
            }
            transaction.commit()?;
        }
        Ok(stored)
    }

    fn write(&self, changes: &[Change]) -> Result<(), redb::Error> {
        let now = unix_now();
        let transaction = self.0.begin_write()?;
        {
            let mut table = transaction.open_table(REGISTRATIONS)?;
            for change in changes {
                match change {
                    Change::Put(one) => {
                        let key = key(&one.peer, &one.ns);
                        let value =
                            encode(&key, now.saturating_add(one.ttl.as_secs()), &one.records);
                        table.insert(&key[..], &value[..])?;
                    }
                    Change::Remove { peer, ns } => {
                        table.remove(&key(peer, ns)[..])?;
                    }
                }
            }
        }
        Ok(transaction.commit()?)
    }
}

impl RegistrationStore for RedbStore {
    fn load(&self) -> Result<Vec<Stored>, StoreError> {
        self.read()
            .map_err(|error| StoreError(format!("cannot read the registrations: {error}")))
    }

    fn apply(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.write(changes)
            .map_err(|error| StoreError(format!("cannot write registrations: {error}")))
    }
}

fn key(peer: &PeerId, ns: &[u8]) -> Vec<u8> {
    let peer = peer.as_bytes();
    [&[peer.len() as u8], peer, ns].concat()
}

fn encode(key: &[u8], expires: u64, records: &Records) -> Vec<u8> {
    // A point accepts records of some KiB.
    let len = u16::try_from(records.standard.len()).unwrap_or_default();
    let standard = &records.standard[..usize::from(len)];
    let numbers = [expires.to_be_bytes(), records.seq.to_be_bytes()].concat();
    let rest = [&numbers, &len.to_be_bytes()[..], standard, &records.legacy].concat();
    [&[VERSION][..], &checksum(key, &rest), &rest].concat()
}

/// When it expires, and what it is but for that.
fn decode(key: &[u8], value: &[u8]) -> Option<(u64, Stored)> {
    let (head, forms) = value.split_at_checked(HEAD_LEN)?;
    let (version, rest) = head.split_first()?;
    let (sum, rest) = rest.split_first_chunk::<CHECKSUM_LEN>()?;
    if *version != VERSION || checksum(key, &value[1 + CHECKSUM_LEN..]) != *sum {
        return None;
    }
    let (expires, rest) = rest.split_first_chunk()?;
    let (seq, rest) = rest.split_first_chunk()?;
    let len = u16::from_be_bytes(rest.try_into().ok()?);
    let (standard, legacy) = forms.split_at_checked(usize::from(len))?;
    let (len, rest) = key.split_first()?;
    let (peer, ns) = rest.split_at_checked(usize::from(*len))?;
    let stored = Stored {
        peer: PeerId::from_bytes(peer).ok()?,
        ns: Bytes::copy_from_slice(ns),
        records: Records {
            seq: u64::from_be_bytes(*seq),
            standard: Bytes::copy_from_slice(standard),
            legacy: Bytes::copy_from_slice(legacy),
        },
        ttl: Duration::ZERO,
    };
    Some((u64::from_be_bytes(*expires), stored))
}

fn checksum(key: &[u8], rest: &[u8]) -> [u8; CHECKSUM_LEN] {
    let hash = Sha256::new()
        .chain_update(key)
        .chain_update(rest)
        .finalize();
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&hash[..CHECKSUM_LEN]);
    sum
}

fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Instant;

    use barewire_base::Keypair;

    use super::*;

    fn stored(number: u32) -> Stored {
        let mut seed = [1; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        Stored {
            peer: Keypair::from_seed(&seed).peer_id(),
            ns: format!("room {}", number % 7).into_bytes().into(),
            records: Records {
                seq: number.into(),
                standard: vec![2; 220].into(),
                legacy: vec![3; number as usize % 2 * 250].into(),
            },
            ttl: Duration::from_secs(7_200),
        }
    }

    /// With `BAREWIRE_FULL=1` as many as a point holds by default.
    #[test]
    fn what_is_written_is_read_and_what_is_damaged_or_over_is_dropped() {
        let full = std::env::var_os("BAREWIRE_FULL").is_some();
        let count = if full { 100_000 } else { 500 };
        let path = std::env::temp_dir().join(format!("barewire-store-{}", std::process::id()));
        let store = RedbStore::open(&path).unwrap();
        let all: Vec<_> = (0..count).map(stored).collect();
        let mut changes: Vec<_> = all.iter().cloned().map(Change::Put).collect();
        let (peer, ns) = (all[0].peer, all[0].ns.clone());
        changes.push(Change::Remove { peer, ns });
        let mut over = stored(1);
        (over.ns, over.ttl) = (Bytes::from_static(b"over"), Duration::ZERO);
        changes.push(Change::Put(over));
        store.apply(&changes).unwrap();
        {
            let write = store.0.begin_write().unwrap();
            let mut table = write.open_table(REGISTRATIONS).unwrap();
            let key = key(&all[2].peer, &all[2].ns);
            let mut value = table.get(&key[..]).unwrap().unwrap().value().to_vec();
            *value.last_mut().unwrap() ^= 1;
            table.insert(&key[..], &value[..]).unwrap();
            drop(table);
            write.commit().unwrap();
        }
        drop(store);
        let begun = Instant::now();
        let mut read = RedbStore::open(&path).unwrap().load().unwrap();
        println!("{} read in {:?}", read.len(), begun.elapsed());
        if full {
            assert!(begun.elapsed() <= Duration::from_secs(1));
        }
        let mut expected: Vec<_> = all
            .into_iter()
            .filter(|one| one.records.seq > 0 && one.records.seq != 2)
            .collect();
        for list in [&mut read, &mut expected] {
            list.sort_by_key(|one| one.records.seq);
            for one in list {
                one.ttl = Duration::from_secs(one.ttl.as_secs().div_ceil(60) * 60);
            }
        }
        assert!(read == expected);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "something else").unwrap();
        assert!(RedbStore::open(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"something else");
        fs::remove_file(&path).unwrap();
    }
}
