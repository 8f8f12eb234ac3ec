//! `cargo xtask abi`: the headers that kernels and shaders share with the host.

use std::fs;

use clap::Args;
use gemma4_core::abi;

use crate::{Failure, root};

/// Write kernels/gen/abi.cuh and shaders/gen/abi.wgsl from the tables in core/src/abi.rs.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Write nothing; fail if a file is not what the tables say.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let files = [("kernels/gen/abi.cuh", abi::cuda()), ("shaders/gen/abi.wgsl", abi::wgsl())];
    let mut stale = Vec::new();
    for (name, text) in files {
        let path = root().join(name);
        // A file that cannot be read is as good as absent: writing it says what is wrong.
        if fs::read_to_string(&path).is_ok_and(|committed| committed == text) {
            continue;
        }
        if options.check {
            stale.push(name);
            continue;
        }
        let folder = path.parent().expect("a generated file is in a folder");
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, text))
            .map_err(|error| format!("cannot write {name}: {error}"))?;
        println!("wrote {name}");
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(format!("{} is not what core/src/abi.rs says: run `cargo xtask abi`", stale.join(" and ")))
}

/// Fails if a generated file is out of date.
pub(crate) fn check() -> Result<(), Failure> {
    run(&Options { check: true })
}
