//! Running cargo.

use std::process::Command;

use crate::{Failure, root};

/// A cargo command in the root of the repository, with the cargo that runs this program.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// Runs `command` with its output on ours, and fails if it does.
pub(crate) fn succeed(mut command: Command) -> Result<(), Failure> {
    let status = command.status().map_err(|error| format!("cannot start {}: {error}", shown(&command)))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed: {status}", shown(&command))) }
}

/// What `command` writes to standard output.
pub(crate) fn output(mut command: Command) -> Result<Vec<u8>, Failure> {
    let output = command.output().map_err(|error| format!("cannot start {}: {error}", shown(&command)))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!("{} failed: {}\n{}", shown(&command), output.status, String::from_utf8_lossy(&output.stderr)))
}

/// The command as a person would type it.
fn shown(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let name = program.rsplit('/').next().unwrap_or_default().to_owned();
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    format!("`{}`", std::iter::once(name).chain(words).collect::<Vec<_>>().join(" "))
}
