//! Golden models: outputs of Hugging Face transformers for tiny models whose weights are procedural.
//!
//! A folder holds `config.json` with `procedural_seed`, `tensors.json` with the names and shapes of the weights,
//! and `golden.safetensors` with prompts, logits, hidden states and greedy continuations.

mod drafters;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use gemma4_core::backend::Backend;
use gemma4_core::engine::{DraftKind, Engine, EngineError, Options, Part, Pick};
use gemma4_core::error::ModelError;
use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::Config;
use gemma4_core::model::gemma4::{Gemma4, KvTypes, Taps};
use gemma4_core::model::weights::Weights;
use gemma4_core::numeric;
use gemma4_core::program::Class;
use gemma4_core::reference::{Distortion, Reference};
use gemma4_core::sample::{Draw, Sampling, philox};
use safetensors::SafeTensors;

use crate::compare::{Agreement, Bound, Mismatch, compare, relative_error};
use crate::kv::storage_error;
use crate::procedural::Procedural;

pub use drafters::{Drafted, Drafter};
pub(crate) use drafters::{assistant_shapes, dflash_shapes};

/// Largest difference of a logit or hidden value from transformers, both in f32: the same models in f64 differ
/// from the files by at most 2e-5, and the largest values are near 30, where f32 has steps of 2e-6.
pub const BOUND: Bound = Bound::abs(1e-4);

/// Two tokens may swap places in a greedy continuation if their logits are this close.
const TIE: f32 = 1e-3;

/// Why a folder was not compared to the end.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// A file of the folder cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the folder does not hold what it should.
    #[error("{path}: {reason}")]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The hyper-parameters or weights do not make a model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The engine failed.
    #[error("the engine failed")]
    Engine(#[from] EngineError),
    /// A value lies outside its bound.
    #[error("{what}: {source}")]
    Outside {
        /// What was compared.
        what: String,
        /// Where it differs.
        source: Mismatch,
    },
    /// A quantised cache costs more accuracy than its type can.
    #[error("{what}: relative error {error:.2e}, expected at most {bound:.2e}")]
    TooNoisy {
        /// What was compared.
        what: String,
        /// Error of the logits.
        error: f64,
        /// Derived bound.
        bound: f64,
    },
    /// A greedy continuation parts from the recorded one.
    #[error(
        "{what}: token {index} is {got}, expected {want}, and the two best logits are {margin:.1e} apart"
    )]
    Token {
        /// What was compared.
        what: String,
        /// Index in the continuation.
        index: usize,
        /// Recorded token.
        want: u32,
        /// Token chosen.
        got: u32,
        /// Distance of the two largest logits.
        margin: f32,
    },
}

/// A golden folder.
#[derive(Debug)]
pub enum Golden {
    /// A target model.
    Target(Box<Target>),
    /// A drafter, with its target from the folder beside it.
    Drafter(Box<Drafter>),
}

/// A golden target model.
#[derive(Debug)]
pub struct Target {
    config: Config,
    weights: Weights,
    seed: u64,
    prompts: Vec<Prompt>,
}

/// One recorded prompt.
#[derive(Debug)]
struct Prompt {
    tokens: Vec<u32>,
    /// `[tokens, vocab]`.
    logits: Vec<f32>,
    /// `[layers + 1, hidden]`, of the last token.
    hidden: Vec<f32>,
    greedy: Vec<u32>,
}

/// How a prompt is fed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// In one prefill step.
    Whole,
    /// In prefill steps of this many tokens.
    Chunks(usize),
    /// In decode steps of one token.
    Tokens,
}

impl Feed {
    /// Every way that is compared.
    pub const ALL: [Feed; 5] =
        [Feed::Whole, Feed::Chunks(1), Feed::Chunks(5), Feed::Chunks(16), Feed::Tokens];
}

impl fmt::Display for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Feed::Whole => f.write_str("one prefill"),
            Feed::Chunks(n) => write!(f, "chunks of {n}"),
            Feed::Tokens => f.write_str("token by token"),
        }
    }
}

/// What one way of running a model showed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What was run.
    pub what: String,
    /// Agreement of the logits.
    pub logits: Agreement,
    /// Agreement of the hidden states.
    pub hidden: Agreement,
    /// Greedy tokens compared.
    pub tokens: usize,
}

/// What a cache type showed: relative errors of all logits, and what is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// The type of keys and values.
    pub kv: KvType,
    /// Root mean square error over root mean square of the logits.
    pub error: f64,
    /// Largest error that the type explains.
    pub bound: f64,
    /// Logits compared.
    pub count: usize,
}

