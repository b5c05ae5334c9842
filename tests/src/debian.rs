//! Programs that tests need and Debian has.

use std::{
    process::{Command, Output, Stdio},
    sync::Mutex,
};

/// The tests of one process that need a program take turns; other processes wait for the package manager's own lock.
static TURN: Mutex<()> = Mutex::new(());

/// Makes sure that `program --version` runs, by installing the Debian package `package` if need be, which takes root.
///
/// # Errors
/// What the package manager said, if the program is not there afterwards.
pub fn install(program: &str, package: &str) -> Result<(), String> {
    let _turn = TURN
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let runs = || {
        let version = Command::new(program)
            .arg("--version")
            .stdin(Stdio::null())
            .output();
        version.is_ok_and(|output| output.status.success())
    };
    if runs() {
        return Ok(());
    }
    eprintln!("installing {package}");
    let updated = apt(&["update", "-qq"]);
    let installed = apt(&["install", "-y", "-qq", "--no-install-recommends", package]);
    if runs() {
        return Ok(());
    }
    Err(format!("no {program}: {updated:?}; {installed:?}"))
}

fn apt(args: &[&str]) -> std::io::Result<Output> {
    Command::new("apt-get")
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
}
