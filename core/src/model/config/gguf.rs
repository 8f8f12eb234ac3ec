//! Metadata of a GGUF file.
//!
//! No key says that values are the raw keys, nor which part of a head rotates: the missing value projection and
//! the tensor `rope_freqs.weight` do. Source: `gguf_writer` calls of llama.cpp's `conversion/gemma.py`.

use std::path::Path;

use super::keys::{Keys, MAX_LIST, Numbers, Value, sizes};
use super::{
    CONTEXT, Config, EXPERTS, FFN, HEAD_DIM, HEADS, HIDDEN, LAYERS, LayerConfig, LayerKeys, Moe, NO_ROTATION,
    PLE, Rope, Span, VOCAB, WINDOW, check_layers, check_suppressed, share_kv,
};
use crate::error::ModelError;
use crate::gguf::{Gguf, value};
use crate::tensor::DType;

const LAYER_KEYS: LayerKeys = LayerKeys {
    kinds: "gemma4.attention.sliding_window_pattern",
    geometry: "gemma4.attention.head_count_kv",
    shared: "gemma4.attention.shared_kv_layers",
};

/// What llama.cpp takes where the key is missing.
const DEFAULT_SOFTCAP: f32 = 30.0;

/// What the keys of a target begin with.
const ARCHITECTURE: &str = "gemma4";

/// The keys of a GGUF file. Those that begin with `gemma4.` are looked up under the file's own architecture: an
/// assistant has the keys of a target.
pub(crate) struct GgufKeys<'a>(pub(crate) &'a Gguf, pub(crate) &'a str);

impl<'a> GgufKeys<'a> {
    /// The keys of a target, or of a file whose keys are spelled out.
    pub(crate) fn new(gguf: &'a Gguf) -> Self {
        Self(gguf, ARCHITECTURE)
    }
}

impl Keys for GgufKeys<'_> {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn spell(&self, key: &str) -> String {
        match key.strip_prefix(ARCHITECTURE).filter(|rest| rest.starts_with('.')) {
            Some(rest) => format!("{}{rest}", self.1),
            None => key.to_owned(),
        }
    }

    fn find(&self, key: &str) -> Option<Value<'_>> {
        Some(match self.0.metadata().get(&self.spell(key))? {
            value::Value::String(text) => Value::Text(text),
            value::Value::Array(array) if array.kind().size().is_some() && array.len() <= MAX_LIST => {
                Value::List(array.scalars().map(|scalar| convert(&scalar)).collect())
            }
            other => convert(other),
        })
    }
}

fn convert(scalar: &value::Value) -> Value<'static> {
    match (scalar, scalar.whole(), scalar) {
        (value::Value::Bool(b), ..) => Value::Bool(*b),
        (value::Value::F32(x), ..) => Value::Float(f64::from(*x)),
        (value::Value::F64(x), ..) => Value::Float(*x),
        (_, Some(whole), _) => Value::Int(whole),
        _ => Value::Other(scalar.to_string()),
    }
}

/// Whose keys and values the layers read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owners {
    /// Those of layers of the same model.
    SomeLayers,
    /// Those of a target.
    Target,
}

