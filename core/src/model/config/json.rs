//! `config.json` of a Hugging Face checkpoint.
//!
//! Source: `Gemma4TextConfig` in transformers, `configuration_gemma4.py`. Sizes that are absent are errors, not its
//! defaults, which fit no released model.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::keys::{Keys, MAX_LIST, Numbers, Sizes, Value, sizes};
use super::{
    CONTEXT, Config, EXPERTS, FFN, HEAD_DIM, HEADS, HIDDEN, LAYERS, LayerConfig, LayerKeys, Moe, NO_ROTATION,
    PLE, Rope, Span, VOCAB, WINDOW, check_layers, check_suppressed, share_kv,
};
use crate::error::ModelError;
use crate::hf::json;

/// `model_type` of the models this program runs, whole and of their text part.
const MODEL_TYPES: &str = "gemma4, gemma4_text, gemma4_unified or gemma4_unified_text";

const LAYER_KEYS: LayerKeys =
    LayerKeys { kinds: "layer_types", geometry: "per_layer_config", shared: "num_kv_shared_layers" };

/// The keys of a JSON object; `a.b` is `b` inside of `a`.
pub(crate) struct JsonKeys<'a> {
    path: &'a Path,
    /// Where `object` is in the file: empty, or a key and a point.
    within: &'static str,
    object: &'a Map<String, Json>,
}

impl<'a> JsonKeys<'a> {
    pub(crate) fn new(path: &'a Path, object: &'a Map<String, Json>) -> Self {
        Self { path, within: "", object }
    }

    /// The text part of a multi-modal configuration, or all of one that is text only.
    pub(crate) fn text_part(&self) -> Result<Self, ModelError> {
        let object = match self.object.get("text_config") {
            None | Some(Json::Null) => return Ok(Self { ..*self }),
            Some(Json::Object(object)) => object,
            Some(other) => return Err(self.bad("text_config", convert(other), "an object")),
        };
        Ok(Self { path: self.path, within: "text_config.", object })
    }

    fn get(&self, key: &str) -> Option<&'a Json> {
        let mut steps = key.split('.');
        let first = self.object.get(steps.next()?)?;
        steps.try_fold(first, |value, step| value.as_object()?.get(step)).filter(|value| !value.is_null())
    }
}

impl Keys for JsonKeys<'_> {
    fn path(&self) -> &Path {
        self.path
    }

    fn spell(&self, key: &str) -> String {
        format!("{}{key}", self.within)
    }

    fn find(&self, key: &str) -> Option<Value<'_>> {
        self.get(key).map(convert)
    }
}

fn convert(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Other("null".to_owned()),
        Json::Bool(b) => Value::Bool(*b),
        Json::String(s) => Value::Text(s),
        Json::Object(_) => Value::Other("an object".to_owned()),
        Json::Array(list) if list.len() > MAX_LIST => {
            Value::Other(format!("a list of {} values", list.len()))
        }
        // A list inside a list means nothing here, so the recursion ends.
        Json::Array(list) => Value::List(
            list.iter()
                .map(|item| match item {
                    Json::Array(_) => Value::Other("a list".to_owned()),
                    other => convert(other),
                })
                .collect(),
        ),
        Json::Number(n) => match (n.as_i128(), n.as_f64()) {
            (Some(i), _) => Value::Int(i),
            (None, Some(x)) => Value::Float(x),
            (None, None) => Value::Other(n.to_string()),
        },
    }
}

