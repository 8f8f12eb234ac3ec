//! What may stand in a line of stdin, and reading it. Nothing here trusts the line.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gemma4_core::chat::{Dialogue, Message};
use gemma4_core::sample::Sampling;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Longest text that names a request.
const LONGEST_ID: usize = 256;

/// What somebody wants.
#[derive(Debug)]
pub(crate) enum Request {
    /// Answer.
    Generate(Box<Generate>),
    /// End the request of this id.
    Cancel(Value),
    /// Give the model's memory back.
    Park,
    /// Load the model again.
    Unpark,
    /// Write the kept beginning of a prompt to a file.
    Save(PathBuf, PromptOf),
    /// Keep the conversation of a file.
    Restore(PathBuf),
    /// Forget all conversations.
    Forget,
    /// Say what is going on.
    Status,
}

/// A prompt, in one of three forms.
#[derive(Debug)]
pub(crate) enum PromptOf {
    /// Messages, for the chat template.
    Dialogue(Box<Dialogue>),
    /// Text, as it is; control tokens are read as tokens.
    Text(String),
    /// Tokens, as they are.
    Tokens(Vec<u32>),
}

/// How to answer.
#[derive(Debug)]
pub(crate) struct Generate {
    pub(crate) prompt: PromptOf,
    pub(crate) options: Options,
}

/// Options of an answer; what is left out is as the model's makers say.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Options {
    pub(crate) max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    logit_bias: BTreeMap<u32, f32>,
    seed: Option<u64>,
    /// Tokens that end the answer, beside those of the model.
    pub(crate) stop_tokens: Vec<u32>,
    /// With how many likely tokens each token is reported; none without it.
    pub(crate) logprobs: Option<u8>,
    pub(crate) cache: Cache,
    pub(crate) deadline_ms: Option<u64>,
    pub(crate) progress: bool,
}

/// See [`CachePolicy`](crate::serve::job::CachePolicy).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cache {
    #[default]
    Reuse,
    Exact,
    None,
}

impl Options {
    /// The settings over `defaults`, with `seed` where none is given.
    pub(crate) fn sampling(&self, defaults: &Sampling, seed: impl FnOnce() -> u64) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            logit_bias: self.logit_bias.iter().map(|(&token, &bias)| (token, bias)).collect(),
            seed: self.seed.unwrap_or_else(seed),
        }
    }
}

/// Reads a line: the id, if that much can be read, and the request or what is wrong with it, in one sentence.
pub(crate) fn parse(line: &[u8]) -> (Option<Value>, Result<Request, String>) {
    let mut object = match serde_json::from_slice::<Value>(line) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return (None, Err("a request is a JSON object".to_owned())),
        Err(error) => return (None, Err(format!("a request is one line of JSON: {error}"))),
    };
    let id = object.remove("id");
    let known = match &id {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.len() <= LONGEST_ID,
        Some(Value::Number(number)) => number.is_u64() || number.is_i64(),
        Some(_) => false,
    };
    if !known {
        return (None, Err(format!("`id` is a whole number or a text of at most {LONGEST_ID} bytes")));
    }
    let id = id.filter(|id| !id.is_null());
    let request = read(object, id.is_some()).map_err(|text| one_line(&text));
    (id, request)
}

/// Longest message, in characters.
const LONGEST_MESSAGE: usize = 300;

/// A message that may quote the request, made fit for a line.
fn one_line(text: &str) -> String {
    let mut line: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_MESSAGE).collect();
    if text.chars().nth(LONGEST_MESSAGE).is_some() {
        line.push_str("...");
    }
    line
}

fn read(mut object: Map<String, Value>, named: bool) -> Result<Request, String> {
    let Some(Value::String(op)) = object.remove("op") else {
        return Err("`op` is missing; it is generate, cancel, park, unpark, save, restore, forget or status"
            .to_owned());
    };
    match op.as_str() {
        "generate" if !named => Err("`id` is missing: events name the request by it".to_owned()),
        "generate" => {
            let prompt = prompt(&mut object, &op)?;
            Ok(Request::Generate(Box::new(Generate { prompt, options: rest(object, &op)? })))
        }
        "cancel" => {
            let of = object.remove("of").ok_or("cancel: `of` is missing, the id of the request to end")?;
            nothing(&object, &op)?;
            Ok(Request::Cancel(of))
        }
        "save" => {
            let (path, prompt) = (path(&mut object, &op)?, prompt(&mut object, &op)?);
            nothing(&object, &op)?;
            Ok(Request::Save(path, prompt))
        }
        "restore" => {
            let path = path(&mut object, &op)?;
            nothing(&object, &op)?;
            Ok(Request::Restore(path))
        }
        "park" => nothing(&object, &op).map(|()| Request::Park),
        "unpark" => nothing(&object, &op).map(|()| Request::Unpark),
        "forget" => nothing(&object, &op).map(|()| Request::Forget),
        "status" => nothing(&object, &op).map(|()| Request::Status),
        _ => Err(format!(
            "`op` is {}, expected generate, cancel, park, unpark, save, restore, forget or status",
            shown(&op)
        )),
    }
}

/// A text of a request in a message: the beginning of it.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    format!("{short:?}{}", if short.len() < text.len() { "..." } else { "" })
}

