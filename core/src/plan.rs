//! How much memory a model takes, before anything is loaded: what fits, and what would.

#[cfg(test)]
mod tests;

use std::fmt;

use crate::cache::{CacheError, PAGE};
use crate::engine::draft::dflash as draft;
use crate::engine::{self, EngineError, Options};
use crate::kv_type::KvType;
use crate::model::config::{Config, Span};
use crate::model::dflash::DFlashConfig;
use crate::model::drafter::DraftFile;
use crate::model::gemma4::{Gemma4, KvTypes, Taps};
use crate::program::{Program, Slots};

/// What the model is to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The reference backend. Weights are read from the mapped file, whose pages the system drops and reloads as it
    /// likes, so they take no memory of their own. What a step sees of one layer's cache is decoded to `f32`.
    Cpu,
    /// A device that weights are copied to.
    Gpu,
}

/// What a model is going to take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights as the file holds them.
    pub weights: u64,
    /// What it is to run on.
    pub target: Target,
    /// Cache pools of local layers.
    pub kv_local: u64,
    /// Cache pools of global layers.
    pub kv_global: u64,
    /// Activations of every program that prompts of any length and decoding need.
    pub scratch: u64,
    /// What a step sees of one layer's cache, decoded; none where the cache is read as it is stored.
    pub decoded: u64,
    /// Code of kernels, captured steps and the like, on devices that have a backend which counts them.
    pub fixed: u64,
}

/// A model that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{plan} are needed and {} are free; {fits}", Size(*limit))]
pub struct TooLarge {
    /// What was asked for.
    pub plan: MemoryPlan,
    /// What there is, in bytes.
    pub limit: u64,
    /// What to ask for instead.
    pub fits: Fits,
}

/// What would fit, the least loss of quality first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fits {
    /// Types of global layers that hold the same context.
    pub types: Option<KvTypes>,
    /// Types of local layers, which stay as they are.
    pub kv_local: KvTypes,
    /// Most tokens with the types that were asked for, in whole pages.
    pub context: Option<usize>,
    /// Most tokens with the smallest types of global layers, where types alone are not enough.
    pub both: Option<(KvTypes, usize)>,
}

/// Types of the cache that a plan offers, the one with the least loss first.
const SMALLER: [KvType; 3] = [KvType::Q8_0, KvType::Q4_0, KvType::TQ3_0];

/// Bytes that one token takes in all layers of a kind that keep keys and values of their own.
///
/// `None` if the type does not fill the heads of such a layer.
#[must_use]
pub fn token_bytes(config: &Config, span: Span, types: KvTypes) -> Option<u64> {
    let owners = config.layers.iter().filter(|layer| layer.span == span && layer.donor.is_none());
    owners
        .map(|layer| {
            let [k, v] = [types.k, types.v].map(|kv_type| kv_type.row_bytes(layer.head_dim));
            Some((layer.kv_heads * (k? + v?)) as u64)
        })
        .sum()
}

/// Bytes of the cache pools of local and of global layers.
///
/// # Errors
///
/// [`CacheError::BadSpec`] if a size cannot work.
pub fn cache_bytes(config: &Config, options: &Options) -> Result<[u64; 2], CacheError> {
    let (spec, _) = engine::layout(config, options)?;
    let pool = |span, types, pages: usize| {
        // Types were checked against the heads; what cannot be stored would take no memory.
        token_bytes(config, span, types).unwrap_or(0).saturating_mul(PAGE as u64).saturating_mul(pages as u64)
    };
    Ok([
        pool(Span::Local, options.kv_local, spec.local_pages),
        pool(Span::Global, options.kv_global, spec.global_pages),
    ])
}