impl Config {
    /// Reads the text of a `config.json`; `path` is for errors.
    ///
    /// `suppress` is what this file says, usually nothing: see [`crate::hf::Folder::config`].
    ///
    /// # Errors
    ///
    /// [`ModelError::Damaged`] if it is not JSON, [`ModelError::NotAModel`] for a drafter,
    /// [`ModelError::MissingKey`] and [`ModelError::BadKey`] for what no Gemma 4 model can have.
    pub fn from_json(path: &Path, text: &str) -> Result<Self, ModelError> {
        let object = json::object(path, text)?;
        let whole = JsonKeys::new(path, &object);
        check_type(&whole)?;
        let file = whole.text_part()?;
        if !file.within.is_empty() && file.find("model_type").is_some() {
            check_type(&file)?;
        }
        check_fixed(&file)?;

        let heads = file.need_size("num_attention_heads", HEADS)?;
        let vocab = file.need_size("vocab_size", VOCAB)?;
        let count = file.need_size("num_hidden_layers", LAYERS)?;
        let sharing = file.size(LAYER_KEYS.shared, sizes(0..=count - 1))?.unwrap_or(0);
        let mut layers = layers(&file, heads, count, sharing)?;
        check_layers(&file, &LAYER_KEYS, &layers)?;
        share_kv(&file, &LAYER_KEYS, &mut layers, sharing)?;

        let head_dim = |span| layers.iter().find(|layer| layer.span == span).map(|layer| layer.head_dim);
        let rope_local = rope(&file, Span::Local, head_dim(Span::Local))?;
        let rope_global = rope(&file, Span::Global, head_dim(Span::Global))?;

        let ple = file.size("hidden_size_per_layer_input", PLE)?.filter(|width| *width > 0);
        if ple.is_some()
            && let Some(rows) = file.size("vocab_size_per_layer_input", VOCAB)?
            && rows != vocab
        {
            return Err(file.bad("vocab_size_per_layer_input", rows, format!("{vocab}, as in `vocab_size`")));
        }
        let suppress = file.token_ids("suppress_tokens")?;
        check_suppressed(&file, "suppress_tokens", &suppress, vocab)?;
        let tied = match whole.flag("tie_word_embeddings")? {
            Some(tied) => tied,
            None => file.flag("tie_word_embeddings")?.unwrap_or(true),
        };
        Ok(Self {
            hidden: file.need_size("hidden_size", HIDDEN)?,
            vocab,
            heads,
            max_context: file.need_size("max_position_embeddings", CONTEXT)?,
            rms_eps: file.need_number("rms_norm_eps", Numbers::Positive)?,
            final_softcap: file
                .number("final_logit_softcapping", Numbers::NonNegative)?
                .filter(|cap| *cap > 0.0),
            window: file.need_size("sliding_window", WINDOW)?,
            rope_local,
            rope_global,
            ple,
            moe: moe(&file)?,
            suppress,
            tied,
            layers,
        })
    }
}

impl Config {
    /// The same with `suppress`, read from the file `path`, in place of what is suppressed.
    pub(crate) fn with_suppressed(mut self, path: &Path, suppress: Vec<u32>) -> Result<Self, ModelError> {
        let object = Map::new();
        check_suppressed(&JsonKeys::new(path, &object), "suppress_tokens", &suppress, self.vocab)?;
        self.suppress = suppress;
        Ok(self)
    }
}

/// Checks that this is a Gemma 4 model.
fn check_type(file: &JsonKeys<'_>) -> Result<(), ModelError> {
    let drafter = |what: &str| ModelError::NotAModel {
        path: file.path.to_owned(),
        reason: format!(
            "{what} is a drafter, which only speeds up a model; pass the Gemma 4 model it was made for"
        ),
    };
    // A DFlash drafter calls itself `qwen3`, whose layers it has.
    if file.find("dflash_config").is_some() {
        return Err(drafter("a checkpoint with `dflash_config`"));
    }
    let kind = file.text("model_type")?.ok_or_else(|| file.missing("model_type", MODEL_TYPES))?;
    match kind.as_str() {
        "gemma4" | "gemma4_text" | "gemma4_unified" | "gemma4_unified_text" => Ok(()),
        "gemma4_assistant" | "gemma4_unified_assistant" => Err(drafter(&format!("`model_type` {kind}"))),
        other => Err(file.bad("model_type", Value::Text(other), MODEL_TYPES)),
    }
}

/// Checks the settings that every Gemma 4 model has in common and that the programs take for granted.
fn check_fixed(file: &JsonKeys<'_>) -> Result<(), ModelError> {
    let activation = "gelu_pytorch_tanh";
    if let Some(found) = file.find("hidden_activation")
        && found != Value::Text(activation)
    {
        return Err(file.bad("hidden_activation", found, activation));
    }
    if file.flag("attention_bias")? == Some(true) {
        return Err(file.bad("attention_bias", true, "false"));
    }
    // "vision" only lets the tokens of one image see each other.
    match file.find("use_bidirectional_attention") {
        None | Some(Value::Text("vision") | Value::Bool(false)) => Ok(()),
        Some(found) => Err(file.bad("use_bidirectional_attention", found, "null or \"vision\"")),
    }
}

