//! What was measured, as people and programs read it.

use std::fmt::{self, Write as _};

use gemma4_core::engine::Options;
use gemma4_core::plan::Size;
use serde::Serialize;

use super::draft::{self, Rounds, Verify};
use super::measure::{Decode, Loading, Prefill};
use super::plot::{Chart, Line};
use super::profile::Profile;
use crate::device::{About, Memory};

/// The result, as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: &'static str,
    /// What the program was built from, if that was known then.
    commit: Option<&'static str>,
    model: String,
    device: About,
    kv: String,
    kv_local: String,
    context: usize,
    chunk: usize,
    load: Loading,
    /// What decoding is compared with.
    bandwidth: Option<Bandwidth>,
    /// Of the device, after everything else.
    memory: Option<Memory>,
    prefill: Vec<Prefill>,
    decode: Vec<Decode>,
    /// None if it was not asked for; empty if the device cannot time dispatches.
    profile: Option<Vec<Profile>>,
    /// Steps of several rows, if they were asked for.
    pub(super) verify: Vec<Verify>,
    /// Rounds with a drafter, if there is one.
    pub(super) rounds: Vec<Rounds>,
    /// Rate of the first context when it was measured again at the end, over that of the first time.
    pub(super) control: Option<f64>,
}

/// How fast the device reads its memory.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Bandwidth {
    pub(super) gigabytes_per_second: f64,
    /// Whether that was measured before everything else, and not said by the user.
    pub(super) measured: bool,
}

impl Report {
    pub(super) fn new(
        (model, device): (String, About),
        options: Options,
        (bandwidth, memory): (Option<Bandwidth>, Option<Memory>),
        load: Loading,
        prefill: Vec<Prefill>,
        decode: Vec<Decode>,
        profile: Option<Vec<Profile>>,
    ) -> Self {
        let (kv, kv_local) = (options.kv_global.to_string(), options.kv_local.to_string());
        let (context, chunk) = (options.context, options.chunk);
        let version = env!("CARGO_PKG_VERSION");
        let commit = option_env!("GEMMA4_COMMIT");
        let (verify, rounds, control) = (Vec::new(), Vec::new(), None);
        Self {
            version,
            commit,
            model,
            device,
            kv,
            kv_local,
            context,
            chunk,
            load,
            bandwidth,
            memory,
            prefill,
            decode,
            profile,
            verify,
            rounds,
            control,
        }
    }

    /// What `--plot` draws.
    pub(super) fn charts(&self) -> Vec<Chart> {
        let line = |name: &str, points| Line { name: name.to_owned(), points };
        let decode = |rate: fn(&Decode) -> Option<f64>| {
            self.decode.iter().filter_map(|run| Some((run.context as f64, rate(run)?))).collect()
        };
        let mut contexts: Vec<usize> = self.verify.iter().map(|step| step.context).collect();
        contexts.dedup();
        let verify = contexts.into_iter().map(|context| {
            let own = || self.verify.iter().filter(move |step| step.context == context);
            let plain = own().next().map(|step| (1.0, 1e3 * step.seconds / step.over_plain));
            let more = own().map(|step| (step.rows as f64, 1e3 * step.seconds));
            line(&format!("context {context}"), plain.into_iter().chain(more).collect())
        });
        vec![
            Chart {
                title: "Prefill: tokens a second by length of the prompt".to_owned(),
                lines: vec![line(
                    "prefill",
                    self.prefill.iter().map(|run| (run.tokens as f64, run.tokens_per_second)).collect(),
                )],
            },
            Chart {
                title: "Decode: tokens a second by context".to_owned(),
                lines: vec![
                    line("decode", decode(|run| Some(run.tokens_per_second))),
                    line("waiting for each token", decode(|run| run.waiting_tokens_per_second)),
                ],
            },
            Chart { title: "Milliseconds of a step by rows".to_owned(), lines: verify.collect() },
            draft::chart(&self.rounds),
        ]
    }

