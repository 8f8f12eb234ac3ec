//! `gemma4 completions` and `gemma4 man`: what shells and manuals know about this program.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;

/// Print a script that lets a shell complete commands and options
///
/// For this session of bash: source <(gemma4 completions bash). For good: write it to where your shell looks, such as
/// ~/.local/share/bash-completion/completions/gemma4, a folder of zsh's $fpath as _gemma4, or
/// ~/.config/fish/completions/gemma4.fish.
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// Print the manual, for man
///
/// To read it now: gemma4 man | man -l -. With --dir, every command has a page of its own, such as gemma4-run.1.
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// Write all pages into this folder instead
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum ShellError {
    #[error("cannot write to stdout")]
    Stdout(#[source] io::Error),
    #[error("cannot write manual pages into {dir}")]
    Pages { dir: PathBuf, source: io::Error },
}

pub(crate) fn completions(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "gemma4", &mut script);
    print(&script)
}

pub(crate) fn man(args: &ManArgs) -> Result<ExitCode, Failure> {
    if let Some(dir) = &args.dir {
        fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), dir))
            .map_err(|source| ShellError::Pages { dir: dir.clone(), source })?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page).map_err(ShellError::Stdout)?;
    print(&page)
}

fn print(bytes: &[u8]) -> Result<ExitCode, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ShellError::Stdout(error).into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_shell_learns_every_command() {
        for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "gemma4", &mut script);
            let script = String::from_utf8(script).unwrap();
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
            assert!(script.contains("repetition-penalty"), "{shell}");
        }
    }
}