/// The layers, of which the last `sharing` have no donors yet.
fn layers(
    file: &JsonKeys<'_>,
    heads: usize,
    count: usize,
    sharing: usize,
) -> Result<Vec<LayerConfig>, ModelError> {
    let spans = spans(file, count)?;
    let ffn = file.need_size("intermediate_size", FFN)?;
    let wide = file.flag("use_double_wide_mlp")?.unwrap_or(false);
    let k_eq_v = file.flag("attention_k_eq_v")?.unwrap_or(false);

    let kv_heads = |key: &str| -> Result<Option<usize>, ModelError> {
        match file.size(key, HEADS)? {
            Some(kv_heads) if !heads.is_multiple_of(kv_heads) => {
                let expected = format!("a divisor of `num_attention_heads`, which is {heads}");
                Err(file.bad(key, kv_heads, expected))
            }
            other => Ok(other),
        }
    };
    let local_dim = file.need_size("head_dim", HEAD_DIM)?;
    let local_kv_heads =
        kv_heads("num_key_value_heads")?.ok_or_else(|| file.missing("num_key_value_heads", HEADS))?;
    let geometry = geometry(file, count)?;
    // Two spellings of one thing, of which files have one; the newer one wins, as it does in transformers.
    let (global_dim, global_kv_heads) = match geometry {
        Some(_) => (local_dim, local_kv_heads),
        None => (
            file.need_size("global_head_dim", HEAD_DIM)?,
            // Without K = V the number is there in some files but does not count.
            kv_heads("num_global_key_value_heads")?.filter(|_| k_eq_v).unwrap_or(local_kv_heads),
        ),
    };

    let mut layers = Vec::new();
    for (index, span) in spans.into_iter().enumerate() {
        let (mut head_dim, mut layer_kv_heads) = match span {
            Span::Local => (local_dim, local_kv_heads),
            Span::Global => (global_dim, global_kv_heads),
        };
        if let Some(name) = geometry.as_ref().and_then(|names| names[index]) {
            let key = |what| format!("per_layer_config.{name}.{what}");
            head_dim = file.size(&key("head_dim"), HEAD_DIM)?.unwrap_or(head_dim);
            layer_kv_heads = kv_heads(&key("num_key_value_heads"))?.unwrap_or(layer_kv_heads);
        }
        layers.push(LayerConfig {
            span,
            head_dim,
            kv_heads: layer_kv_heads,
            ffn: if wide && sharing > 0 && index >= count - sharing { 2 * ffn } else { ffn },
            donor: None,
            k_eq_v: k_eq_v && span == Span::Global,
        });
    }
    Ok(layers)
}

/// What each layer attends to.
fn spans(file: &JsonKeys<'_>, count: usize) -> Result<Vec<Span>, ModelError> {
    const KEY: &str = "layer_types";
    let list = match file.find(KEY) {
        // Five sliding layers, then a full one; the last layer is full whatever the count is.
        None => {
            return Ok((1..=count)
                .map(
                    |number| {
                        if number.is_multiple_of(6) || number == count { Span::Global } else { Span::Local }
                    },
                )
                .collect());
        }
        Some(Value::List(list)) => list,
        Some(other) => return Err(file.bad(KEY, other, format!("a list of {count} layers"))),
    };
    if list.len() != count {
        let found = format!("a list of {} layers", list.len());
        return Err(file.bad(KEY, found, format!("{count} layers, as in `num_hidden_layers`")));
    }
    list.iter()
        .map(|kind| match kind {
            Value::Text("sliding_attention") => Ok(Span::Local),
            Value::Text("full_attention") => Ok(Span::Global),
            other => Err(file.bad(
                KEY,
                format!("a list with {other}"),
                "sliding_attention or full_attention for each layer",
            )),
        })
        .collect()
}

