//! From `--model` to a model on a device.

use std::io::IsTerminal;
#[cfg(feature = "pocket")]
use std::path::Path;
use std::time::Duration;

use gemma4_core::checkpoint::Checkpoint;
use gemma4_core::engine::{CHUNK, Engine, Options};
use gemma4_core::model::gemma4::Gemma4;
use gemma4_core::plan::{MemoryPlan, Size, Target};
use gemma4_core::session::BORDERS;
#[cfg(feature = "pocket")]
use gemma4_core::tensor::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{CacheArgs, Global};
use crate::device::{Device, remark};
use crate::draft::Drafting;
use crate::failure::Failure;

/// Tokens of a sequence unless the user says otherwise.
const CONTEXT: usize = 8192;

#[cfg(feature = "pocket")]
const POCKET: &[u8] = include_bytes!("../../models/pocket/pocket-Q8_0.gguf");

/// Opens the model that the user named, or the one inside this program.
pub(crate) fn checkpoint(global: &Global) -> Result<Checkpoint, Failure> {
    match &global.model {
        Some(path) => Ok(Checkpoint::open(path)?),
        None => pocket(),
    }
}

#[cfg(feature = "pocket")]
fn pocket() -> Result<Checkpoint, Failure> {
    Ok(Checkpoint::from_bytes(Path::new("(built-in pocket model)"), &Bytes::from_static(POCKET))?)
}

#[cfg(not(feature = "pocket"))]
fn pocket() -> Result<Checkpoint, Failure> {
    Err(Failure::usage("this build has no model inside; name one with --model PATH"))
}

/// The cache that the user asked for, within what the model can do.
pub(crate) fn options(model: &Gemma4, cache: &CacheArgs) -> Result<Options, Failure> {
    let most = model.config.max_context;
    let context = cache.ctx.unwrap_or(CONTEXT.min(most));
    if context == 0 || context > most {
        return Err(Failure::usage(format!(
            "--ctx is {context}, expected 1 to {most}, the model's own context"
        )));
    }
    let widths = model.config.layers.iter().map(|layer| layer.head_dim);
    let (kv_global, kv_local) = (cache.kv, cache.kv_local.unwrap_or(cache.kv));
    for kv in [kv_global.k, kv_global.v, kv_local.k, kv_local.v] {
        if let Some(dim) = widths.clone().find(|&dim| kv.row_bytes(dim).is_none()) {
            return Err(Failure::usage(format!(
                "--kv {kv} needs heads of another width than this model's {dim}"
            )));
        }
    }
    Ok(Options { context, sequences: 1, kv_local, kv_global, chunk: CHUNK, snapshots: BORDERS, pool: None })
}

/// The steps of prompts that a device prefers, or shorter ones where those leave too little memory for the model and the
/// drafters beside it.
pub(crate) fn steps<D: Device>(
    device: &D,
    model: &Gemma4,
    options: Options,
    drafting: &Drafting,
) -> Result<Options, Failure> {
    let mut options = options.on(device);
    let Some(memory) = device.memory()? else { return Ok(options) };
    while options.chunk > CHUNK {
        match device.memory_plan(model, &options)? {
            Some(plan) if plan.total() + drafting.bytes(&options, options.kv_global) > memory.free => {
                options.chunk = (options.chunk / 2).max(CHUNK);
            }
            _ => break,
        }
    }
    Ok(options)
}

/// Puts a model on a device, with a progress bar where somebody is watching.
///
/// What does not fit is refused before anything is allocated, with what would fit. A GPU that does not say how much of
/// its memory is free is the exception: there it is found when it is allocated, and the cache is before the weights.
pub(crate) fn engine<D: Device>(device: D, model: Gemma4, options: Options) -> Result<Engine<D>, Failure> {
    if let (Target::Cpu, Some(free)) = (D::TARGET, free_memory()) {
        MemoryPlan::of(&model, &options, D::TARGET)?.check(&model.config, &options, free)?;
    }
    if let (Some(plan), Some(memory)) = (device.memory_plan(&model, &options)?, device.memory()?) {
        plan.check(&model.config, &options, memory.free)?;
        remark(&format!("memory: {plan} of {} free", Size(memory.free)));
    }
    let bar = bar(0, "loading", "{bytes}/{total_bytes}");
    let engine = Engine::new(device, model, options, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(engine?)
}

/// Bytes of main memory that programs may still take; `None` where the system does not say.
pub(crate) fn free_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A progress bar on stderr; hidden where stderr is not a terminal.
pub(crate) fn bar(len: u64, what: &'static str, counts: &str) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let template = format!("{{prefix}} {{bar:30}} {counts} {{elapsed}}");
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(len), target).with_style(style).with_prefix(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
