//! `gemma4 serve`: the model behind HTTP, or behind stdin and stdout.

pub(crate) mod args;
pub(crate) mod dialogue;
pub(crate) mod guide;
pub(crate) mod http;
pub(crate) mod job;
pub(crate) mod scheduler;
pub(crate) mod start;
mod stdio;

use std::process::ExitCode;

use clap::Args;

use crate::cli::Global;
use crate::failure::Failure;
use args::EngineArgs;
use http::HttpArgs;

/// Serve the model to other programs
///
/// Speaks the interfaces of OpenAI (chat completions, completions, responses) and of Anthropic (messages) under /v1, and
/// has a page to chat on at /. Requests share the model: they are answered at once, and what their prompts have in
/// common is computed once.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{PATHS}\n\n{STDIO}"))]
pub(crate) struct ServeArgs {
    /// Speak newline-delimited JSON on stdin and stdout instead of HTTP; see below
    #[arg(long)]
    stdio: bool,
    #[command(flatten)]
    http: HttpArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

const EXAMPLES: &str = "\
Examples:
  gemma4 serve                                              a page to chat on at http://127.0.0.1:8080
  gemma4 serve -m gemma-4-E4B-it-Q4_K_M.gguf --ctx 65536 --parallel 2
  GEMMA4_API_KEY=secret gemma4 serve --host 0.0.0.0          for other machines, with a key

  curl localhost:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello!\"}]}'
  OPENAI_BASE_URL=http://localhost:8080/v1 OPENAI_API_KEY=any     openai-python, LangChain and others
  ANTHROPIC_BASE_URL=http://localhost:8080 ANTHROPIC_API_KEY=any claude
  codex -c model_providers.here='{name=\"here\", base_url=\"http://localhost:8080/v1\", wire_api=\"responses\"}' \\
        -c model_provider=here -m gemma4";

const PATHS: &str = "\
Paths:
  /v1/chat/completions, /v1/completions, /v1/responses       OpenAI
  /v1/messages, /v1/messages/count_tokens                    Anthropic
  /v1/models                                                 name and context
  /tokenize, /detokenize, /apply-template                    what a prompt is made of
  /health                                                    200 when the model is loaded
  /metrics                                                   counts for Prometheus

Beside the vendors' fields requests may have: top_k, min_p, repetition_penalty, enable_thinking, thinking_budget,
cache (reuse, exact, none), return_progress. `usage.reuse` tells why not more of a prompt was cached.

Exit codes: 0 ended by SIGTERM or Ctrl-C with all answers complete, 1 failed, 2 a wrong command line, 130 ended at once.";

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
    if args.stdio {
        return stdio::run(start::start(&args.engine, global)?);
    }
    http::check(&args.http)?;
    let name = args.http.alias.clone().unwrap_or_else(|| model_name(global));
    http::run(&args.http, name, start::start(&args.engine, global)?)
}

/// What the model is called: its file or folder without what says how it is stored.
fn model_name(global: &Global) -> String {
    let Some(path) = &global.model else { return "gemma4-pocket".to_owned() };
    let path = path.canonicalize().unwrap_or_else(|_| path.clone());
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| "gemma4".to_owned(), |name| name.to_string_lossy().into_owned())
}
