//! `gemma4 perplexity`: how well the model predicts a text.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use gemma4_core::backend::Backend;
use gemma4_core::engine::{Engine, EngineError, Options};
use gemma4_core::tokenizer::Special;
use serde::Serialize;

use crate::cli::{CacheArgs, Global};
use crate::device::Purpose;
use crate::failure::Failure;
use crate::{device, load, score, text};

/// Tokens of a window unless the user says otherwise.
const WINDOW: usize = 512;

const EXAMPLES: &str = "\
How it is measured:
  The text is tokenised as it is, text of control tokens included, and one <bos> is put in
  front. It is cut into windows of --ctx tokens, the first of which is replaced by <bos>; what is
  left at the end is dropped. The model sees each window alone. The loss is the mean negative
  log-likelihood, in nats, of the predictions made from positions ctx/2 to ctx-2 of every window,
  and the perplexity is its exponential: lower is better. Numbers of two models compare only over
  the same text, --ctx and vocabulary.

Examples:
  gemma4 perplexity book.txt
  gemma4 perplexity book.txt --kv q8_0 --ctx 2048     how much a smaller cache costs
  gemma4 perplexity - --json < book.txt | jq .ppl";

/// Measure how well the model predicts a text
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, mut_arg("ctx", |arg| arg.help("Tokens of a window, at least 4 [default: 512]")))]
pub(crate) struct PerplexityArgs {
    /// A text file in UTF-8, or - for stdin
    file: String,
    #[command(flatten)]
    cache: CacheArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The result, as `--json` prints it.
#[derive(Debug, Serialize)]
struct Report {
    ppl: f64,
    /// Standard error of `ppl`.
    ppl_error: f64,
    /// Nats a prediction.
    loss: f64,
    /// Standard error of `loss`.
    loss_error: f64,
    predictions: usize,
    windows: usize,
    ctx: usize,
    /// Tokens of the text, `<bos>` included.
    tokens: usize,
    kv: String,
    kv_local: String,
    seconds: f64,
    /// Tokens that went through the model a second.
    tokens_per_second: f64,
}

pub(crate) fn run(args: &PerplexityArgs, global: &Global) -> Result<ExitCode, Failure> {
    let ctx = args.cache.ctx.unwrap_or(WINDOW);
    if ctx < 4 {
        return Err(Failure::usage(format!(
            "--ctx is {ctx}, expected at least 4 for a prediction in a window"
        )));
    }
    let device = device::choose(global, Purpose::Use)?;
    let checkpoint = load::checkpoint(global)?;
    let model = checkpoint.model()?;
    let options = load::options(&model, &CacheArgs { ctx: Some(ctx), ..args.cache.clone() })?;
    let tokenizer = checkpoint.tokenizer()?;

    let mut tokens = vec![tokenizer.bos()];
    tokens.extend(tokenizer.encode(&text::read(&args.file)?, Special::Literal)?);
    let windows: Vec<Vec<u32>> =
        tokens.chunks_exact(ctx).map(|w| [&[tokenizer.bos()], &w[1..]].concat()).collect();
    if windows.is_empty() {
        let found = tokens.len();
        let error =
            format!("the text has {found} tokens, <bos> included, expected at least one window of {ctx}");
        return Err(Failure::Failed(error.into()));
    }
    let vocab = model.config.vocab;
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab) {
        let error = format!("token {token} of the tokenizer is not in the model's vocabulary of {vocab}");
        return Err(Failure::Failed(error.into()));
    }

    // Short windows run side by side, as many as fill a step.
    let side = (options.chunk / ctx).clamp(1, windows.len());
    let options = Options { sequences: side, snapshots: 0, ..options };
    let (losses, seconds) = device::with!(device, device => {
        losses(&mut load::engine(device, model, options)?, &windows, side)?
    });
    let (loss, predictions) = (mean(&losses), losses.len());
    let square: f64 = losses.iter().map(|l| (l - loss).powi(2)).sum();
    // Of one prediction alone the error is not known.
    let loss_error =
        if predictions > 1 { (square / (predictions * (predictions - 1)) as f64).sqrt() } else { 0.0 };
    let report = Report {
        ppl: loss.exp(),
        ppl_error: loss.exp() * loss_error,
        loss,
        loss_error,
        predictions,
        windows: windows.len(),
        ctx,
        tokens: tokens.len(),
        kv: options.kv_global.to_string(),
        kv_local: options.kv_local.to_string(),
        seconds,
        tokens_per_second: (windows.len() * (ctx - 1)) as f64 / seconds.max(1e-9),
    };
    if !loss.is_finite() {
        let error = format!(
            "the loss is {loss}, not a number that a model predicts with; the weights may be damaged"
        );
        return Err(Failure::Failed(error.into()));
    }
    if args.json {
        text::print_json(&report)?;
    } else {
        text::print(report.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "perplexity  {:.4} ± {:.4}", self.ppl, self.ppl_error)?;
        writeln!(f, "loss        {:.5} ± {:.5} nats a token", self.loss, self.loss_error)?;
        writeln!(
            f,
            "text        {} predictions in {} windows of {} tokens",
            self.predictions, self.windows, self.ctx
        )?;
        writeln!(f, "cache       {} (local layers {})", self.kv, self.kv_local)?;
        writeln!(f, "speed       {:.1} tokens/s in {:.1} s", self.tokens_per_second, self.seconds)
    }
}

/// Nats that each prediction of the windows costs, in the order of the text, and the seconds that it took.
fn losses<B: Backend>(
    engine: &mut Engine<B>,
    windows: &[Vec<u32>],
    side: usize,
) -> Result<(Vec<f64>, f64), EngineError> {
    let bar = load::bar(windows.len() as u64, "perplexity", "{pos}/{len} windows {msg}");
    let start = Instant::now();
    let ctx = windows[0].len();
    let mut losses = Vec::new();
    for group in windows.chunks(side) {
        // The last token predicts nothing.
        let inputs: Vec<&[u32]> = group.iter().map(|window| &window[..ctx - 1]).collect();
        // In the order of the text, whatever order steps are in: sums do not depend on what runs side by side.
        let mut found = vec![Vec::new(); group.len()];
        score::run(engine, &inputs, ctx / 2, &mut |window, position, logits| {
            let target = group[window][position + 1] as usize;
            found[window].push(score::log_sum_exp(logits) - f64::from(logits[target]));
        })?;
        losses.extend(found.into_iter().flatten());
        bar.inc(group.len() as u64);
        bar.set_message(format!("ppl {:.4}", mean(&losses).exp()));
    }
    bar.finish_and_clear();
    Ok((losses, start.elapsed().as_secs_f64()))
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
