//! `gemma4 inspect`: what is in a model file, and what running it takes.

mod cache;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod devices;
mod model;
mod program;
mod tensors;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use gemma4_core::plan::{MemoryPlan, Target};
use serde_json::{Map, json};

use crate::cli::{CacheArgs, Global};
use crate::failure::Failure;
use crate::{load, text};

const EXAMPLES: &str = "\
Weights are not loaded, so models far larger than the memory can be looked at.

Examples:
  gemma4 inspect -m model.gguf                        sizes, cache and memory at the default context
  gemma4 inspect -m model.gguf --ctx 65536 --kv q8_0  the memory of another set-up
  gemma4 inspect -m model.gguf --tensors              every tensor
  gemma4 inspect -m model.gguf --program decode --context 32768
                                                      every op of a token: what it reads, writes and costs
  gemma4 inspect -m model.gguf --json | jq .memory
  gemma4 inspect --devices                            GPUs, what they can do, and which one is taken";

/// Show a model's sizes, tensors, cache, memory and programs, or this machine's GPUs
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct InspectArgs {
    /// List the GPUs of this machine instead, and which one is taken
    #[arg(long, conflicts_with_all = ["tensors", "program", "ctx", "kv", "kv_local", "model"])]
    devices: bool,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
    /// Print the ops of a step
    #[arg(long, value_enum)]
    program: Option<ProgramName>,
    /// Rows of that step [default: 512 for prefill, 1 for decode, 8 for verify]
    #[arg(long, value_name = "N", requires = "program", value_parser = clap::value_parser!(u16).range(1..=8192))]
    rows: Option<u16>,
    /// Tokens that are in the cache before that step [default: 4096, or what the model can hold if less]
    #[arg(long, value_name = "TOKENS", requires = "program")]
    context: Option<usize>,
    #[command(flatten)]
    cache: CacheArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProgramName {
    /// Part of a prompt; the last row is sampled
    Prefill,
    /// The next token of each sequence
    Decode,
    /// Drafted tokens of a sequence, every one with its logits
    Verify,
}

pub(crate) fn run(args: &InspectArgs, global: &Global) -> Result<ExitCode, Failure> {
    if args.devices {
        return devices(args, global);
    }
    let checkpoint = load::checkpoint(global)?;
    let model = checkpoint.model()?;
    let options = load::options(&model, &args.cache)?;
    let tensors = tensors::List::of(&checkpoint);

    if let Some(name) = args.program {
        let program = program::Listing::new(&model, &options, args, name)?;
        if args.json {
            text::print_json(&program)?;
        } else {
            text::print(program.text()?)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let plan = MemoryPlan::of(&model, &options, Target::Cpu)?;
    if args.json {
        let mut all = Map::new();
        all.insert("path".to_owned(), json!(checkpoint.path().display().to_string()));
        all.insert("model".to_owned(), model::json(&model.config));
        all.insert("types".to_owned(), json!(tensors.types()));
        all.insert("cache".to_owned(), json!(cache::rows(&model.config)?));
        all.insert("memory".to_owned(), cache::memory_json(&plan, &options));
        if args.tensors {
            all.insert("tensors".to_owned(), json!(tensors.tensors()));
        }
        text::print_json(&all)?;
    } else if args.tensors {
        text::print(tensors.text()?)?;
    } else {
        let mut out = format!("{}\n\n", checkpoint.path().display());
        out += &model::text(&model.config)?;
        out += &tensors.types_text()?;
        out += &cache::text(&model.config)?;
        out += &cache::memory_text(&plan, &options)?;
        text::print(out)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn devices(args: &InspectArgs, global: &Global) -> Result<ExitCode, Failure> {
    let devices = devices::Devices::of_this_machine(global);
    if args.json {
        text::print_json(&devices)?;
    } else {
        text::print(devices.text()?)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
fn devices(_: &InspectArgs, _: &Global) -> Result<ExitCode, Failure> {
    Err(Failure::usage(
        "this build has no wgpu backend and no cuda backend (their features are off), so it uses no GPU",
    ))
}