impl Config {
    /// Reads the metadata of a GGUF file, and which tensors it has.
    ///
    /// # Errors
    ///
    /// [`ModelError::NotAModel`] for a drafter, [`ModelError::MissingKey`], [`ModelError::BadKey`],
    /// [`ModelError::MissingTensor`] and [`ModelError::BadTensor`] for what no Gemma 4 model can have.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, ModelError> {
        let file = GgufKeys::new(gguf);
        check_architecture(&file)?;
        Self::read(&file, Owners::SomeLayers)
    }

    /// Reads the metadata of an assistant, whose keys begin with `architecture`: all its layers read a target's cache.
    pub(crate) fn of_assistant(gguf: &Gguf, architecture: &str) -> Result<Self, ModelError> {
        Self::read(&GgufKeys(gguf, architecture), Owners::Target)
    }

    fn read(file: &GgufKeys<'_>, owners: Owners) -> Result<Self, ModelError> {
        let gguf = file.0;
        let count = file.need_size("gemma4.block_count", LAYERS)?;
        let heads = heads(file, count)?;
        let mut layers = layers(file, heads, count)?;
        check_layers(file, &LAYER_KEYS, &layers)?;
        if owners == Owners::SomeLayers {
            let sharing = file.size(LAYER_KEYS.shared, sizes(0..=count - 1))?.unwrap_or(0);
            share_kv(file, &LAYER_KEYS, &mut layers, sharing)?;
        }

        let theta = file.need_number("gemma4.rope.freq_base", Numbers::Positive)?;
        let theta_local = file.need_number("gemma4.rope.freq_base_swa", Numbers::Positive)?;
        let global_dim = file.need_size("gemma4.attention.key_length", HEAD_DIM)?;
        let vocab = vocab(file)?;
        let suppress_key = "tokenizer.ggml.suppress_tokens";
        let suppress = file.token_ids(suppress_key)?;
        check_suppressed(file, suppress_key, &suppress, vocab)?;
        Ok(Self {
            hidden: file.need_size("gemma4.embedding_length", HIDDEN)?,
            vocab,
            heads,
            max_context: file.need_size("gemma4.context_length", CONTEXT)?,
            rms_eps: file.need_number("gemma4.attention.layer_norm_rms_epsilon", Numbers::Positive)?,
            final_softcap: Some(
                file.number("gemma4.final_logit_softcapping", Numbers::NonNegative)?
                    .unwrap_or(DEFAULT_SOFTCAP),
            )
            .filter(|cap| *cap > 0.0),
            window: file.need_size("gemma4.attention.sliding_window", WINDOW)?,
            rope_local: Rope::new(theta_local, Vec::new()),
            rope_global: Rope::new(theta, rope_factors(gguf, global_dim / 2, owners)?),
            ple: file.size("gemma4.embedding_length_per_layer_input", PLE)?.filter(|width| *width > 0),
            moe: moe(file, count)?,
            suppress,
            tied: gguf.tensor("output.weight").is_none(),
            layers,
        })
    }
}

/// Checks that this is a Gemma 4 model.
fn check_architecture(file: &GgufKeys<'_>) -> Result<(), ModelError> {
    const KEY: &str = "general.architecture";
    let architecture = file.text(KEY)?.ok_or_else(|| file.missing(KEY, "gemma4"))?;
    match architecture.as_str() {
        "gemma4" => Ok(()),
        // Community files spell Google's drafters in several ways.
        "gemma4-assistant" | "gemma4_assistant" | "gemma4-mtp" | "gemma4_mtp" => {
            Err(drafter(file, &architecture))
        }
        other if other.contains("dflash") || other.contains("dspark") => Err(drafter(file, other)),
        other => Err(file.bad(KEY, Value::Text(other), "gemma4")),
    }
}

fn drafter(file: &GgufKeys<'_>, architecture: &str) -> ModelError {
    ModelError::NotAModel {
        path: file.path().to_owned(),
        reason: format!(
            "`general.architecture` {} is a drafter, which only speeds up a model; \
             pass the Gemma 4 model it was made for",
            Value::Text(architecture)
        ),
    }
}

/// Query heads, which may be listed for each layer but are the same in all.
fn heads(file: &GgufKeys<'_>, count: usize) -> Result<usize, ModelError> {
    same(file, "gemma4.attention.head_count", HEADS, count)
}

/// The one value of a key that may hold a list with a value for each layer.
fn same(file: &GgufKeys<'_>, key: &str, range: super::Sizes, count: usize) -> Result<usize, ModelError> {
    let list = file.need_sizes(key, range, count)?;
    match list.iter().find(|size| **size != list[0]) {
        None => Ok(list[0]),
        Some(other) => {
            let found = format!("a list with {} and {other}", list[0]);
            Err(file.bad(key, found, "the same number for every layer"))
        }
    }
}

/// The layers, before any of them shares keys and values.
fn layers(file: &GgufKeys<'_>, heads: usize, count: usize) -> Result<Vec<LayerConfig>, ModelError> {
    let head_dim = |suffix: &str| -> Result<usize, ModelError> {
        let key = format!("gemma4.attention.key_length{suffix}");
        let head_dim = file.need_size(&key, HEAD_DIM)?;
        // Values are as wide as keys, and RoPE goes over all of a head: a part that does not rotate is in the factors.
        for other in
            [format!("gemma4.attention.value_length{suffix}"), format!("gemma4.rope.dimension_count{suffix}")]
        {
            if let Some(found) = file.size(&other, HEAD_DIM)?
                && found != head_dim
            {
                return Err(file.bad(&other, found, format!("{head_dim}, as in `{key}`")));
            }
        }
        Ok(head_dim)
    };
    let (local_dim, global_dim) = (head_dim("_swa")?, head_dim("")?);
    let kv_key = LAYER_KEYS.geometry;
    let kv_heads = file.need_sizes(kv_key, HEADS, count)?;
    if let Some(wrong) = kv_heads.iter().find(|kv_heads| !heads.is_multiple_of(**kv_heads)) {
        let expected = format!("a divisor of `gemma4.attention.head_count`, which is {heads}");
        return Err(file.bad(kv_key, wrong, expected));
    }
    let ffn = file.need_sizes("gemma4.feed_forward_length", FFN, count)?;
    let spans = spans(file, count)?;
    let layers = (0..count).map(|index| LayerConfig {
        span: spans[index],
        head_dim: match spans[index] {
            Span::Local => local_dim,
            Span::Global => global_dim,
        },
        kv_heads: kv_heads[index],
        ffn: ffn[index],
        donor: None,
        k_eq_v: spans[index] == Span::Global
            && ["attn_v", "attn_qkv"]
                .iter()
                .all(|name| file.0.tensor(&format!("blk.{index}.{name}.weight")).is_none()),
    });
    Ok(layers.collect())
}

