//! `gemma4 bench`: how fast a model runs here.

mod draft;
mod measure;
mod plot;
mod profile;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gemma4_core::engine::Options;
use gemma4_core::model::gemma4::Gemma4;

use crate::cli::{CacheArgs, Global};
use crate::device::{self, Device, Purpose};
use crate::draft::{DraftArgs, Drafting};
use crate::failure::Failure;
use crate::{load, text};
use draft::BenchDraftArgs;
use measure::Bench;
use report::{Bandwidth, Report};

/// Prompt lengths and contexts unless the user says otherwise; those that a model cannot hold are left out.
const LENGTHS: [usize; 2] = [512, 4096];
const CONTEXTS: [usize; 2] = [0, 4096];

const EXAMPLES: &str = "\
How it is measured:
  Each number is the median of --repeat runs, after one that is not counted. Prompts are made of
  arbitrary tokens, so models of random weights, without a tokenizer, are measured as well.
  Prefill runs a prompt from an empty cache until its last token has been sampled. Decode generates
  --generate tokens, greedily and without an end, behind as many tokens as --decode says. On a GPU
  the host enqueues a step before it has read the token of the one before, as `gemma4 run` does; the
  rate when it waits for every token instead stands beside it.
  The bytes of a step are those that it must read: each weight that it uses once, and the cache.
  What was read a second is put as a share of --bandwidth; on CUDA, without it, of what the device was
  measured to read at the start. --profile times each dispatch
  on the device. The control is the first context measured once more at the end: differences as large
  as its own mean nothing. Times of dispatches leave out what lies between steps, which the last line shows.

Examples:
  gemma4 bench -m model.gguf
  gemma4 bench -m model.gguf --prompt 512,8192 --decode 0,8192,65536 --kv q8_0
  gemma4 bench -m model.gguf --prompt 0 --decode 4096 --bandwidth 936 --profile
  gemma4 bench -m model.gguf --json | jq .decode
  gemma4 bench -m model.gguf --decode 0,4096,32768 --csv --plot speed.svg > speed.csv
  gemma4 bench -m model.gguf --prompt 0 --decode 0,4096 --verify-rows 2,4,8,16
  gemma4 bench -m model.gguf --draft drafter.gguf --simulate-acceptance 0.8 --plot speed.svg";

/// Measure how fast a model runs here
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
#[command(mut_arg("ctx", |arg| arg.help("Most tokens of a sequence [default: as many as are measured]")))]
pub(crate) struct BenchArgs {
    /// Lengths of prompts to read, 0 for none [default: 512,4096]
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    prompt: Option<Vec<usize>>,
    /// Contexts to generate behind [default: 0,4096]
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    decode: Option<Vec<usize>>,
    /// Tokens to generate behind each context; 0 leaves decoding out
    #[arg(long, value_name = "N", default_value_t = 64)]
    generate: usize,
    /// Most prompt tokens of a step [default: what `gemma4 run` takes on the device]
    #[arg(long, value_name = "N", value_parser = chunk)]
    chunk: Option<usize>,
    /// Runs of each measurement
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeat: u16,
    /// Memory bandwidth of the device, to say which share of it decoding reaches [default: measured on CUDA]
    #[arg(long, value_name = "GB/S", value_parser = bandwidth, allow_negative_numbers = true)]
    bandwidth: Option<f64>,
    /// Time every dispatch of a step, on GPUs that can
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    draft: BenchDraftArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// Draw what was measured: rates by length, steps by rows, rounds by drafts
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Print one line a measurement, separated by commas
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn chunk(text: &str) -> Result<usize, String> {
    let n = text.parse::<usize>().ok().filter(|n| (1..=8192).contains(n));
    n.ok_or_else(|| "expected 1 to 8192".to_owned())
}

fn bandwidth(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite() && *value > 0.0);
    value.ok_or_else(|| "expected a number above 0, in 10^9 bytes a second".to_owned())
}

/// What is measured, and with which cache.
#[derive(Clone, Debug)]
struct Plan {
    prompts: Vec<usize>,
    contexts: Vec<usize>,
    options: Options,
}

impl Plan {
    fn of(args: &BenchArgs, model: &Gemma4) -> Result<Self, Failure> {
        let most = model.config.max_context.min(args.cache.ctx.unwrap_or(usize::MAX));
        let fits = |what: &str, lengths: &Option<Vec<usize>>, usual: &[usize], more: usize| match lengths {
            None => Ok(usual.iter().copied().filter(|n| n + more <= most).collect()),
            Some(lengths) => match lengths.iter().find(|n| n.saturating_add(more) > most) {
                None => Ok(lengths.clone()),
                Some(n) => {
                    let more = if more > 0 { format!(" and --generate {more}") } else { String::new() };
                    Err(Failure::usage(format!(
                        "{what} is {n}{more}, expected at most {most} tokens together"
                    )))
                }
            },
        };
        let mut prompts: Vec<usize> = fits("--prompt", &args.prompt, &LENGTHS, 0)?;
        prompts.retain(|&n| n > 0);
        let more = args.generate + args.draft.room();
        let mut contexts: Vec<usize> = fits("--decode", &args.decode, &CONTEXTS, more)?;
        if args.generate == 0 {
            contexts.clear();
        }
        if prompts.is_empty() && contexts.is_empty() {
            return Err(Failure::usage(
                "nothing is to be measured: give --prompt or --decode lengths above 0",
            ));
        }
        let behind = contexts.iter().map(|n| n + more);
        let longest = prompts.iter().copied().chain(behind).max().unwrap_or(1);
        let cache = CacheArgs { ctx: Some(args.cache.ctx.unwrap_or(longest)), ..args.cache.clone() };
        let options = Options { snapshots: 0, ..load::options(model, &cache)? };
        Ok(Self { prompts, contexts, options })
    }
}

