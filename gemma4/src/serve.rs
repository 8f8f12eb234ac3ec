//! `gemma4 serve`: the model behind HTTP, or behind stdin and stdout.

pub(crate) mod args;
pub(crate) mod job;
pub(crate) mod scheduler;
pub(crate) mod start;
mod stdio;

use std::process::ExitCode;

use clap::Args;

use crate::cli::Global;
use crate::failure::Failure;
use args::EngineArgs;

/// Serve the model to other programs
#[derive(Args, Debug)]
#[command(after_long_help = STDIO)]
pub(crate) struct ServeArgs {
    /// Speak newline-delimited JSON on stdin and stdout instead of HTTP; see below
    #[arg(long)]
    stdio: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

const STDIO: &str = "\
With --stdio, every line of stdin is a JSON object with `op` and, mostly, an `id`; every line of stdout is one with
`event` and that `id`. The first is `ready`. When stdin ends, what runs is finished.

  {\"op\":\"generate\",\"id\":1,\"messages\":[{\"role\":\"user\",\"content\":\"What does numpy.sum do?\"}]}
      also: prompt (text as it is) or tokens (ids); tools, think, template_args; max_tokens, temperature, top_k, top_p,
      min_p, repetition_penalty, frequency_penalty, presence_penalty, logit_bias, seed, stop_tokens, logprobs,
      cache (reuse, exact, none), deadline_ms, progress
      answers: started, prefill, token, delta, finished
  {\"op\":\"cancel\",\"of\":1}            ends that request
  {\"op\":\"park\"}  {\"op\":\"unpark\"}   give the model's memory back, load it again
  {\"op\":\"save\",\"path\":\"a.kept\",\"messages\":[...]}   write what the cache has of a prompt to a file
  {\"op\":\"restore\",\"path\":\"a.kept\"}                  prompts that begin like it go on from there
  {\"op\":\"forget\"}  {\"op\":\"status\"}

What cannot be done is answered by `error` with code and message; other requests go on.";

pub(crate) fn run(args: &ServeArgs, global: &Global) -> Result<ExitCode, Failure> {
    if !args.stdio {
        return Err(Failure::usage("HTTP is not in this build yet; use --stdio"));
    }
    stdio::run(start::start(&args.engine, global)?)
}