impl Golden {
    /// Reads a folder.
    ///
    /// # Errors
    ///
    /// [`GoldenError`] naming the file.
    pub fn open(dir: &Path) -> Result<Self, GoldenError> {
        let text = read_text(&dir.join("config.json"))?;
        let json: serde_json::Value = parse(&dir.join("config.json"), &text)?;
        let says = |key: &str, word: &str| json[key].to_string().to_lowercase().contains(word);
        if says("architectures", "assistant") || says("model_type", "assistant") {
            return Ok(Self::Drafter(Box::new(Drafter::open(dir, DraftKind::Mtp, &text)?)));
        }
        if says("architectures", "dflash") {
            return Ok(Self::Drafter(Box::new(Drafter::open(dir, DraftKind::DFlash, &text)?)));
        }
        let path = dir.join("config.json");
        let config = Config::from_json(&path, &text)?;
        let seed = json["procedural_seed"].as_u64();
        let seed = seed.ok_or_else(|| bad(&path, "`procedural_seed` is not a whole number"))?;
        let path = dir.join("tensors.json");
        let shapes = parse(&path, &read_text(&path)?)?;
        let weights = Weights::load(&config, &Procedural::new(&path, shapes, seed))?;
        let prompts = prompts(&dir.join("golden.safetensors"), &config)?;
        Ok(Self::Target(Box::new(Target { config, weights, seed, prompts })))
    }
}

fn bad(path: &Path, reason: impl Into<String>) -> GoldenError {
    GoldenError::Bad { path: path.to_owned(), reason: reason.into() }
}

fn read_text(path: &Path) -> Result<String, GoldenError> {
    fs::read_to_string(path).map_err(|source| GoldenError::Io { path: path.to_owned(), source })
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, GoldenError> {
    serde_json::from_str(text).map_err(|error| bad(path, error.to_string()))
}

/// A file of recorded tensors.
struct Recorded<'a> {
    path: &'a Path,
    file: SafeTensors<'a>,
}

impl<'a> Recorded<'a> {
    fn open(path: &'a Path, bytes: &'a [u8]) -> Result<Self, GoldenError> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| bad(path, error.to_string()))?;
        Ok(Self { path, file })
    }

    /// Lengths of the recorded prompts, ascending.
    fn lengths(&self) -> Result<Vec<usize>, GoldenError> {
        let names = self.file.names();
        let length = |name: &&str| {
            let name =
                name.strip_prefix("prompt.").or_else(|| name.strip_prefix("context.")?.strip_suffix(".0"));
            name?.parse().ok()
        };
        let mut lengths: Vec<usize> = names.iter().filter_map(length).collect();
        lengths.sort_unstable();
        lengths.dedup();
        if lengths.is_empty() { Err(bad(self.path, "there is no `prompt.N`")) } else { Ok(lengths) }
    }

    fn data(
        &self,
        name: &str,
        dtype: safetensors::Dtype,
        len: Option<usize>,
    ) -> Result<&'a [u8], GoldenError> {
        let view = self.file.tensor(name).map_err(|error| bad(self.path, format!("`{name}`: {error}")))?;
        let elements = view.shape().iter().product::<usize>();
        if view.dtype() != dtype || len.is_some_and(|len| len != elements) {
            let found = format!("`{name}` is {:?} {:?}", view.dtype(), view.shape());
            return Err(bad(self.path, format!("{found}, expected {dtype:?} with {len:?} elements")));
        }
        Ok(view.data())
    }

    fn floats(&self, name: &str, len: Option<usize>) -> Result<Vec<f32>, GoldenError> {
        let bytes = self.data(name, safetensors::Dtype::F32, len)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn tokens(&self, name: &str, len: Option<usize>) -> Result<Vec<u32>, GoldenError> {
        let bytes = self.data(name, safetensors::Dtype::I64, len)?;
        let ids = bytes.as_chunks::<8>().0.iter().map(|b| u32::try_from(i64::from_le_bytes(*b)));
        let ids: Result<Vec<u32>, _> = ids.collect();
        ids.map_err(|_| bad(self.path, format!("`{name}` holds no token ids")))
    }
}