/// Bytes of `f32` keys and values that one step of each sequence sees in the layer that takes most.
fn decoded_bytes(config: &Config, options: &Options) -> u64 {
    let layer = config.layers.iter().map(|layer| {
        let seen = match layer.span {
            Span::Local => options.context.min(config.window.saturating_add(options.chunk)),
            Span::Global => options.context,
        };
        // Keys and values of four bytes.
        seen.saturating_mul(8 * layer.kv_rows()) as u64
    });
    layer.max().unwrap_or(0).saturating_mul(options.sequences as u64)
}

/// Every program that an engine compiles on its own: prompts in chunks of any length, and one decoded token for each
/// sequence.
///
/// # Errors
///
/// If the model cannot be recorded.
pub fn programs(model: &Gemma4, options: &Options) -> Result<Vec<Program>, EngineError> {
    let (_, layout) = engine::layout(&model.config, options)?;
    let states = model.states(&layout);
    let powers = |most: usize| (0..=most.next_power_of_two().ilog2()).map(|power| 1usize << power);
    let mut programs = Vec::new();
    for rows in powers(options.chunk) {
        programs.push(model.prefill(&states, rows, 1, Taps::None)?.program);
    }
    for rows in powers(options.sequences) {
        programs.push(model.verify(&states, rows, Taps::None)?.program);
    }
    Ok(programs)
}

/// Bytes of the activations of all [`programs`]. Their plans are kept, so they add up.
///
/// # Errors
///
/// If the model cannot be recorded.
pub fn scratch_bytes(model: &Gemma4, options: &Options) -> Result<u64, EngineError> {
    Ok(programs(model, options)?.iter().map(|program| Slots::of(program).bytes()).sum())
}

/// Bytes that a DFlash drafter takes beside its weights: its own keys and values, and the ring of features.
#[must_use]
pub fn dflash_bytes(config: &DFlashConfig, options: &Options, kv: KvTypes) -> u64 {
    let spec = draft::layout(config, options);
    let row =
        [kv.k, kv.v].map(|kv_type| kv_type.row_bytes(config.head_dim).unwrap_or(0)).iter().sum::<usize>();
    let pages = config.layers.iter().map(|span| match span {
        Span::Local => spec.local_pages,
        Span::Global => spec.global_pages,
    });
    let cache = (config.kv_heads * row * PAGE) as u64 * pages.sum::<usize>() as u64;
    let features = draft::ring_rows(options) * options.sequences * config.taps.len() * config.hidden * 4;
    cache + features as u64
}

/// Bytes that a drafter takes on a device beside the target.
#[must_use]
pub fn draft_bytes(file: &DraftFile, options: &Options, kv: KvTypes) -> u64 {
    file.bytes()
        + match file {
            DraftFile::Mtp(_) => 0,
            DraftFile::DFlash(file) => dflash_bytes(&file.config, options, kv),
        }
}

impl MemoryPlan {
    /// The plan of a model whose weights and activations take so many bytes.
    ///
    /// # Errors
    ///
    /// [`CacheError::BadSpec`] if a size cannot work.
    pub fn new(
        config: &Config,
        options: &Options,
        target: Target,
        weights: u64,
        scratch: u64,
    ) -> Result<Self, CacheError> {
        let [kv_local, kv_global] = cache_bytes(config, options)?;
        let decoded = match target {
            Target::Cpu => decoded_bytes(config, options),
            Target::Gpu => 0,
        };
        Ok(Self { weights, target, kv_local, kv_global, scratch, decoded, fixed: 0 })
    }

    /// The plan of an open model, of which nothing is loaded for it.
    ///
    /// # Errors
    ///
    /// If a size cannot work.
    pub fn of(model: &Gemma4, options: &Options, target: Target) -> Result<Self, EngineError> {
        let weights = model.tensors.iter().map(|tensor| tensor.data.len() as u64).sum();
        Ok(Self::new(&model.config, options, target, weights, scratch_bytes(model, options)?)?)
    }

    /// Bytes of the whole cache.
    #[must_use]
    pub fn kv(&self) -> u64 {
        self.kv_local.saturating_add(self.kv_global)
    }

