//! The book on disk: one table of a redb database. What does not open is put aside, never wiped.

use std::{
    fs,
    io::{self, Read as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use barewire_base::{Fault, PeerId};
use redb::{
    Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableHandle as _,
};

use super::{entry::PeerEntry, record};

/// Peer id to stored record.
const PEERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("barewire-peers");
/// Records that could not be read, as they were.
const DAMAGED: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("barewire-damaged");
/// What a redb file begins with.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
/// The whole book fits; redb would take a gibibyte.
const CACHE: usize = 4 * 1024 * 1024;

/// Why a peer book could not be opened or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerBookError {
    /// The file could not be opened or read.
    #[error("cannot open the peer book {}: {kind}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// Another process has it open.
    #[error(
        "the peer book {} is in use by another process; stop that node or name another file",
        path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else. It was not touched.
    #[error(
        "{} is not a peer book; name another file, or move this one away if it is a damaged one",
        path.display()
    )]
    NotAPeerBook {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged. It was renamed, so that the next start makes a new one.
    #[error(
        "the peer book {} is damaged ({cause}) and was moved to {}; start again to begin with an \
         empty one, or put a copy back first",
        path.display(), moved.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it is now.
        moved: PathBuf,
        /// What the database said.
        cause: String,
    },
    /// Changes could not be written; they are tried again with the next ones.
    #[error("cannot write the peer book {}: {cause}; is the disk full?", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the database said.
        cause: String,
    },
}

impl PeerBookError {
    /// Always this side.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::Local
    }
}

/// An open database.
#[derive(Debug)]
pub(super) struct Store {
    database: Database,
    path: PathBuf,
}

impl Store {
    /// Opens the file, or makes it, checks all of it and reads the peers. Records that do not match
    /// their checksum are moved to a table of their own and logged.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<PeerEntry>), PeerBookError> {
        check_magic(path)?;
        // redb promises errors for what is damaged, but it is the only thing here that reads bytes
        // it cannot trust without our checks.
        let opened = catch_unwind(AssertUnwindSafe(|| open_and_read(path)));
        match opened {
            Ok(Ok((database, peers))) => {
                let path = path.to_owned();
                Ok((Self { database, path }, peers))
            }
            Ok(Err(OpenError::Io(kind))) => Err(io_error(path, kind)),
            Ok(Err(OpenError::InUse)) => Err(PeerBookError::InUse { path: path.into() }),
            Ok(Err(OpenError::Foreign)) => Err(PeerBookError::NotAPeerBook { path: path.into() }),
            Ok(Err(OpenError::Damaged(cause))) => Err(quarantine(path, cause)),
            Err(_) => Err(quarantine(path, "the database gave up reading it".into())),
        }
    }

    /// Writes changes in one transaction, which is on disk when this returns.
    pub(super) fn write(&self, changes: &[(PeerId, Option<Vec<u8>>)]) -> Result<(), PeerBookError> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(PEERS)?;
                for (peer, record) in changes {
                    match record {
                        Some(record) => table.insert(peer.as_bytes(), &record[..])?,
                        None => table.remove(peer.as_bytes())?,
                    };
                }
            }
            Ok(transaction.commit()?)
        };
        let cause = match catch_unwind(AssertUnwindSafe(write)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the database failed".into(),
        };
        Err(PeerBookError::Write {
            path: self.path.clone(),
            cause,
        })
    }
}

/// A file that is something else must not be moved or written to because its name was mistyped.
fn check_magic(path: &Path) -> Result<(), PeerBookError> {
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return create(path),
        Err(error) => return Err(io_error(path, error.kind())),
    };
    let mut start = Vec::new();
    file.take(MAGIC.len() as u64)
        .read_to_end(&mut start)
        .map_err(|error| io_error(path, error.kind()))?;
    // An empty file is one that a process died over.
    if start.is_empty() || start == MAGIC {
        return Ok(());
    }
    Err(PeerBookError::NotAPeerBook { path: path.into() })
}

/// Makes an empty file that only this user can read: it tells whom the node talks to.
fn create(path: &Path) -> Result<(), PeerBookError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io_error(path, error.kind())),
    }
}

fn io_error(path: &Path, kind: io::ErrorKind) -> PeerBookError {
    let path = path.into();
    PeerBookError::Io { path, kind }
}

enum OpenError {
    Io(io::ErrorKind),
    InUse,
    Foreign,
    Damaged(String),
}

impl<E: Into<redb::Error>> From<E> for OpenError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => {
                Self::Io(error.kind())
            }
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            redb::Error::TableTypeMismatch { .. } | redb::Error::UpgradeRequired(_) => {
                Self::Foreign
            }
            error => Self::Damaged(error.to_string()),
        }
    }
}

fn open_and_read(path: &Path) -> Result<(Database, Vec<PeerEntry>), OpenError> {
    let database = Builder::new()
        .set_cache_size(CACHE)
        .set_check_integrity_on_open(true)
        .create(path)?;
    let mut peers = Vec::new();
    let mut damaged = Vec::new();
    {
        let transaction = database.begin_read()?;
        let tables: Vec<_> = transaction.list_tables()?.collect();
        let ours = |name: &str| name == PEERS.name() || name == DAMAGED.name();
        if tables.iter().any(|table| !ours(table.name())) {
            return Err(OpenError::Foreign);
        }
        if !tables.iter().any(|table| table.name() == PEERS.name()) {
            return Ok((database, peers));
        }
        for item in transaction.open_table(PEERS)?.iter()? {
            let (key, value) = item?;
            let (key, value) = (key.value(), value.value());
            let entry = PeerId::from_bytes(key)
                .map_err(|_| record::RecordError::Field)
                .and_then(|peer| record::decode(&peer, value));
            match entry {
                Ok(entry) => peers.push(entry),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a peer in the book is damaged and put aside");
                    damaged.push((key.to_vec(), value.to_vec()));
                }
            }
        }
    }
    if !damaged.is_empty() {
        let transaction = database.begin_write()?;
        {
            let mut table = transaction.open_table(PEERS)?;
            let mut aside = transaction.open_table(DAMAGED)?;
            for (key, value) in &damaged {
                table.remove(&key[..])?;
                aside.insert(&key[..], &value[..])?;
            }
        }
        transaction.commit()?;
    }
    Ok((database, peers))
}

/// Renames a damaged file, so that nothing of it is lost and the next start can make a new one.
fn quarantine(path: &Path, cause: String) -> PeerBookError {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = now.map_or(0, |since| since.as_secs());
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{seconds}"));
    let moved = PathBuf::from(name);
    match fs::rename(path, &moved) {
        Ok(()) => PeerBookError::Damaged {
            path: path.into(),
            moved,
            cause,
        },
        Err(error) => io_error(path, error.kind()),
    }
}