fn prompts(path: &Path, config: &Config) -> Result<Vec<Prompt>, GoldenError> {
    let bytes = read_bytes(path)?;
    let file = Recorded::open(path, &bytes)?;
    let prompt = |n: usize| {
        Ok(Prompt {
            tokens: file.tokens(&format!("prompt.{n}"), Some(n))?,
            logits: file.floats(&format!("logits.{n}"), Some(n * config.vocab))?,
            hidden: file.floats(&format!("hidden.{n}"), Some((config.layers.len() + 1) * config.hidden))?,
            greedy: file.tokens(&format!("greedy.{n}"), None)?,
        })
    };
    file.lengths()?.into_iter().map(prompt).collect()
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, GoldenError> {
    fs::read(path).map_err(|source| GoldenError::Io { path: path.to_owned(), source })
}

/// What a run gave for one prompt.
struct Run {
    logits: Vec<f32>,
    hidden: Vec<f32>,
}

impl Target {
    fn engine<B: Backend>(&self, backend: B, kv: KvType, chunk: usize) -> Result<Engine<B>, GoldenError> {
        let longest = self.prompts.iter().map(|p| p.tokens.len() + p.greedy.len()).max().unwrap_or(0);
        let types = KvTypes { k: kv, v: kv };
        let options = Options {
            context: longest + 1,
            sequences: 1,
            kv_local: types,
            kv_global: types,
            chunk,
            snapshots: 0,
            pool: None,
        };
        let model = Gemma4::new(self.config.clone(), self.weights.clone());
        Ok(Engine::new(backend, model, options, &mut |_, _| ())?)
    }

    /// Runs the prompts of up to `longest` tokens, and at most `most` tokens of their greedy continuations, with a cache
    /// that loses nothing.
    ///
    /// # Errors
    ///
    /// The first value outside [`BOUND`], the first other token, or what the engine says.
    pub fn exact<B: Backend>(
        &self,
        backend: B,
        feed: Feed,
        (longest, most): (usize, usize),
    ) -> Result<Outcome, GoldenError> {
        let mut engine = self.engine(backend, KvType::F32, usize::MAX)?;
        let mut outcome = Outcome {
            what: feed.to_string(),
            logits: Agreement::default(),
            hidden: Agreement::default(),
            tokens: 0,
        };
        for prompt in self.prompts.iter().filter(|prompt| prompt.tokens.len() <= longest) {
            let what = |part: &str| format!("{part} of the prompt of {} tokens, {feed}", prompt.tokens.len());
            let outside = |part: &str| {
                let what = what(part);
                move |source| GoldenError::Outside { what, source }
            };
            let seq = engine.open()?;
            let run = forward(&mut engine, seq, &prompt.tokens, feed)?;
            let logits = compare(&prompt.logits, &run.logits, BOUND).map_err(outside("logits"))?;
            let hidden = compare(&prompt.hidden, &run.hidden, BOUND).map_err(outside("hidden states"))?;
            outcome.logits = outcome.logits.and(logits);
            outcome.hidden = outcome.hidden.and(hidden);
            let last = &run.logits[run.logits.len() - self.config.vocab..];
            let want = &prompt.greedy[..prompt.greedy.len().min(most)];
            outcome.tokens += greedy(&mut engine, seq, last, want, &what("continuation"))?;
            engine.close(seq)?;
        }
        Ok(outcome)
    }

    /// Width of a head that blocks of `kv` do not fill, if there is one.
    #[must_use]
    pub fn does_not_fit(&self, kv: KvType) -> Option<usize> {
        let mut widths = self.config.layers.iter().map(|layer| layer.head_dim);
        widths.find(|&head_dim| kv.row_bytes(head_dim).is_none())
    }

    /// Runs every prompt, fed as `feed` says, with a cache of type `kv` and compares all logits together; `bound` is its
    /// [`Target::noise_bound`], which is the same for every backend.
    ///
    /// # Errors
    ///
    /// [`GoldenError::TooNoisy`] if the error is larger than the type explains.
    pub fn quantised<B: Backend>(
        &self,
        backend: B,
        feed: Feed,
        (kv, bound): (KvType, f64),
    ) -> Result<Noise, GoldenError> {
        let error = self.logit_error(backend, kv, feed)?;
        let count = self.prompts.iter().map(|p| p.logits.len()).sum();
        if error <= bound {
            Ok(Noise { kv, error, bound, count })
        } else {
            Err(GoldenError::TooNoisy { what: format!("logits with a {kv} cache"), error, bound })
        }
    }

    /// Relative error of all logits with a cache of type `kv`.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub fn logit_error<B: Backend>(&self, backend: B, kv: KvType, feed: Feed) -> Result<f64, GoldenError> {
        let mut engine = self.engine(backend, kv, usize::MAX)?;
        let (mut want, mut got) = (Vec::new(), Vec::new());
        for prompt in &self.prompts {
            let seq = engine.open()?;
            got.extend(forward(&mut engine, seq, &prompt.tokens, feed)?.logits);
            want.extend_from_slice(&prompt.logits);
            engine.close(seq)?;
        }
        Ok(relative_error(&want, &got))
    }

    /// Largest relative error of the logits that a cache type explains: that of the reference with a cache that
    /// loses nothing but carries Gaussian noise of the type's known size.
    ///
    /// No encoder takes part, so a mistake in one, or in a rotation, is not in the bound. It never exceeds 1, the
    /// error of logits that know nothing of the right ones.
    ///
    /// # Errors
    ///
    /// What the engine says.
    pub fn noise_bound(&self, kv: KvType) -> Result<f64, GoldenError> {
        let mut worst: f64 = 0.0;
        for seed in NOISE_SEEDS {
            let reference = Reference::new(None).map_err(|e| bad(Path::new("reference"), e.to_string()))?;
            let noisy = reference.with_distortion(noise(storage_error(kv), seed));
            worst = worst.max(self.logit_error(noisy, KvType::F32, Feed::Whole)?);
        }
        Ok((NOISE_MARGIN * worst).min(1.0))
    }
}

