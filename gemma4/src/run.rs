//! `gemma4 run`: one answer, or a chat.

mod chat;
mod delayed;
mod interrupt;
mod once;
mod options;
mod prompt;
mod screen;
mod turn;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use gemma4_core::backend::Backend;
use gemma4_core::chat::{Dialogue, Message, Role};
use gemma4_core::dialogue::{DialogueError, Speaker};
use gemma4_core::engine::{Engine, Options};
use gemma4_core::sample::Sampling;
use gemma4_core::session::SessionError;
use gemma4_core::speculate;
use gemma4_core::tokenizer::Special;
use serde_json::Value;

use crate::cli::{CacheArgs, Global};
use crate::device::Purpose;
use crate::draft::DraftArgs;
use crate::failure::Failure;
use crate::{device, load};
use interrupt::Twice;
use options::SamplingArgs;
use prompt::Asked;
use screen::Screen;

/// Answer a prompt, or chat
///
/// With a prompt, prints one answer: stdout carries the answer (and calls of tools), everything else goes to stderr.
/// Without one, a piped stdin is the prompt; at a terminal a chat begins, where /help lists what it can do.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct RunArgs {
    /// What to ask; `-` is stdin
    ///
    /// Where stdin is piped as well, its text follows the prompt after an empty line.
    prompt: Option<String>,
    /// Give the prompt to the model as it is, without a chat template, and print what comes back as it is
    ///
    /// `<bos>` goes in front; control tokens such as `<|turn>` are read as tokens.
    #[arg(long, conflicts_with_all = ["system", "think", "tools"])]
    raw: bool,
    /// Instructions that stand above the dialogue
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Let the model think before it answers; thoughts go to stderr
    #[arg(long)]
    think: bool,
    /// Tools the model may call: a file with a JSON list as in OpenAI's `tools`
    #[arg(long, value_name = "FILE")]
    tools: Option<PathBuf>,
    /// Most tokens of an answer, thoughts included [default: as many as fit the context]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: Option<u32>,
    /// Print one JSON object instead, when the answer is complete
    ///
    /// Its keys: `content`, `reasoning`, `tool_calls` (each with `name` and `arguments`), `errors` (calls that could
    /// not be read), `finish` (stop, `tool_calls`, length or cancelled), `usage` (`prompt_tokens`, `reused_tokens`,
    /// `completion_tokens`), `seed`, `timings` and, where tokens were drafted, `drafting`.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    draft: DraftArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

const EXAMPLES: &str = "\
Examples:
  gemma4 run \"What does numpy.linspace do?\"
  gemma4 run --think \"What is scipy.linalg.solve?\" 2>thoughts.txt
  gemma4 run \"Explain this error:\" < build.log
  gemma4 run --json --temperature 0 \"What is 3 plus 4?\" | jq -r .content
  gemma4 run --raw --max-tokens 40 \"import os\"
  gemma4 run --model gemma-4-E4B-it-Q4_K_M.gguf --ctx 32768 --kv q8_0
  gemma4 run --model gemma-4-31B-it-Q4_K_M.gguf --draft gemma-4-31B-it-DFlash-Q8_0.gguf

Exit codes: 0 done, 1 failed, 2 a wrong command line, 130 stopped by Ctrl-C.";

