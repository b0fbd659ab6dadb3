//! This program again, in processes of its own.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::names::Name;

/// Where this program is.
pub(crate) fn program() -> Result<PathBuf, String> {
    env::current_exe().map_err(|error| format!("cannot find this program: {error}"))
}

/// What this program prints when it is called with these arguments, in the environment of a subject.
pub(crate) fn ask(name: Name, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program()?)
        .args(arguments)
        .envs(name.environment())
        .output()
        .map_err(|error| format!("cannot start a process for {name}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim_end()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