/// How `per_layer_config` spells each layer's index (`7` or `07`), if it has an entry; `None` without that key.
fn geometry<'a>(file: &JsonKeys<'a>, count: usize) -> Result<Option<Vec<Option<&'a str>>>, ModelError> {
    const KEY: &str = "per_layer_config";
    let map = match file.get(KEY) {
        None => return Ok(None),
        Some(Json::Object(map)) => map,
        Some(other) => {
            return Err(file.bad(KEY, convert(other), "an object with a layer's index for each key"));
        }
    };
    let mut names = vec![None; count];
    for (name, value) in map {
        let slot = name
            .parse::<usize>()
            .ok()
            .filter(|_| name.len() <= 8)
            .and_then(|index| names.get_mut(index))
            .filter(|slot| slot.is_none());
        let Some(slot) = slot else {
            let found = format!("an object with the key {}", Value::Text(name));
            return Err(file.bad(KEY, found, format!("layers from 0 to {}, none twice", count - 1)));
        };
        *slot = Some(name.as_str());
        let Json::Object(entry) = value else {
            return Err(file.bad(&format!("{KEY}.{name}"), convert(value), "an object"));
        };
        if let Some(other) = entry.keys().find(|k| !["head_dim", "num_key_value_heads"].contains(&k.as_str()))
        {
            let found = format!("an object with the key {}", Value::Text(other));
            return Err(file.bad(&format!("{KEY}.{name}"), found, "head_dim and num_key_value_heads"));
        }
    }
    Ok(Some(names))
}

/// Rotary embedding of the layers of one kind, which have heads of `head_dim` if there are any.
fn rope(file: &JsonKeys<'_>, span: Span, head_dim: Option<usize>) -> Result<Rope, ModelError> {
    let (kind, flat_theta) = match span {
        Span::Local => ("rope_parameters.sliding_attention", "rope_local_base_freq"),
        Span::Global => ("rope_parameters.full_attention", "rope_theta"),
    };
    // The spelling of Gemma 3: two bases beside the other keys.
    let flat = file.get("rope_parameters").is_none() && file.get(flat_theta).is_some();
    let key = |what: &str| match (flat, what) {
        (true, "rope_theta") => flat_theta.to_owned(),
        (true, what) => what.to_owned(),
        (false, what) => format!("{kind}.{what}"),
    };
    let theta = file.need_number(&key("rope_theta"), Numbers::Positive)?;
    let rope_type = match (flat, span) {
        (false, _) => file.text(&key("rope_type"))?.unwrap_or_else(|| "default".to_owned()),
        (true, Span::Local) => "default".to_owned(),
        (true, Span::Global) => "proportional".to_owned(),
    };
    let (partial_key, factor_key) = (key("partial_rotary_factor"), key("factor"));
    match rope_type.as_str() {
        "default" => Ok(Rope::new(theta, Vec::new())),
        "proportional" => {
            let partial = match file.double(&partial_key, Numbers::PositiveShare)? {
                Some(partial) => partial,
                None if flat => return Err(file.missing(&partial_key, Numbers::PositiveShare)),
                None => 1.0,
            };
            let factor = if flat { 1.0 } else { file.number(&factor_key, Numbers::Positive)?.unwrap_or(1.0) };
            let pairs = head_dim.unwrap_or(0) / 2;
            // `int(partial * head_dim // 2)`; at most `pairs` because `partial` is at most 1.
            let live = (0..pairs).take_while(|i| (i + 1) as f64 <= partial * pairs as f64);
            let live = live.count();
            let factors = (0..pairs).map(|i| if i < live { factor } else { NO_ROTATION });
            Ok(Rope::new(theta, factors.collect()))
        }
        other => Err(file.bad(&key("rope_type"), Value::Text(other), "default or proportional")),
    }
}

/// The mixture of experts, if it is switched on.
fn moe(file: &JsonKeys<'_>) -> Result<Option<Moe>, ModelError> {
    if !file.flag("enable_moe_block")?.unwrap_or(false) {
        return Ok(None);
    }
    let experts = file.need_size("num_experts", EXPERTS)?;
    Ok(Some(Moe {
        experts,
        top_k: file.need_size("top_k_experts", top_k(experts))?,
        ffn: file.need_size("moe_intermediate_size", FFN)?,
    }))
}

fn top_k(experts: usize) -> Sizes {
    sizes(1..=experts)
}