pub(crate) fn run(args: &BenchArgs, global: &Global) -> Result<ExitCode, Failure> {
    let checkpoint = load::checkpoint(global)?;
    let model = checkpoint.model()?;
    let mut plan = Plan::of(args, &model)?;
    let name = checkpoint.path().display().to_string();
    let wanted = DraftArgs { draft: args.draft.draft.clone(), ..DraftArgs::default() };
    let drafting = wanted.open(&model.config, None)?;
    let report = device::with!(device::choose(global, Purpose::Use)?, device => {
        plan.options = match args.chunk {
            Some(chunk) => Options { chunk, ..plan.options },
            None => load::steps(&device, &model, plan.options, &drafting)?,
        };
        measure(args, name, device, (model, drafting), &plan)?
    });
    if args.json {
        text::print_json(&report)?;
    } else if args.csv {
        text::print(report.csv()?)?;
    } else {
        text::print(report.text()?)?;
    }
    // Last, so that a path that cannot be written costs no measurement.
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::svg(&report.charts())?)
            .map_err(|source| Failure::Failed(format!("cannot write {}: {source}", path.display()).into()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure<D: Device>(
    args: &BenchArgs,
    name: String,
    device: D,
    (model, drafting): (Gemma4, Drafting),
    plan: &Plan,
) -> Result<Report, Failure> {
    let about = device.about();
    let bandwidth = match args.bandwidth {
        Some(given) => Some(Bandwidth { gigabytes_per_second: given, measured: false }),
        None => {
            device.bandwidth()?.map(|rate| Bandwidth { gigabytes_per_second: rate * 1e-9, measured: true })
        }
    };
    let (mut bench, load) = Bench::load(device, model, plan.options, usize::from(args.repeat))?;
    let runs = plan.prompts.len() + plan.contexts.len();
    let bar = load::bar(runs as u64, "measuring", "{pos}/{len} {msg}");
    let mut prefill = Vec::new();
    for &tokens in &plan.prompts {
        bar.set_message(format!("prompt of {tokens}"));
        prefill.push(bench.prefill(tokens)?);
        bar.inc(1);
    }
    let mut decode = Vec::new();
    for &context in &plan.contexts {
        bar.set_message(format!("decoding behind {context}"));
        decode.push(bench.decode(context, args.generate, bandwidth.map(|most| most.gigabytes_per_second))?);
        bar.inc(1);
    }
    let mut verify = Vec::new();
    for &context in plan.contexts.iter().filter(|_| !args.draft.verify_rows.is_empty()) {
        bar.set_message(format!("verifying behind {context}"));
        verify.extend(bench.verify(context, &args.draft.verify_rows)?);
    }
    // The first of all once more: what differs here is no gain of anything.
    let mut control = None;
    if let Some(first) = decode.first() {
        bar.set_message("the first again");
        let again = bench.decode(first.context, args.generate, None)?;
        control = Some(again.tokens_per_second / first.tokens_per_second);
    }
    // Profiles are those of the model without what drafters keep of its steps.
    let profiles = if args.profile { profile::all(&mut bench, plan, &decode, &verify)? } else { Vec::new() };
    let profile = args.profile.then_some(profiles);
    let mut rounds = Vec::new();
    if let Some(settings) = drafting.attach(&mut bench.engine, plan.options.kv_global)? {
        for &source in settings.sources.iter().filter(|source| source.kind().is_some()) {
            for run in &decode {
                for &drafts in &args.draft.draft_lengths {
                    bar.set_message(format!("{source}, {drafts} drafts behind {}", run.context));
                    let of = (run.context, usize::from(drafts));
                    let plain = run.seconds / run.tokens as f64;
                    let simulate = args.draft.simulate_acceptance;
                    rounds.extend(bench.rounds(source, of, args.generate, simulate, plain)?);
                }
            }
        }
    }
    bar.finish_and_clear();
    let memory = bench.engine.backend().memory()?;
    let mut report =
        Report::new((name, about), plan.options, (bandwidth, memory), load, prefill, decode, profile);
    (report.verify, report.rounds, report.control) = (verify, rounds, control);
    Ok(report)
}
