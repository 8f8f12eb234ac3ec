//! From the command line to a scheduler whose thread loads the model.

use std::sync::Arc;

use gemma4_core::cache::PAGE;
use gemma4_core::chat::{Marker, Markers};
use gemma4_core::dialogue::Speaker;
use gemma4_core::engine::Options;
use gemma4_core::model::config::Span;
use gemma4_core::model::gemma4::Gemma4;
use gemma4_core::plan::token_bytes;
use gemma4_core::vault::{Vault, fingerprint};

use super::args::EngineArgs;
use super::scheduler::{Limits, Scheduler, Start, Vaults, warn};
use crate::cli::Global;
use crate::device::{self, About, Device, Purpose};
use crate::failure::Failure;
use crate::load;

/// A model that is being loaded, and what turns dialogues into its tokens.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// Takes requests.
    pub(crate) scheduler: Scheduler,
    /// Tokenizer, template and the makers' settings.
    pub(crate) speaker: Arc<Speaker>,
    /// Most tokens of prompt and answer.
    pub(crate) context: usize,
    /// Tokens of the vocabulary.
    pub(crate) vocab: usize,
}

/// Reads the model's description and starts the thread that loads the rest; [`Scheduler::loaded`] waits for it.
pub(crate) fn start(args: &EngineArgs, global: &Global) -> Result<Served, Failure> {
    let checkpoint = load::checkpoint(global)?;
    let model = checkpoint.model()?;
    let options = options(&model, args)?;
    let speaker = Arc::new(Speaker::new(&checkpoint)?);
    // A path that leads nowhere is said before the model is read.
    let mut drafting = Some(args.draft.open(&model.config, Some(&speaker.tokenizer))?);
    let markers = Markers::find(|token| speaker.tokenizer.id(token));
    let limits = Limits {
        parallel: options.sequences,
        queue: usize::from(args.queue),
        context: options.context,
        vocab: model.config.vocab,
        budget: usize::from(args.prefill_budget),
        park_after: args.park_after,
        turn_ends: markers.id(Marker::TurnEnd).into_iter().collect(),
    };
    let (context, vocab) = (limits.context, limits.vocab);
    let (global, args, own) = (global.clone(), args.clone(), Arc::clone(&speaker));
    let mut first = Some(model);
    let start: Start = Box::new(move |life| {
        let model = first.take().map_or_else(|| checkpoint.model(), Ok)?;
        let drafting = match drafting.take() {
            Some(drafting) => drafting,
            None => args.draft.open(&model.config, Some(&own.tokenizer))?,
        };
        device::with!(device::choose(&global, Purpose::Use)?, device => {
            vaults(life.vaults(), &args, &model, &options, &device.about())?;
            let mut engine = load::engine(device, model, options)?;
            let drafting = drafting.attach(&mut engine, options.kv_global)?;
            Ok(life.work(engine, drafting))
        })
    });
    let scheduler = Scheduler::start(limits, start)?;
    Ok(Served { scheduler, speaker, context, vocab })
}

fn options(model: &Gemma4, args: &EngineArgs) -> Result<Options, Failure> {
    let options = load::options(model, &args.cache)?;
    let options = Options {
        sequences: usize::from(args.parallel),
        chunk: usize::from(args.chunk),
        snapshots: args.windows.map_or_else(|| windows(model, &options), usize::from),
        pool: args.pool,
        ..options
    };
    let context = options.context.next_multiple_of(PAGE);
    if args.pool.is_some_and(|pool| pool < context) {
        let text = format!(
            "--pool is less than the {context} tokens of one request's context; raise it, or lower --ctx"
        );
        return Err(Failure::usage(text));
    }
    Ok(options)
}

/// How many sliding windows fit into a GiB: at least 2, and no more than 64.
fn windows(model: &Gemma4, options: &Options) -> usize {
    const ROOM: u64 = 1 << 30;
    let config = &model.config;
    let bytes = token_bytes(config, Span::Local, options.kv_local).unwrap_or(0);
    // The pages of a window before a page border, and the page after it.
    let pages = config.window.saturating_sub(1).div_ceil(PAGE) + 1;
    let each = bytes.saturating_mul((pages * PAGE) as u64);
    usize::try_from(ROOM / each.max(1)).map_or(64, |fit| fit.clamp(2, 64))
}

/// Sets up the places for conversations that leave the device, unless they are there already.
///
/// Keys and values depend on the model, their types, the device with its driver and features, and this program.
fn vaults(
    vaults: &mut Vaults,
    args: &EngineArgs,
    model: &Gemma4,
    options: &Options,
    about: &About,
) -> Result<(), Failure> {
    let program = concat!(env!("CARGO_PKG_VERSION"), " ");
    let commit = option_env!("GEMMA4_COMMIT").unwrap_or_default();
    let more = format!(
        "{program}{commit} {} {} {:?} {:?}",
        about.backend, about.device, about.driver, about.features
    );
    let name = fingerprint(model, options.kv_local, options.kv_global, &more);
    if vaults.fingerprint == Some(name) {
        return Ok(());
    }
    // What another device computed is of no use here. A folder is unlocked before it is locked again.
    *vaults = Vaults::default();
    vaults.memory = (args.cache_memory > 0).then(|| Vault::in_memory(args.cache_memory));
    if let Some(dir) = &args.cache_dir {
        let (vault, warning) = Vault::in_folder(dir, name, args.cache_disk)?;
        if let Some(warning) = warning {
            warn(&warning);
        }
        vaults.disk = Some(vault);
    }
    vaults.fingerprint = Some(name);
    Ok(())
}
