//! The identity of a node as a file: the private key in libp2p's protobuf form, mode 0600.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use barewire_base::{Fault, Keypair};
use zeroize::Zeroizing;

/// Longest key file that is read. A real one has 68 bytes; the largest RSA key some libp2p node
/// could have written stays below this, so that it is named as an unusable key, not as too long.
const MAX_KEY_FILE: u64 = 16 * 1024;

/// Why a key file could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file could not be opened or read.
    #[error("cannot read the key file {}: {kind}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system answered.
        kind: io::ErrorKind,
    },
    /// The file could not be made.
    #[error("cannot write the key file {}: {kind}; name another file or make its folder first", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system answered.
        kind: io::ErrorKind,
    },
    /// The file holds nothing, as after a crash while it was written.
    #[error("the key file {} is empty; delete it to get a new identity", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is far longer than any key.
    #[error("{} is too long to be a key file", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The bytes are no Ed25519 private key in libp2p's protobuf form.
    #[error("the key file {} holds no usable Ed25519 private key ({reason}); restore it from a copy or name another file", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// Any user of this machine may read the key.
    #[error("any user of this machine may read the key file {}; run chmod 600 on it, or delete it to get a new identity if somebody may have copied it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
}

impl KeyFileError {
    /// Always this side.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::Local
    }
}

/// Reads the keypair in `path`.
///
/// Blocks on the file system; meant for start-up. A file that any user may read is refused; one that a
/// group may read, as orchestrators hand secrets to a process, is accepted with a warning in the log.
pub fn load(path: &Path) -> Result<Keypair, KeyFileError> {
    let read = |error: io::Error| KeyFileError::Read {
        path: path.to_owned(),
        kind: error.kind(),
    };
    let file = fs::File::open(path).map_err(read)?;
    let mode = mode(&file.metadata().map_err(read)?);
    // Room for an Ed25519 key from the start: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(256));
    file.take(MAX_KEY_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(read)?;
    if bytes.is_empty() {
        return Err(KeyFileError::Empty {
            path: path.to_owned(),
        });
    }
    if bytes.len() as u64 > MAX_KEY_FILE {
        return Err(KeyFileError::TooLong {
            path: path.to_owned(),
        });
    }
    let keypair = Keypair::from_protobuf(&bytes).map_err(|error| KeyFileError::Corrupt {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    check_exposure(path, mode)?;
    Ok(keypair)
}

/// Reads the keypair in `path`, or makes a new one there (mode 0600) when the file does not exist.
/// The flag is `true` for a new one.
///
/// Blocks on the file system; meant for start-up. Of two processes that make the same file at
/// once, one writes it and the other reads or refuses it; neither overwrites.
pub fn load_or_create(path: &Path) -> Result<(Keypair, bool), KeyFileError> {
    match load(path) {
        Err(KeyFileError::Read {
            kind: io::ErrorKind::NotFound,
            ..
        }) => {}
        other => return other.map(|keypair| (keypair, false)),
    }
    let write = |error: io::Error| KeyFileError::Write {
        path: path.to_owned(),
        kind: error.kind(),
    };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = match options.open(path) {
        Ok(file) => file,
        // Another process was first: its key counts.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return load(path).map(|keypair| (keypair, false));
        }
        Err(error) => return Err(write(error)),
    };
    let keypair = Keypair::generate(&mut rand::rng());
    file.write_all(&keypair.to_protobuf()).map_err(write)?;
    file.sync_all().map_err(write)?;
    Ok((keypair, true))
}

/// The permissions of a file; 0 where there are none of this kind.
fn mode(metadata: &fs::Metadata) -> u32 {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        metadata.permissions().mode()
    }
    #[cfg(not(unix))]
    {
        let _ = metadata;
        0
    }
}

fn check_exposure(path: &Path, mode: u32) -> Result<(), KeyFileError> {
    if mode & 0o007 != 0 {
        return Err(KeyFileError::Exposed {
            path: path.to_owned(),
        });
    }
    if mode & 0o070 != 0 {
        tracing::warn!(
            path = %path.display(),
            "a group of users may read this key file; run chmod 600 on it unless that is wanted"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!(
                "barewire-keyfile-{name}-{}-{}",
                std::process::id(),
                rand::random::<u64>()
            ));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_new_file_is_private_and_keeps_the_identity() {
        let folder = Folder::new("new");
        let path = folder.0.join("node.key");
        let (first, new) = load_or_create(&path).unwrap();
        assert!(new);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        let (second, new) = load_or_create(&path).unwrap();
        assert!(!new);
        assert_eq!(first.peer_id(), second.peer_id());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_any_user_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let folder = Folder::new("exposed");
        let path = folder.0.join("node.key");
        let (first, _) = load_or_create(&path).unwrap();
        for (mode, accepted) in [(0o644, false), (0o604, false), (0o640, true), (0o400, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match load_or_create(&path) {
                Ok((again, false)) if accepted => assert_eq!(again.peer_id(), first.peer_id()),
                Err(KeyFileError::Exposed { .. }) if !accepted => {}
                other => panic!("{mode:o}: {other:?}"),
            }
        }
    }

    #[test]
    fn damaged_files_are_named_and_left_alone() {
        let folder = Folder::new("bad");
        let path = folder.0.join("node.key");
        fs::write(&path, b"").unwrap();
        assert!(matches!(
            load_or_create(&path),
            Err(KeyFileError::Empty { .. })
        ));
        fs::write(&path, b"not a key at all").unwrap();
        assert!(matches!(
            load_or_create(&path),
            Err(KeyFileError::Corrupt { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"not a key at all");
        fs::write(&path, vec![8u8; 20_000]).unwrap();
        assert!(matches!(
            load_or_create(&path),
            Err(KeyFileError::TooLong { .. })
        ));
        let good = Keypair::generate(&mut rand::rng()).to_protobuf();
        for cut in 1..good.len() {
            fs::write(&path, &good[..cut]).unwrap();
            assert!(
                matches!(load(&path), Err(KeyFileError::Corrupt { .. })),
                "{cut} bytes"
            );
        }
        assert!(matches!(
            load_or_create(&folder.0.join("absent/node.key")),
            Err(KeyFileError::Write { .. })
        ));
    }
}
