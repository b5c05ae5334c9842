//! The programs tests and benchmarks put at the ends of a connection: the foreign peers, built on demand into a cache
//! outside the checkout, and the `barewire` command itself.
//!
//! `BAREWIRE_PEER_CACHE` names the cache (default: `$XDG_CACHE_HOME/barewire-peers` or `~/.cache/barewire-peers`).
//! A program there is named after a hash of all its sources and lock files, so an unchanged peer is built once.

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sha2::{Digest, Sha256};

/// A foreign peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Foreign {
    /// go-libp2p, built by the Go toolchain.
    Go,
    /// rust-libp2p.
    Rust,
    /// js-libp2p in Node.js, which comes from PyPI.
    Js,
    /// js-libp2p in headless Chromium. It only dials.
    Chromium,
    /// py-libp2p.
    Py,
    /// litep2p; only the benchmark needs it.
    Litep2p,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Go => "go",
            Self::Rust => "rust",
            Self::Js => "js",
            Self::Chromium => "chromium",
            Self::Py => "py",
            Self::Litep2p => "litep2p",
        })
    }
}

/// Why there is no program to run.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unavailable {
    /// The toolchain is not on this machine; tests skip unless [`required`].
    NoToolchain(String),
    /// The build failed.
    Broken(String),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoToolchain(reason) | Self::Broken(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for Unavailable {}

impl From<io::Error> for Unavailable {
    fn from(cause: io::Error) -> Self {
        Self::Broken(cause.to_string())
    }
}

/// Whether an absent toolchain is a failure rather than a reason to skip: in CI it is.
#[must_use]
pub fn required() -> bool {
    env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

impl Foreign {
    /// The program; `None`, with the reason printed, where its toolchain is not on this machine.
    ///
    /// # Panics
    /// When it does not build, and in CI, which has every toolchain.
    #[must_use]
    pub fn build_or_skip(self) -> Option<PathBuf> {
        let built = self.build();
        if let Err(Unavailable::NoToolchain(reason)) = &built {
            crate::skip(&format!("{self}: {reason}"));
            return None;
        }
        assert!(built.is_ok(), "{self}: {built:?}");
        built.ok()
    }

    /// Folders, relative to the checkout, whose content makes the program.
    fn sources(self) -> &'static [&'static str] {
        match self {
            Self::Go => &["tests/interop/go"],
            Self::Rust => &["tests/interop/rust", "tests/interop/peer-cli"],
            Self::Js | Self::Chromium => &["tests/interop/js"],
            Self::Py => &["tests/interop/py"],
            Self::Litep2p => &["bench/peers/litep2p", "tests/interop/peer-cli"],
        }
    }

    /// The program, from the cache or built now, which takes minutes when everything is cold.
    pub fn build(self) -> Result<PathBuf, Unavailable> {
        let cache = cache()?;
        fs::create_dir_all(&cache)?;
        // The browser's peer is built with the one of Node.js.
        let built = if self == Self::Chromium {
            Self::Js
        } else {
            self
        };
        if self == Self::Chromium {
            chromium()?;
        }
        let to = cache.join(format!("peer-{built}-{}", self.fingerprint()?));
        if !to.exists() {
            eprintln!("building the {built} peer ({})", to.display());
            // Built aside and renamed, so that a build that is cut off or runs twice leaves nothing half done.
            let aside = cache.join(format!("peer-{built}-{}.partial", std::process::id()));
            match built {
                Self::Go => self.build_go(&aside)?,
                Self::Rust | Self::Litep2p => self.build_cargo(&cache, &aside)?,
                Self::Js | Self::Chromium | Self::Py => self.build_folder(&aside)?,
            }
            fs::rename(&aside, &to)?;
        }
        Ok(match self {
            Self::Go | Self::Rust | Self::Litep2p => to,
            Self::Js | Self::Chromium | Self::Py => to.join(format!("peer-{self}")),
        })
    }

    /// A copy of the sources, in which their own script puts what they need.
    fn build_folder(self, to: &Path) -> Result<(), Unavailable> {
        if to.exists() {
            // Of an earlier process with this id, cut off.
            fs::remove_dir_all(to)?;
        }
        fs::create_dir(to)?;
        for entry in fs::read_dir(self.home())? {
            let entry = entry?;
            // A folder is what somebody has installed there by hand.
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        let found = Command::new("python3").arg("--version").output();
        if found.is_err() {
            return Err(Unavailable::NoToolchain(
                "`python3` is not on the PATH".to_owned(),
            ));
        }
        let mut script = Command::new("sh");
        script.arg("build.sh").current_dir(to);
        succeed(script, "sh")
    }

    fn home(self) -> PathBuf {
        checkout().join(self.sources()[0])
    }

    fn build_go(self, to: &Path) -> Result<(), Unavailable> {
        let mut go = Command::new("go");
        go.current_dir(self.home())
            .args(["build", "-trimpath", "-mod=readonly", "-o"])
            .arg(to)
            .arg(".");
        succeed(go, "go")
    }

    fn build_cargo(self, cache: &Path, to: &Path) -> Result<(), Unavailable> {
        let target = cache.join("target");
        let cargo = |package: &str| {
            let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo
                .current_dir(self.home())
                .args([
                    "build",
                    "--release",
                    "--locked",
                    "--package",
                    package,
                    "--target-dir",
                ])
                .arg(&target)
                .env_remove("CARGO_TARGET_DIR")
                .env_remove("RUSTFLAGS")
                .env_remove("CARGO_ENCODED_RUSTFLAGS");
            // Peers are built as their own manifests say, whatever is said for ours.
            for (name, _) in env::vars_os() {
                if name.to_string_lossy().starts_with("CARGO_PROFILE_") {
                    cargo.env_remove(name);
                }
            }
            cargo
        };
        let name = format!("peer-{self}");
        let mut peer = cargo(&format!("barewire-{name}"));
        if self == Self::Litep2p && env::var_os("PROTOC").is_none() {
            // litep2p compiles protobuf files while it is built.
            succeed(cargo("barewire-protoc"), "cargo")?;
            peer.env("PROTOC", target.join("release/protoc"));
        }
        succeed(peer, "cargo")?;
        fs::copy(target.join("release").join(name), to)?;
        Ok(())
    }

    /// Hash over the paths and contents of all source files, lock files among them.
    fn fingerprint(self) -> Result<String, Unavailable> {
        let mut files = Vec::new();
        for folder in self.sources() {
            collect(&checkout().join(folder), &mut files)?;
        }
        files.sort();
        let mut hash = Sha256::new();
        for file in files {
            hash.update(
                file.strip_prefix(checkout())
                    .unwrap_or(&file)
                    .to_string_lossy()
                    .as_bytes(),
            );
            let content = fs::read(&file)?;
            hash.update((content.len() as u64).to_be_bytes());
            hash.update(content);
        }
        Ok(hash
            .finalize()
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }
}

/// Makes sure that there is a Chromium: root on Debian installs it.
fn chromium() -> Result<(), Unavailable> {
    let named = env::var("CHROMIUM").ok();
    crate::debian::install(named.as_deref().unwrap_or("chromium"), "chromium").map_err(|cause| {
        Unavailable::NoToolchain(format!(
            "there is no `chromium`; install it, or name one in CHROMIUM ({cause})"
        ))
    })
}

/// The `barewire` command in its release profile: `BAREWIRE_BIN`, or built from this checkout.
pub fn barewire() -> Result<PathBuf, Unavailable> {
    if let Some(program) = env::var_os("BAREWIRE_BIN") {
        return Ok(program.into());
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(checkout()).args([
        "build",
        "--release",
        "--locked",
        "--package",
        "barewire-cli",
    ]);
    succeed(cargo, "cargo")?;
    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from);
    Ok(checkout().join(target).join("release/barewire"))
}

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| Path::new("/"))
}

fn cache() -> Result<PathBuf, Unavailable> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("BAREWIRE_PEER_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("barewire-peers")))
        .or_else(|| Some(set("HOME")?.join(".cache/barewire-peers")))
        .ok_or_else(|| {
            Unavailable::Broken("no place for built peers: set BAREWIRE_PEER_CACHE".to_owned())
        })
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" && entry.file_name() != "node_modules" {
                collect(&entry.path(), files)?;
            }
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn succeed(mut command: Command, toolchain: &str) -> Result<(), Unavailable> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => {
                Unavailable::NoToolchain(format!("`{toolchain}` is not on the PATH"))
            }
            _ => Unavailable::Broken(format!("{command:?}: {cause}")),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let log = String::from_utf8_lossy(&output.stderr);
    Err(Unavailable::Broken(format!("{command:?} failed:\n{log}")))
}