    /// What `--csv` prints: a line for each measurement; what one has not is empty.
    pub(super) fn csv(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        writeln!(
            out,
            "what,kv,context,rows,drafts,tokens,seconds,tokens_per_second,gigabytes_per_second,share"
        )?;
        let kv = self.kv.replace(',', "/");
        for run in &self.prefill {
            writeln!(out, "prefill,{kv},0,,,{},{},{},,", run.tokens, run.seconds, run.tokens_per_second)?;
        }
        for run in &self.decode {
            let share = run.share.map_or_else(String::new, |share| share.to_string());
            let Decode { context, tokens, seconds, tokens_per_second, gigabytes_per_second, .. } = run;
            writeln!(
                out,
                "decode,{kv},{context},1,,{tokens},{seconds},{tokens_per_second},{gigabytes_per_second},{share}"
            )?;
        }
        for (control, first) in self.control.iter().zip(&self.decode) {
            let rate = control * first.tokens_per_second;
            let seconds = first.tokens as f64 / rate;
            writeln!(out, "control,{kv},{},1,,{},{seconds},{rate},,", first.context, first.tokens)?;
        }
        for Verify { context, rows, seconds, .. } in &self.verify {
            writeln!(out, "verify,{kv},{context},{rows},,{rows},{seconds},{},,", *rows as f64 / seconds)?;
        }
        for r in &self.rounds {
            let seconds = r.draft_seconds + r.verify_seconds;
            let (rows, tokens) = (r.drafts + 1, r.tokens_a_round);
            writeln!(
                out,
                "{},{kv},{},{rows},{},{tokens},{seconds},{},,",
                r.source, r.context, r.drafts, r.tokens_per_second
            )?;
        }
        Ok(out)
    }

    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        let Self { model, device, kv, kv_local, context, chunk, load, .. } = self;
        writeln!(out, "model   {model}")?;
        writeln!(out, "device  {}", device.device)?;
        if let Some(driver) = &device.driver {
            let features = device.features.join(", ");
            writeln!(
                out,
                "driver  {driver}; {}",
                if features.is_empty() { "core features" } else { &features }
            )?;
        }
        writeln!(out, "cache   {kv} (local layers {kv_local}), context {context}, steps of {chunk} tokens")?;
        let (bytes, seconds) = (load.bytes, load.seconds);
        if load.copied {
            let rate = bytes as f64 / seconds * 1e-9;
            writeln!(out, "load    {} in {seconds:.2} s, {rate:.2} GB/s", Size(bytes))?;
        } else {
            writeln!(out, "load    {seconds:.2} s; {} of weights stay in the file", Size(bytes))?;
        }
        if let Some(Bandwidth { gigabytes_per_second, measured: true }) = self.bandwidth {
            writeln!(out, "reads   {gigabytes_per_second:.0} GB/s, measured")?;
        }
        if let Some(Memory { total, free, peak, .. }) = self.memory {
            let [total, free, peak] = [total, free, peak].map(Size);
            writeln!(out, "memory  {peak} allocated at most, {free} of {total} left")?;
        }
        if !self.prefill.is_empty() {
            writeln!(out, "\n{:<8} {:>8} {:>10} {:>10}", "prefill", "tokens", "tok/s", "seconds")?;
            for Prefill { tokens, seconds, tokens_per_second } in &self.prefill {
                writeln!(out, "{:<8} {tokens:>8} {tokens_per_second:>10.1} {seconds:>10.3}", "")?;
            }
        }
        if !self.decode.is_empty() {
            write!(
                out,
                "\n{:<8} {:>8} {:>10} {:>10} {:>10} {:>10} {:>8}",
                "decode", "context", "tok/s", "waiting", "ms a step", "must read", "GB/s"
            )?;
            writeln!(
                out,
                "{}",
                self.bandwidth
                    .map_or(String::new(), |most| format!("   of {:.0}", most.gigabytes_per_second))
            )?;
            for run in &self.decode {
                let waiting =
                    run.waiting_tokens_per_second.map_or("-".to_owned(), |rate| format!("{rate:.1}"));
                write!(
                    out,
                    "{:<8} {:>8} {:>10.1} {waiting:>10} {:>10.3} {:>10} {:>8.1}",
                    "",
                    run.context,
                    run.tokens_per_second,
                    1e3 * run.seconds / run.tokens as f64,
                    Size(run.step_bytes),
                    run.gigabytes_per_second
                )?;
                writeln!(
                    out,
                    "{}",
                    run.share.map_or(String::new(), |share| format!("   {:.1}%", 100.0 * share))
                )?;
            }
        }
        if let Some(control) = self.control {
            writeln!(out, "{:<8} the first again: {control:.3} of its rate", "control")?;
        }
        draft::write(&mut out, &self.verify, &self.rounds)?;
        match self.profile.as_deref() {
            Some([]) => writeln!(out, "\nno profile: this device cannot time single dispatches")?,
            Some(profiles) => profiles.iter().try_for_each(|profile| profile.write(&mut out))?,
            None => {}
        }
        Ok(out)
    }
}
