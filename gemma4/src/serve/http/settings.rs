//! What requests of all interfaces have in common: sampling, thinking, tools.

use gemma4_core::sample::Sampling;
use serde_json::{Map, Value, json};

use super::fields::{BadField, Field, Fields};
use super::ids;
use crate::serve::dialogue::{Format, Model, Thinking};
use crate::serve::job::CachePolicy;

/// What a request is read against. Without the model, so that readers can be tried alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults<'a> {
    /// The makers' settings.
    pub(super) sampling: &'a Sampling,
    /// Tokens of the vocabulary.
    pub(super) vocab: usize,
    /// Whether to think where a request does not say.
    pub(super) think: bool,
}

impl<'a> Defaults<'a> {
    /// Those of a model.
    pub(super) fn of(model: &'a Model) -> Self {
        Self { sampling: &model.speaker.sampling, vocab: model.vocab, think: model.think }
    }
}

/// How tokens are chosen: the makers' settings and what the request says beside.
pub(super) fn sampling(fields: &Fields<'_>, defaults: &Defaults<'_>) -> Result<Sampling, BadField> {
    let mut sampling = defaults.sampling.clone();
    let penalty = -100.0..=100.0;
    if let Some(field) = fields.get("temperature") {
        sampling.temperature = field.number(0.0..=100.0)?;
    }
    if let Some(field) = fields.get("top_p") {
        // 0 is allowed by the vendors and means the one most likely token.
        sampling.top_p = field.number(0.0..=1.0)?.max(1e-6);
    }
    if let Some(field) = fields.get("top_k") {
        // -1 is what some clients write for all.
        sampling.top_k = u32::try_from(field.integer(-1..=i64::from(u32::MAX))?.max(0)).unwrap_or(0);
    }
    if let Some(field) = fields.get("min_p") {
        sampling.min_p = field.number(0.0..=1.0)?;
    }
    if let Some(field) = fields.any(&["repetition_penalty", "repeat_penalty"]) {
        sampling.repetition_penalty = field.number(0.01..=100.0)?;
    }
    if let Some(field) = fields.get("frequency_penalty") {
        sampling.frequency_penalty = field.number(penalty.clone())?;
    }
    if let Some(field) = fields.get("presence_penalty") {
        sampling.presence_penalty = field.number(penalty.clone())?;
    }
    if let Some(field) = fields.get("logit_bias") {
        let biases = field.object()?;
        sampling.logit_bias = biases
            .map
            .iter()
            .map(|(id, bias)| {
                let path = format!("{}.{}", biases.path, id.chars().take(20).collect::<String>());
                let token =
                    id.parse::<u32>().ok().filter(|&id| (id as usize) < defaults.vocab).ok_or_else(|| {
                        let last = defaults.vocab.saturating_sub(1);
                        BadField::new(
                            path.clone(),
                            format_args!("the key is no token id, expected 0 to {last}"),
                        )
                    })?;
                Ok((token, Field { value: bias, path }.number(penalty.clone())?))
            })
            .collect::<Result<_, BadField>>()?;
    }
    let seed = fields.read("seed", |field| field.integer(i64::MIN..=i64::MAX))?;
    sampling.seed = seed.map_or_else(ids::random, i64::cast_unsigned);
    Ok(sampling)
}

/// What of the cache may be used: a field of ours, and llama.cpp's `cache_prompt`.
pub(super) fn cache(fields: &Fields<'_>) -> Result<CachePolicy, BadField> {
    if let Some(field) = fields.get("cache") {
        return field.one_of(&[
            ("reuse", CachePolicy::Reuse),
            ("exact", CachePolicy::Exact),
            ("none", CachePolicy::None),
        ]);
    }
    Ok(if fields.flag("cache_prompt", true)? { CachePolicy::Reuse } else { CachePolicy::None })
}

/// Texts that end the answer.
pub(super) fn stop(fields: &Fields<'_>, key: &str) -> Result<Vec<String>, BadField> {
    let words = fields.read(key, |field| field.strings(64))?.unwrap_or_default();
    Ok(words.into_iter().filter(|word| !word.is_empty()).collect())
}

