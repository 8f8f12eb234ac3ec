//! What was measured, as people and programs read it.

use std::fmt::{self, Write as _};

use gemma4_core::engine::Options;
use gemma4_core::plan::Size;
use serde::Serialize;

use super::draft::{self, Rounds, Verify};
use super::measure::{Decode, Loading, Prefill};
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
        let (verify, rounds) = (Vec::new(), Vec::new());
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
        }
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
        draft::write(&mut out, &self.verify, &self.rounds)?;
        match self.profile.as_deref() {
            Some([]) => writeln!(out, "\nno profile: this device cannot time single dispatches")?,
            Some(profiles) => profiles.iter().try_for_each(|profile| profile.write(&mut out))?,
            None => {}
        }
        Ok(out)
    }
}
