//! `gemma4 logits`: what the model expects next.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;
use gemma4_core::engine::Options;
use gemma4_core::tokenizer::{Special, Tokenizer};
use serde::Serialize;

use crate::cli::{CacheArgs, Global};
use crate::device::Purpose;
use crate::failure::Failure;
use crate::{device, load, score, text};

const EXAMPLES: &str = "\
Logits are those that sampling starts from: after the soft-cap, before temperature, penalties and
suppressed tokens. A logprob is the natural logarithm of a token's probability at temperature 1.

Examples:
  gemma4 logits --text \"The capital of France is\"
  gemma4 logits --tokens 2,651,5279 --top 5 --json
  gemma4 tokenize --json - < prompt.txt | gemma4 logits --tokens - --all --json";

/// Print the most likely next tokens with their logits
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("input").required(true).args(["tokens", "text"])))]
#[command(mut_arg("ctx", |arg| arg.help("Most tokens to take [default: as many as are given]")))]
pub(crate) struct LogitsArgs {
    /// Token ids, taken as they are: begin them with `<bos>`; - is stdin
    #[arg(long, value_name = "IDS")]
    tokens: Option<String>,
    /// Text instead of ids, `<bos>` in front; - is stdin
    #[arg(long)]
    text: Option<String>,
    /// Take the text of control tokens, such as <|turn>, as those tokens
    #[arg(long, requires = "text")]
    special: bool,
    /// How many tokens to print, the most likely first
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Print them for every position, not only the last
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    cache: CacheArgs,
    /// Print one JSON object a position, or with --all an array of them
    #[arg(long)]
    json: bool,
}

/// What follows a position.
#[derive(Debug, Serialize)]
struct Next {
    /// Position of the token that the others would follow, from 0.
    position: usize,
    token: u32,
    top: Vec<Candidate>,
}

#[derive(Debug, Serialize)]
struct Candidate {
    id: u32,
    /// As the vocabulary spells it; none for a row of the model that has no token.
    piece: Option<String>,
    logit: f32,
    logprob: f64,
}

pub(crate) fn run(args: &LogitsArgs, global: &Global) -> Result<ExitCode, Failure> {
    let device = device::choose(global, Purpose::Use)?;
    let checkpoint = load::checkpoint(global)?;
    let model = checkpoint.model()?;
    let tokenizer = checkpoint.tokenizer()?;
    let tokens = tokens(args, &tokenizer, model.config.vocab)?;
    let most = args.cache.ctx.unwrap_or(model.config.max_context);
    if tokens.len() > most {
        return Err(Failure::usage(format!("{} tokens are given, expected at most {most}", tokens.len())));
    }
    let options = load::options(&model, &CacheArgs { ctx: Some(tokens.len()), ..args.cache.clone() })?;
    let options = Options { snapshots: 0, ..options };

    let first = if args.all { 0 } else { tokens.len() - 1 };
    let mut positions = Vec::new();
    let mut on = |_: usize, position: usize, logits: &[f32]| {
        let top = candidates(&tokenizer, logits, args.top);
        positions.push(Next { position, token: tokens[position], top });
    };
    device::with!(device, device => {
        score::run(&mut load::engine(device, model, options)?, &[&tokens], first, &mut on)?;
    });
    match (args.json, args.all) {
        (true, true) => text::print_json(&positions)?,
        (true, false) => positions.iter().try_for_each(text::print_json)?,
        (false, _) => text::print(table(&positions)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn tokens(args: &LogitsArgs, tokenizer: &Tokenizer, vocab: usize) -> Result<Vec<u32>, Failure> {
    let read = |value: &String| if value == "-" { text::read("-") } else { Ok(value.clone()) };
    if let Some(tokens) = &args.tokens {
        let ids = text::ids(&read(tokens)?, vocab)?;
        if ids.is_empty() {
            return Err(Failure::usage("--tokens is empty, expected numbers separated by spaces or commas"));
        }
        return Ok(ids);
    }
    let text = args.text.as_ref().map(read).transpose()?.unwrap_or_default();
    let special = if args.special { Special::Parse } else { Special::Literal };
    Ok(tokenizer.with_bos(tokenizer.encode(&text, special)?))
}

/// The `most` most likely tokens; of equal ones the lower id comes first.
fn candidates(tokenizer: &Tokenizer, logits: &[f32], most: usize) -> Vec<Candidate> {
    let reduced_by = score::log_sum_exp(logits);
    let mut order: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1));
    let candidate = |(id, logit): (u32, f32)| Candidate {
        id,
        piece: tokenizer.piece(id).map(str::to_owned),
        logit,
        logprob: f64::from(logit) - reduced_by,
    };
    order.into_iter().take(most).map(candidate).collect()
}

fn table(positions: &[Next]) -> Result<String, Failure> {
    let mut out = String::new();
    for position in positions {
        if positions.len() > 1 {
            writeln!(out, "after position {}, token {}:", position.position, position.token)?;
        }
        writeln!(out, "{:>8}  {:>10}  {:>10}  piece", "id", "logit", "logprob")?;
        for Candidate { id, piece, logit, logprob } in &position.top {
            writeln!(out, "{id:>8}  {logit:>10.5}  {logprob:>10.5}  {}", serde_json::to_string(piece)?)?;
        }
    }
    Ok(out)
}
