//! The four stacks and how their programs are started. All take the same command line.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use barewire_tests::peers::{self, Foreign, Unavailable};
use tokio::process::Command;

/// A networking stack under comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stack {
    /// This project.
    Barewire,
    /// go-libp2p.
    Go,
    /// rust-libp2p.
    Rust,
    /// litep2p.
    Litep2p,
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Barewire => "barewire",
            Self::Go => "go",
            Self::Rust => "rust",
            Self::Litep2p => "litep2p",
        })
    }
}

impl Stack {
    /// All, barewire first.
    pub const ALL: [Self; 4] = [Self::Barewire, Self::Go, Self::Rust, Self::Litep2p];
    /// Those barewire is compared with.
    pub const PEERS: [Self; 3] = [Self::Go, Self::Rust, Self::Litep2p];

    fn build(self) -> Result<PathBuf, Unavailable> {
        match self {
            Self::Barewire => peers::barewire(),
            Self::Go => Foreign::Go.build(),
            Self::Rust => Foreign::Rust.build(),
            Self::Litep2p => Foreign::Litep2p.build(),
        }
    }
}

/// A stack and its built program.
#[derive(Debug, Clone)]
pub struct Program {
    /// Which stack it speaks.
    pub stack: Stack,
    path: PathBuf,
}

impl Program {
    /// A program that speaks a stack.
    #[must_use]
    pub fn of(stack: Stack, path: PathBuf) -> Self {
        Self { stack, path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Builds what is not in the cache. Of stacks that cannot be built the reason is returned.
    #[must_use]
    pub fn build(stacks: &[Stack]) -> (Vec<Self>, Vec<(Stack, Unavailable)>) {
        let (mut programs, mut left_out) = (Vec::new(), Vec::new());
        for &stack in stacks {
            match stack.build() {
                Ok(path) => programs.push(Self { stack, path }),
                Err(cause) => left_out.push((stack, cause)),
            }
        }
        (programs, left_out)
    }

    /// A command of this program, pinned to one processor if asked.
    #[must_use]
    pub fn command(&self, args: &[&str], processor: Option<usize>) -> Command {
        let mut command = pinned(&self.path, processor);
        command.args(args);
        command
    }

    /// A command with as many file descriptors as the system grants, for a thousand connections.
    #[must_use]
    pub fn command_with_descriptors(&self, args: &[&str]) -> Command {
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "ulimit -n 16384 || ulimit -n $(ulimit -Hn); exec \"$0\" \"$@\"",
            ])
            .arg(&self.path)
            .args(args);
        command
    }
}

/// `program`, run by `taskset` if it is to stay on one processor.
#[must_use]
pub fn pinned(program: &Path, processor: Option<usize>) -> Command {
    match processor {
        None => Command::new(program),
        Some(processor) => {
            let mut command = Command::new("taskset");
            command
                .args(["--cpu-list", &processor.to_string()])
                .arg(program);
            command
        }
    }
}