/// What each layer attends to; true is a sliding window.
fn spans(file: &GgufKeys<'_>, count: usize) -> Result<Vec<Span>, ModelError> {
    let key = LAYER_KEYS.kinds;
    let expected = format!("a list of {count} times true (sliding) or false (full)");
    let list = match file.find(key) {
        None => return Err(file.missing(key, expected)),
        Some(Value::List(list)) if list.len() == count => list,
        Some(other) => return Err(file.bad(key, other, expected)),
    };
    list.iter()
        .map(|sliding| match sliding {
            Value::Bool(true) | Value::Int(1) => Ok(Span::Local),
            Value::Bool(false) | Value::Int(0) => Ok(Span::Global),
            other => Err(file.bad(key, format!("a list with {other}"), &expected)),
        })
        .collect()
}

/// Rows of the token embedding: no key says how many tokens there are.
fn vocab(file: &GgufKeys<'_>) -> Result<usize, ModelError> {
    let name = "token_embd.weight";
    let Some(tensor) = file.0.tensor(name) else {
        return Err(ModelError::MissingTensor {
            path: file.path().to_owned(),
            tensor: name.to_owned(),
            expected: "a row for each token".to_owned(),
        });
    };
    let rows = tensor.dims.get(1).copied().unwrap_or(1);
    if VOCAB.contains(rows) {
        return Ok(rows);
    }
    Err(ModelError::BadTensor {
        path: file.path().to_owned(),
        tensor: name.to_owned(),
        found: format!("of {rows} rows"),
        expected: format!("{VOCAB} of them"),
    })
}

/// Divisors of the angles of global layers, `pairs` of them.
fn rope_factors(gguf: &Gguf, pairs: usize, owners: Owners) -> Result<Vec<f32>, ModelError> {
    let name = "rope_freqs.weight";
    if owners == Owners::Target && gguf.tensor(name).is_none() {
        // Some assistants come without: a quarter of the pairs turn, as in every Gemma 4 model.
        return Ok((0..pairs).map(|i| if i < pairs / 4 { 1.0 } else { NO_ROTATION }).collect());
    }
    // Without them all of a head would rotate, and text would look right until it gets long.
    let Some(tensor) = gguf.load(name)? else {
        return Err(ModelError::MissingTensor {
            path: gguf.path().to_owned(),
            tensor: name.to_owned(),
            expected: format!("[{pairs}]"),
        });
    };
    let bad = |found: String, expected: String| ModelError::BadTensor {
        path: gguf.path().to_owned(),
        tensor: name.to_owned(),
        found,
        expected,
    };
    if tensor.dtype != DType::F32 || [tensor.experts, tensor.rows, tensor.cols] != [1, 1, pairs] {
        let shape = super::super::weights::Shape([tensor.experts, tensor.rows, tensor.cols]);
        return Err(bad(format!("{shape} {}", tensor.dtype), format!("[{pairs}] F32")));
    }
    let (values, _) = tensor.data.as_chunks::<4>();
    let factors: Vec<f32> = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    match factors.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
        None => Ok(factors),
        Some(factor) => Err(bad(format!("a vector with {factor}"), "numbers greater than 0".to_owned())),
    }
}

/// The mixture of experts, of which files without one may say that it has 0 experts.
fn moe(file: &GgufKeys<'_>, count: usize) -> Result<Option<Moe>, ModelError> {
    let keys = ["gemma4.expert_count", "gemma4.expert_used_count", "gemma4.expert_feed_forward_length"];
    if keys.iter().all(|key| matches!(file.find(key), None | Some(Value::Int(0)))) {
        return Ok(None);
    }
    let experts = file.need_size(keys[0], EXPERTS)?;
    Ok(Some(Moe {
        experts,
        top_k: file.need_size(keys[1], sizes(1..=experts))?,
        ffn: same(file, keys[2], FFN, count)?,
    }))
}