/// What can go wrong in a run, beside the model.
#[derive(Debug, thiserror::Error)]
enum RunError {
    /// Stdin cannot be read.
    #[error("cannot read the prompt from stdin")]
    Stdin(#[source] io::Error),
    /// Stdin is longer than any context.
    #[error("the prompt from stdin has more than {0} bytes, more than any context holds")]
    StdinTooLong(u64),
    /// Stdin is something else than text.
    #[error("the prompt from stdin is no UTF-8 text: byte {0} is wrong")]
    StdinNotText(usize),
    /// The answer cannot be written.
    #[error("cannot write the answer to stdout")]
    Output(#[source] io::Error),
    /// The file of `--tools` cannot be read.
    #[error("cannot read {path}, the file of --tools")]
    Tools {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file of `--tools` holds something else.
    #[error("{path}, the file of --tools, holds no JSON list of tools")]
    NotTools {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Ctrl-C cannot be caught.
    #[error("cannot catch Ctrl-C")]
    Interrupt(#[source] ctrlc::Error),
    /// The terminal cannot be read line by line.
    #[error("cannot read from the terminal")]
    Terminal(#[source] io::Error),
}

/// How answers are made.
#[derive(Clone, Debug)]
struct Settings {
    sampling: Sampling,
    /// Whether the user chose the seed.
    seeded: bool,
    max_tokens: usize,
    /// How tokens are drafted, if they are.
    draft: Option<speculate::Settings>,
}

/// What is to be done with a model, once it is ready.
#[derive(Debug)]
enum Task {
    /// Continue these tokens.
    Raw(Vec<u32>),
    /// Answer once.
    Once(Dialogue),
    /// Answer until the user leaves.
    Chat(Dialogue),
}

pub(crate) fn run(args: &RunArgs, global: &Global) -> Result<ExitCode, Failure> {
    let asked = prompt::asked(args.prompt.as_deref())?;
    if matches!(asked, Asked::Chat) {
        for (given, flag) in [(args.raw, "--raw"), (args.json, "--json")] {
            if given {
                return Err(Failure::usage(format!("{flag} needs a prompt: give one, or pipe it in")));
            }
        }
    }
    let tools = args.tools.as_deref().map(read_tools).transpose()?.unwrap_or_default();
    let checkpoint = load::checkpoint(global)?;
    let model = checkpoint.model()?;
    let options = load::options(&model, &args.cache)?;
    let speaker = Speaker::new(&checkpoint)?;
    let mut settings = Settings {
        sampling: args.sampling.over(&speaker.sampling, model.config.vocab)?,
        seeded: args.sampling.seed.is_some(),
        max_tokens: args.max_tokens.map_or(usize::MAX, |n| n as usize),
        draft: None,
    };
    let drafting = args.draft.open(&model.config, Some(&speaker.tokenizer))?;
    let mut dialogue = Dialogue { tools, enable_thinking: args.think, ..Dialogue::new(Vec::new()) };
    if let Some(system) = args.system.as_deref().filter(|text| !text.trim().is_empty()) {
        dialogue.messages.push(Message::new(Role::System, system));
    }
    let task = match asked {
        Asked::Text(text) if args.raw => Task::Raw(speaker.tokenizer.encode_prompt(&text, Special::Parse)?),
        Asked::Text(text) => {
            dialogue.messages.push(Message::new(Role::User, text));
            Task::Once(dialogue)
        }
        Asked::Chat => Task::Chat(dialogue),
    };
    check(&task, &speaker, &options)?;
    let shown = Shown { name: model_name(global), json: args.json };
    device::with!(device::choose(global, Purpose::Use)?, device => {
        let options = load::steps(&device, &model, options, &drafting)?;
        let mut engine = load::engine(device, model, options)?;
        settings.draft = drafting.attach(&mut engine, options.kv_global)?;
        start(engine, &speaker, settings, task, &shown)
    })
}

/// Finds a prompt that is too long, and tools that the template refuses, before the weights are read.
fn check(task: &Task, speaker: &Speaker, options: &Options) -> Result<(), DialogueError> {
    let prompt = match task {
        Task::Raw(tokens) => tokens.len(),
        Task::Once(dialogue) => speaker.prompt(dialogue)?.tokens.len(),
        Task::Chat(dialogue) => {
            let mut dialogue = dialogue.clone();
            dialogue.messages.push(Message::new(Role::User, "Hello!"));
            speaker.prompt(&dialogue)?.tokens.len()
        }
    };
    if prompt > options.context {
        return Err(SessionError::PromptTooLong { prompt, context: options.context }.into());
    }
    Ok(())
}

/// How a run presents itself.
#[derive(Debug)]
struct Shown {
    /// What to call the model.
    name: String,
    /// One JSON object instead of text.
    json: bool,
}

fn start<B: Backend>(
    mut engine: Engine<B>,
    speaker: &Speaker,
    settings: Settings,
    task: Task,
    shown: &Shown,
) -> Result<ExitCode, Failure> {
    let screen = Screen::standard();
    match task {
        Task::Chat(dialogue) => {
            let stop = interrupt::catch(Twice::IsOnce).map_err(RunError::Interrupt)?;
            let mut lines = chat::Editor::new().map_err(RunError::Terminal)?;
            let mut chat = chat::Chat::new(&mut engine, speaker, settings, dialogue, screen, stop);
            chat.welcome(&shown.name);
            chat.run(&mut lines)?;
            Ok(ExitCode::SUCCESS)
        }
        task => {
            let stop = interrupt::catch(Twice::Leaves).map_err(RunError::Interrupt)?;
            once::answer(&mut engine, speaker, &settings, &task, shown, screen, stop)
        }
    }
}

fn model_name(global: &Global) -> String {
    global
        .model
        .as_deref()
        .and_then(Path::file_name)
        .map_or_else(|| "the built-in pocket model".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn read_tools(path: &Path) -> Result<Vec<Value>, RunError> {
    let text =
        fs::read_to_string(path).map_err(|source| RunError::Tools { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|source| RunError::NotTools { path: path.to_owned(), source })
}