    /// Bytes that have to be free.
    #[must_use]
    pub fn total(&self) -> u64 {
        let weights = match self.target {
            Target::Cpu => 0,
            Target::Gpu => self.weights,
        };
        [self.kv(), self.scratch, self.decoded, self.fixed].into_iter().fold(weights, u64::saturating_add)
    }

    /// Checks that the plan, made for `config` and `options`, fits into `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`TooLarge`] with the numbers, and what would fit.
    pub fn check(&self, config: &Config, options: &Options, limit: u64) -> Result<(), TooLarge> {
        if self.total() <= limit {
            return Ok(());
        }
        let fits = |options: &Options| {
            let plan = Self::new(config, options, self.target, self.weights, self.scratch);
            plan.is_ok_and(|plan| plan.total().saturating_add(self.fixed) <= limit)
        };
        let smaller: Vec<Options> = SMALLER
            .into_iter()
            .filter_map(|kv_type| {
                let KvTypes { k, v } = options.kv_global;
                let least = |old: KvType| if kv_type.bits() < old.bits() { kv_type } else { old };
                let types = KvTypes { k: least(k), v: least(v) };
                let stored = token_bytes(config, Span::Global, types).is_some();
                (types != options.kv_global && stored).then_some(Options { kv_global: types, ..*options })
            })
            .collect();
        let types = smaller.iter().find(|&options| fits(options)).map(|options| options.kv_global);
        // The most pages that fit; memory grows with every one of them.
        let most = |options: &Options| {
            let (mut low, mut high) = (0, options.context.div_ceil(PAGE));
            while low + 1 < high {
                let pages = usize::midpoint(low, high);
                let enough = fits(&Options { context: pages * PAGE, ..*options });
                (low, high) = if enough { (pages, high) } else { (low, pages) };
            }
            (low > 0).then_some(low * PAGE)
        };
        let both = match (types, smaller.last()) {
            (None, Some(options)) => most(options).map(|context| (options.kv_global, context)),
            _ => None,
        };
        let fits = Fits { types, kv_local: options.kv_local, context: most(options), both };
        Err(TooLarge { plan: *self, limit, fits })
    }
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [local, global, scratch, total] =
            [self.kv_local, self.kv_global, self.scratch, self.total()].map(Size);
        write!(
            f,
            "{total} (KV cache of local layers {local}, of global layers {global}, scratch {scratch}, "
        )?;
        match self.target {
            Target::Cpu => write!(f, "one layer decoded {}; weights stay in the file)", Size(self.decoded)),
            Target::Gpu if self.fixed > 0 => {
                write!(f, "kernels and captured steps {}, weights {})", Size(self.fixed), Size(self.weights))
            }
            Target::Gpu => write!(f, "weights {})", Size(self.weights)),
        }
    }
}

impl fmt::Display for Fits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let KvTypes { k, v } = self.kv_local;
        let kv = |types: KvTypes| format!("--kv {},{} --kv-local {k},{v}", types.k, types.v);
        let choices = [
            self.types.map(kv),
            self.context.map(|context| format!("--ctx {context}")),
            self.both.map(|(types, context)| format!("{} --ctx {context}", kv(types))),
        ];
        let choices: Vec<String> = choices.into_iter().flatten().collect();
        if choices.is_empty() {
            return f.write_str("no context fits, free memory or use a smaller model");
        }
        write!(f, "{} would fit", choices.join(", or "))
    }
}

/// Bytes, as people read them: at most four digits and a unit.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let mut size = self.0 as f64 / 1024.0;
        let mut unit = 0;
        while size >= 1023.95 && unit + 1 < units.len() {
            size /= 1024.0;
            unit += 1;
        }
        let digits = if size < 9.995 { 2 } else { 1 };
        f.pad(&format!("{size:.digits$} {}", units[unit]))
    }
}
