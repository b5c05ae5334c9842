//! Network namespaces, made with `ip`, tied by cables, deleted when dropped. Needs root and iproute2; rules need nftables.

use std::{
    ffi::OsStr,
    fs::File,
    io::Write,
    os::fd::AsFd,
    process::{Command as StdCommand, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::process::Command;

use crate::process::Failure;

/// A namespace, deleted when dropped. Its loopback interface is up.
#[derive(Debug)]
pub struct Netns(String);

impl Netns {
    /// `name` is for people who look at what is there during a test; the namespace's own name tells it from all others.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn new(name: &str) -> Result<Self, Failure> {
        let this = Self(unique(name));
        ip(&format!("netns add {}", this.0))?;
        this.ip("link set lo up")?;
        Ok(this)
    }

    /// What `ip netns list` calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Runs `ip` in it, once for each line.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn ip(&self, lines: &str) -> Result<(), Failure> {
        ip_in(&self.0, lines)
    }

    /// Adds nftables rules.
    ///
    /// # Errors
    /// What `nft` said.
    pub fn nft(&self, rules: &str) -> Result<(), Failure> {
        let nft = ["netns", "exec", &self.0, "nft", "-f", "-"];
        run(StdCommand::new("ip").args(nft), rules)
    }

    /// Sets a variable of the kernel, such as `net.ipv4.ip_forward=1`.
    ///
    /// # Errors
    /// What `sysctl` said.
    pub fn sysctl(&self, setting: &str) -> Result<(), Failure> {
        let sysctl = ["netns", "exec", &self.0, "sysctl", "-qw", setting];
        run(StdCommand::new("ip").args(sysctl), "")
    }

    /// A command that runs in it, and is killed when dropped.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.0])
            .arg(program)
            .kill_on_drop(true);
        command
    }

    /// A handle that keeps it when this is dropped.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open(&self) -> Result<File, Failure> {
        Ok(File::open(format!("/run/netns/{}", self.0))?)
    }

    /// Moves this thread, and what it starts from now on, into it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn enter(&self) -> Result<(), Failure> {
        enter(&self.open()?)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(ip(&format!("netns del {}", self.0)));
    }
}

/// As [`Netns::enter`], for a handle.
///
/// # Errors
/// What the kernel said.
pub fn enter(namespace: &File) -> Result<(), Failure> {
    let network = Some(LinkNameSpaceType::Network);
    Ok(move_into_link_name_space(namespace.as_fd(), network)?)
}

/// Lays a cable between interfaces that come to be, both up.
///
/// # Errors
/// What `ip` said.
pub fn cable(one: (&Netns, &str), two: (&Netns, &str)) -> Result<(), Failure> {
    let (here, port) = one;
    let (there, peer) = two;
    here.ip(&format!(
        "link add name {port} type veth peer name {peer} netns {}\nlink set {port} up",
        there.0
    ))?;
    there.ip(&format!("link set {peer} up"))
}

/// Runs `ip` in the namespace of this thread, once for each line.
///
/// # Errors
/// What it said.
pub fn ip(lines: &str) -> Result<(), Failure> {
    run(StdCommand::new("ip").args(["-batch", "-"]), lines)
}

/// Runs `ip` in a namespace, once for each line.
pub(crate) fn ip_in(namespace: &str, lines: &str) -> Result<(), Failure> {
    run(
        StdCommand::new("ip").args(["-n", namespace, "-batch", "-"]),
        lines,
    )
}

/// Whether this process may make namespaces: it is root and `ip` is there.
#[must_use]
pub fn available() -> bool {
    Netns::new("try").is_ok()
}

/// A name that nothing else has, short enough for an interface if `name` has one character.
pub(crate) fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("bw{}-{number}{name}", std::process::id())
}

fn run(command: &mut StdCommand, input: &str) -> Result<(), Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|cause| format!("cannot run {program}: {cause}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read to the end says why.
        drop(stdin.write_all(input.as_bytes()));
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} with `{input}`: {}", said.trim()).into())
}