fn prompt(object: &mut Map<String, Value>, op: &str) -> Result<PromptOf, String> {
    let mut take = |key| object.remove(key).filter(|value| !value.is_null());
    let given = (take("messages"), take("prompt"), take("tokens"));
    let (tools, think, extra) = (take("tools"), take("think"), take("template_args"));
    let dialogue_only = [(&tools, "tools"), (&think, "think"), (&extra, "template_args")];
    match given {
        (Some(messages), None, None) => {
            let messages: Vec<Message> = value(messages, op, "messages")?;
            Ok(PromptOf::Dialogue(Box::new(Dialogue {
                tools: tools.map(|tools| value(tools, op, "tools")).transpose()?.unwrap_or_default(),
                enable_thinking: think
                    .map(|think| value(think, op, "think"))
                    .transpose()?
                    .unwrap_or_default(),
                extra: extra.map(|extra| value(extra, op, "template_args")).transpose()?.unwrap_or_default(),
                ..Dialogue::new(messages)
            })))
        }
        (None, Some(_), None) | (None, None, Some(_))
            if dialogue_only.iter().any(|(given, _)| given.is_some()) =>
        {
            Err(format!("{op}: `tools`, `think` and `template_args` go with `messages`"))
        }
        (None, Some(text), None) => Ok(PromptOf::Text(value(text, op, "prompt")?)),
        (None, None, Some(tokens)) => Ok(PromptOf::Tokens(value(tokens, op, "tokens")?)),
        _ => Err(format!("{op}: give one of `messages`, `prompt` and `tokens`")),
    }
}

fn path(object: &mut Map<String, Value>, op: &str) -> Result<PathBuf, String> {
    let path = object.remove("path").ok_or_else(|| format!("{op}: `path` is missing"))?;
    value(path, op, "path")
}

fn value<T: DeserializeOwned>(value: Value, op: &str, key: &str) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| format!("{op}: `{key}`: {error}"))
}

fn rest<T: DeserializeOwned>(object: Map<String, Value>, op: &str) -> Result<T, String> {
    // One key at a time, so that the message names it.
    serde_json::from_value(Value::Object(object)).map_err(|error| format!("{op}: {error}"))
}

fn nothing(object: &Map<String, Value>, op: &str) -> Result<(), String> {
    match object.keys().next() {
        Some(key) => Err(format!("{op}: there is no option {}", shown(key))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(line: &str) -> String {
        parse(line.as_bytes()).1.expect_err(line)
    }

    #[test]
    fn requests_are_read() {
        let line = r#"{"op":"generate","id":7,"messages":[{"role":"user","content":"Hi"}],"think":true,"seed":3,
                       "temperature":0.5,"logit_bias":{"5":-1.5},"cache":"exact","logprobs":2}"#;
        let (id, request) = parse(line.as_bytes());
        assert_eq!(id, Some(json!(7)));
        let Ok(Request::Generate(generate)) = request else { panic!("{request:?}") };
        let PromptOf::Dialogue(dialogue) = &generate.prompt else { panic!("{generate:?}") };
        assert!(dialogue.enable_thinking && dialogue.add_generation_prompt && dialogue.messages.len() == 1);
        let sampling = generate.options.sampling(&Sampling { top_k: 64, ..Sampling::default() }, || 9);
        assert_eq!((sampling.temperature, sampling.top_k, sampling.seed), (0.5, 64, 3));
        assert_eq!((sampling.logit_bias, generate.options.cache), (vec![(5, -1.5)], Cache::Exact));

        let parse = |line: &str| parse(line.as_bytes()).1.unwrap();
        assert!(matches!(parse(r#"{"op":"cancel","of":"a"}"#), Request::Cancel(of) if of == json!("a")));
        assert!(matches!(parse(r#"{"op":"status","id":null}"#), Request::Status));
        let Request::Save(path, PromptOf::Tokens(tokens)) =
            parse(r#"{"op":"save","path":"x","tokens":[1,2]}"#)
        else {
            panic!("no save")
        };
        assert_eq!((path.as_path(), tokens), (std::path::Path::new("x"), vec![1, 2]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, says) in [
            ("", "one line of JSON"),
            ("[1]", "a JSON object"),
            (r#"{"id":1}"#, "`op` is missing"),
            (r#"{"op":"fly","id":1}"#, "`op` is \"fly\""),
            (r#"{"op":"status","id":[1]}"#, "`id` is a whole number"),
            (r#"{"op":"status","id":1.5}"#, "`id` is a whole number"),
            (r#"{"op":"generate","prompt":"x"}"#, "`id` is missing"),
            (r#"{"op":"generate","id":1}"#, "give one of"),
            (r#"{"op":"generate","id":1,"prompt":"x","tokens":[1]}"#, "give one of"),
            (r#"{"op":"generate","id":1,"prompt":"x","think":true}"#, "go with `messages`"),
            (r#"{"op":"generate","id":1,"prompt":"x","temprature":1}"#, "`temprature`"),
            (r#"{"op":"generate","id":1,"prompt":"x","cache":"some"}"#, "`some`"),
            (r#"{"op":"generate","id":1,"tokens":[-1]}"#, "`tokens`"),
            (r#"{"op":"generate","id":1,"messages":{"role":"user"}}"#, "`messages`"),
            (r#"{"op":"park","now":true}"#, "there is no option \"now\""),
            (r#"{"op":"cancel"}"#, "`of` is missing"),
            (r#"{"op":"save","tokens":[1]}"#, "`path` is missing"),
            (&format!("{{\"op\":{:?}}}", "x".repeat(1000)), "...\""),
        ] {
            let error = error(line);
            assert!(error.contains(says.trim_end_matches('"')) && !error.contains('\n'), "{line}: {error}");
        }
        assert!(error(&"[".repeat(100_000)).contains("one line of JSON"));
        assert!(parse(b"{\"op\":\"status\",\"id\":\"\xff\"}").1.is_err());
    }
}