/// Whether to think, and how long: every way in which clients of chat completions and responses say it.
pub(super) fn thinking(fields: &Fields<'_>, default: bool) -> Result<Thinking, BadField> {
    let mut thinking = Thinking { on: default, budget: None };
    let budget = |field: Field<'_>| field.count(0..=usize::MAX);
    let set = |thinking: &mut Thinking, most: Option<usize>| {
        if let Some(most) = most {
            *thinking = Thinking { on: most > 0, budget: Some(most).filter(|&most| most > 0) };
        }
    };
    if let Some(field) = fields.get("enable_thinking") {
        thinking.on = field.boolean()?;
    }
    if let Some(field) = fields.get("chat_template_kwargs")
        && let Some(field) = field.object()?.get("enable_thinking")
    {
        thinking.on = field.boolean()?;
    }
    if let Some(field) = fields.get("thinking") {
        let fields = field.object()?;
        let on = fields.need("type", "\"enabled\" or \"disabled\"")?;
        thinking.on =
            on.one_of(&[("enabled", true), ("adaptive", true), ("auto", true), ("disabled", false)])?;
        if thinking.on {
            set(&mut thinking, fields.read("budget_tokens", budget)?);
        }
    }
    if let Some(field) = fields.get("reasoning_effort") {
        thinking = field.one_of(&Thinking::EFFORTS)?;
    }
    if let Some(field) = fields.get("reasoning") {
        let fields = field.object()?;
        if let Some(field) = fields.get("enabled") {
            thinking.on = field.boolean()?;
        }
        if let Some(field) = fields.get("effort") {
            thinking = field.one_of(&Thinking::EFFORTS)?;
        }
        set(&mut thinking, fields.read("max_tokens", budget)?);
    }
    if let Some(field) = fields.any(&["thinking_budget_tokens", "thinking_budget"]) {
        set(&mut thinking, Some(budget(field)?));
    }
    Ok(thinking)
}

/// A tool as the template and the grammar know it.
pub(super) fn tool(
    name: &Field<'_>,
    description: Option<&str>,
    parameters: Option<Field<'_>>,
) -> Result<Value, BadField> {
    let mut function = Map::new();
    function.insert("name".to_owned(), name.string()?.into());
    if let Some(description) = description {
        function.insert("description".to_owned(), description.into());
    }
    if let Some(parameters) = parameters {
        function.insert("parameters".to_owned(), Value::Object(parameters.object()?.map.clone()));
    }
    Ok(json!({ "type": "function", "function": function }))
}

/// The arguments of a call: an object, or a string that holds one.
pub(super) fn arguments(field: Option<Field<'_>>) -> Result<Map<String, Value>, BadField> {
    let Some(field) = field else { return Ok(Map::new()) };
    match field.value {
        Value::Object(map) => Ok(map.clone()),
        Value::String(text) if text.trim().is_empty() => Ok(Map::new()),
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(Value::Null) => Ok(Map::new()),
            _ => Err(field.wrong("a string that holds a JSON object")),
        },
        _ => Err(field.wrong("a JSON object, or a string that holds one")),
    }
}

/// `response_format` of chat completions, `text.format` of responses: a type, and for `json_schema` a schema.
pub(super) fn format(fields: &Fields<'_>) -> Result<Format, BadField> {
    let kind = fields.need("type", "\"text\", \"json_object\" or \"json_schema\"")?;
    match kind.one_of(&[("text", 0), ("json_object", 1), ("json_schema", 2)])? {
        0 => Ok(Format::Text),
        1 => {
            // llama.cpp takes a schema here too.
            let schema = fields.read("schema", Field::object)?;
            let schema = schema.map_or_else(|| json!({ "type": "object" }), |s| Value::Object(s.map.clone()));
            Ok(Format::Schema { schema, key: fields.path.clone() })
        }
        _ => {
            // Chat completions nest it, responses do not.
            let inner = match fields.get("json_schema") {
                Some(inner) => inner.object()?,
                None => fields.clone(),
            };
            let schema = inner.need("schema", "a JSON schema")?;
            let key = schema.path.clone();
            Ok(Format::Schema { schema: Value::Object(schema.object()?.map.clone()), key })
        }
    }
}

/// The text of a content part, or an error that says what this model cannot read.
pub(super) fn part_text<'a>(part: Field<'a>, kinds: &[&str]) -> Result<&'a str, BadField> {
    let fields = part.object()?;
    let kind = fields.need("type", "the type of the part")?;
    let name = kind.string()?;
    if kinds.contains(&name) {
        let key = if name == "refusal" { "refusal" } else { "text" };
        return fields.need(key, "a string")?.string();
    }
    let known: Vec<String> = kinds.iter().map(|kind| format!("\"{kind}\"")).collect();
    Err(kind.wrong(format_args!("{}: this model reads text only", known.join(" or "))))
}
