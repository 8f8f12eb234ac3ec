//! `gemma4 verify`: whether a device computes what it should.

mod greedy;
mod invariance;
mod report;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use gemma4_conformance::bisect;
use gemma4_conformance::cases;
use gemma4_conformance::ops::{self, Mutants};
use gemma4_conformance::tiny::Kv;
use gemma4_core::checkpoint::Checkpoint;
use gemma4_core::dialogue::Speaker;
use gemma4_core::kv_type::KvType;
use gemma4_core::ops::Op;
use gemma4_core::program::Class;
use gemma4_core::reference::Reference;
use indicatif::ProgressBar;

use crate::cli::Global;
use crate::device::{self, Device, Purpose};
use crate::failure::Failure;
use crate::{load, text};
use report::{OpLine, Report};

const EXAMPLES: &str = "\
What is compared:
  Every op alone with its definition, in 64-bit arithmetic; a value may differ by what its rounding
  explains, and the page says which share of that the worst one used. Every op of the model with the
  reference backend, on the same inputs. Rows alone with the same rows in company, in other orders,
  chunks and histories, bit for bit. Greedy answers of the model with those of the reference: where
  a token differs, the page shows both, and how close they were.
  The model is the one inside this program, or that of --model, if the processor can run it too: the
  reference reads a prompt and some tokens, which takes it minutes with a model of many gigabytes.

  Products are exact to 32-bit floats, also where `gemma4 run` takes fewer bits. Those that --with
  makes less exact do not agree: the page then says by how much they err.

  The exit code is 0 only if everything agrees. --json has the same content, for reports.

Examples:
  gemma4 verify                           the device that `gemma4 run` would take
  gemma4 verify --device 1 --quick
  gemma4 verify --without subgroups       the shaders that other GPUs get
  gemma4 verify --json > report.json";

/// Check that this machine computes what it should
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// Less of everything: for drivers that compute on the processor, which are slow
    #[arg(long)]
    quick: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &VerifyArgs, global: &Global) -> Result<ExitCode, Failure> {
    let checkpoint = load::checkpoint(global)?;
    // Whatever is wrong with the model is said before minutes of other things.
    checkpoint.model()?;
    let report = device::with!(device::choose(global, Purpose::Examine)?, device => {
        verify(args, global, &checkpoint, &device)?
    });
    if args.json {
        text::print_json(&report)?;
    } else {
        text::print(report.text()?)?;
    }
    Ok(if report.agrees() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How far a verification is.
struct Progress(ProgressBar);

impl Progress {
    fn begin(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }

    fn end(&self) {
        self.0.inc(1);
    }
}

fn verify<D: Device>(
    args: &VerifyArgs,
    global: &Global,
    checkpoint: &Checkpoint,
    device: &D,
) -> Result<Report, Failure> {
    let start = Instant::now();
    let mut report = Report::new(device.about(), checkpoint.path().display().to_string(), args.quick);
    let caches: &[Kv] = if args.quick { &[Kv::MIXED] } else { &[Kv::all(KvType::F16), Kv::MIXED] };
    let speaker = Speaker::new(checkpoint).ok();
    let prompts = greedy::prompts(speaker.as_ref(), checkpoint, args.quick)?;
    let steps = Op::ALL.len() + caches.len() * (1 + invariance::count()) + prompts.len();
    let progress = Progress(load::bar(steps as u64, "verifying", "{pos}/{len} {msg}"));

    for &op in Op::ALL {
        progress.begin(op);
        let mut line = OpLine::new(op);
        let cases = cases::of(op);
        match device.get_ready(&cases).and_then(|()| ops::check_cases(device, op, cases, Mutants::Left)) {
            Ok(checked) => {
                (line.cases, line.comparisons) = (checked.cases, checked.agreement.count);
                line.share = Some(checked.agreement.share);
                line.worst = Some(checked.worst);
            }
            Err(failure) => report.failures.push(format!("{op}: {}", explain(&failure))),
        }
        report.ops.push(line);
        progress.end();
    }

    let reference = Reference::new(global.threads.map(usize::from))?;
    for &kv in caches {
        progress.begin("ops of the model");
        in_model(&mut report, &reference, device, checkpoint, kv, &prompts[0])?;
        progress.end();
    }
    for &kv in caches {
        invariance::check(&mut report, &progress, device, kv, args.quick);
    }
    greedy::check(&mut report, &progress, global, checkpoint, device, speaker.as_ref(), &prompts)?;
    progress.0.finish_and_clear();
    Ok(report.finish(start.elapsed().as_secs_f64()))
}

/// Every op of the model's own programs, on the inputs that it has there.
fn in_model<D: Device>(
    report: &mut Report,
    reference: &Reference,
    device: &D,
    checkpoint: &Checkpoint,
    kv: Kv,
    prompt: &[u32],
) -> Result<(), Failure> {
    let model = checkpoint.model()?;
    // A chunk, a decoded token and a few drafted ones, with whatever of the prompt there is.
    let (chunk, rest) = prompt.split_at(prompt.len().saturating_sub(4).max(1));
    let mut steps = vec![(Class::Prefill, chunk)];
    steps.extend([rest.get(..1), rest.get(1..)].into_iter().flatten().map(|tokens| (Class::Decode, tokens)));
    steps.retain(|(_, tokens)| !tokens.is_empty());
    match bisect::program_parity(reference, device, &model, kv, &steps) {
        Ok(found) => {
            let lines: BTreeMap<&str, usize> =
                report.ops.iter().zip(0..).map(|(line, i)| (line.op, i)).collect();
            for parity in found {
                let line = &mut report.ops[lines[parity.op]];
                line.model_ops += 1;
                line.model_comparisons += parity.agreement.count;
                line.model_share = Some(line.model_share.unwrap_or(0.0).max(parity.agreement.share));
            }
        }
        Err(failure) => report.failures.push(format!("in the model: {}", explain(&failure))),
    }
    Ok(())
}

/// An error and its causes, each once: some errors print their cause themselves.
fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