/// What a type may cost beyond noise of its size: its error has heavier tails than a Gaussian, and follows the data.
const NOISE_MARGIN: f64 = 1.5;

/// Seeds of the noise; the bound is the worst of them, for where experts change their mind one draw says little.
const NOISE_SEEDS: [u64; 2] = [1, 2];

/// Gaussian noise on every stored head, of `relative` times its root mean square.
fn noise(relative: f64, seed: u64) -> Distortion {
    Distortion::new(move |pool, position, entry| {
        let key = pool.name.bytes().fold(seed, |hash, b| hash.wrapping_mul(257).wrapping_add(b.into()));
        for (head, values) in (0..).zip(entry.chunks_exact_mut(pool.head_dim)) {
            let size = relative * numeric::mean_square(values).sqrt();
            for (i, value) in (0..).zip(values) {
                let words = philox([i, head, position, 0], key);
                let [a, b] = [words[0], words[1]].map(|w| (f64::from(w) + 0.5) / f64::from(u32::MAX));
                let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
                *value = numeric::round(f64::from(*value) + size * normal);
            }
        }
    })
}

/// Feeds a prompt and collects all logits, and the hidden states of the last token.
fn forward<B: Backend>(
    engine: &mut Engine<B>,
    seq: gemma4_core::cache::SeqId,
    tokens: &[u32],
    feed: Feed,
) -> Result<Run, GoldenError> {
    let (class, piece) = match feed {
        Feed::Whole => (Class::Prefill, tokens.len()),
        Feed::Chunks(n) => (Class::Prefill, n),
        Feed::Tokens => (Class::Decode, 1),
    };
    let sampling = Sampling::default();
    let mut run = Run { logits: Vec::new(), hidden: Vec::new() };
    for piece in tokens.chunks(piece) {
        let draw = Draw { sampling: &sampling, position: 0, edits: &[], allowed: None };
        let part = Part { seq, tokens: piece, pick: Pick::All };
        let step = engine.step(class, &[part], &vec![draw; piece.len()], Taps::Hidden)?;
        engine.commit(seq, piece.len())?;
        run.logits.extend(engine.logits(&step)?);
        let width = engine.model().config.hidden;
        run.hidden =
            engine.hidden(&step)?.iter().flat_map(|rows| rows[rows.len() - width..].to_vec()).collect();
    }
    Ok(run)
}

/// Continues greedily and compares with `want`; returns how many tokens were compared.
fn greedy<B: Backend>(
    engine: &mut Engine<B>,
    seq: gemma4_core::cache::SeqId,
    logits: &[f32],
    want: &[u32],
    what: &str,
) -> Result<usize, GoldenError> {
    let sampling = Sampling::default();
    let mut logits = logits.to_vec();
    for (index, &want) in want.iter().enumerate() {
        let draw = Draw { sampling: &sampling, position: 0, edits: &[], allowed: None };
        let got = gemma4_core::sample::sample(&mut logits.clone(), &draw);
        if got != want {
            let mut sorted = logits.clone();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let margin = sorted[0] - sorted[1];
            if margin < TIE {
                // Both tokens are right, and from here on the two continuations differ.
                return Ok(index);
            }
            return Err(GoldenError::Token { what: what.to_owned(), index, want, got, margin });
        }
        let part = Part { seq, tokens: &[got], pick: Pick::Last };
        let step = engine.step(Class::Decode, &[part], &[draw], Taps::None)?;
        engine.commit(seq, 1)?;
        if engine.tokens(&step)?[0] != gemma4_core::sample::sample(&mut engine.logits(&step)?, &draw) {
            return Err(bad(Path::new(what), "the sampled token is not that of the logits"));
        }
        logits = engine.logits(&step)?;
    }
    Ok(want.len())
}
