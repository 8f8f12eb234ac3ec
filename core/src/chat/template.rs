//! Chat templates: the Jinja text inside a model file, run the way Hugging Face runs it.
//!
//! A template is part of a downloaded file and is not trusted: it runs on a budget of instructions, to a limited
//! depth, and writes a limited amount. What stays open is a template that doubles one string with `~` again and
//! again: the engine gives no hook there, so its memory grows until the program ends.

mod python;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value as Jinja, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value};

use super::message::{Dialogue, Message, Role, ToolCall};
use super::{ChatError, outdated};

/// Used when a model file has no template. It prints what Google's template for the 31B prints ("OpenAI Chat
/// Completions" revision), but keeps parameters named `type` or `description`, closes a schema that has no type,
/// spells lists of types in the dialogue's own syntax, and takes white space around a call for no content.
const BUILTIN: &str = include_str!("gemma4.jinja");

/// Name of the template inside the engine. Without an extension, so nothing is escaped for HTML.
const NAME: &str = "chat";

/// Instructions a template may execute: this many take seconds. Google's later templates look at all earlier messages
/// for each one, hence the square.
const FUEL: u64 = 20_000_000;
const FUEL_PER_PAIR_OF_MESSAGES: u64 = 64;

/// Frames inside one another, the engine's own maximum. A macro call costs several: it is enough for dialogues as deep
/// as the check lets through, and the smallest stack (2 MiB) holds it in a debug build.
const RECURSION: usize = 500;

/// Bytes of prompt that are always allowed, and how many more for each byte that goes in.
const OUTPUT_BYTES: usize = 16 << 20;
const OUTPUT_PER_INPUT_BYTE: usize = 64;

/// How a prompt asks the model to speak.
const MODEL_TURN: &str = "<|turn>model\n";
/// What tells a model that does not think that it has already thought.
const EMPTY_THOUGHT: &str = "<|channel>thought\n<channel|>";
const TURN_END: &str = "<turn|>\n";

/// A compiled chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
    outdated: bool,
}

impl ChatTemplate {
    /// Compiles `source`; `bos` and `eos` are the texts of the tokens that it may print as `bos_token` and
    /// `eos_token`.
    ///
    /// # Errors
    /// [`ChatError::Template`] if `source` is not valid Jinja.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, ChatError> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|err| template_error(&err))?);
        env.set_recursion_limit(RECURSION);
        env.set_unknown_method_callback(unknown_method_callback);
        env.add_filter("tojson", python::tojson);
        env.add_function("raise_exception", |reason: String| -> Result<Jinja, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        });
        env.add_function("strftime_now", python::strftime_now);
        env.add_template_owned(NAME, source.to_owned()).map_err(|err| template_error(&err))?;
        Ok(Self {
            env,
            outdated: outdated::is_outdated(source),
            source: source.to_owned(),
            bos: bos.to_owned(),
            eos: eos.to_owned(),
        })
    }

    /// The template for model files that have none.
    ///
    /// # Panics
    /// Never: its text is part of the program and tested.
    #[must_use]
    pub fn builtin(bos: &str, eos: &str) -> Self {
        Self::new(BUILTIN, bos, eos).expect("the built-in template compiles")
    }

    /// The template's own text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt's text, beginning with the start token where the template prints it: encode it without adding
    /// another one.
    ///
    /// # Errors
    /// [`ChatError::Message`] or [`ChatError::Tool`] for a dialogue that makes no sense, [`ChatError::Template`] if
    /// the template fails or runs too long, [`ChatError::TooLong`] if it writes too much.
    pub fn render(&self, dialogue: &Dialogue) -> Result<String, ChatError> {
        dialogue.check()?;
        let context = self.context(dialogue);
        let input = serde_json::to_string(&context).map_or(0, |text| text.len()) + self.source.len();
        let limit = OUTPUT_BYTES.max(input.saturating_mul(OUTPUT_PER_INPUT_BYTE));
        let mut env = self.env.clone();
        env.set_formatter(move |out, state, value| write_value(out, state, value, limit));
        let messages = dialogue.messages.len() as u64;
        let pairs = messages.saturating_mul(messages).saturating_mul(FUEL_PER_PAIR_OF_MESSAGES);
        env.set_fuel(Some(FUEL.saturating_add(pairs).min(1 << 40)));
        let template = env.get_template(NAME).map_err(|err| template_error(&err))?;
        let mut out = Limited { text: Vec::new(), limit, full: false };
        // The engine panics on some templates, such as one that slices an empty text backwards.
        let render = AssertUnwindSafe(|| template.render_captured_to(Serde(&context), &mut out).map(drop));
        let result = catch_unwind(render).map_err(|_| ChatError::Template {
            line: None,
            reason: "the template engine failed on it".into(),
        })?;
        if out.full {
            return Err(ChatError::TooLong { limit });
        }
        result.map_err(|err| {
            if err.kind() == ErrorKind::WriteFailure && err.detail() == Some(TOO_LONG) {
                ChatError::TooLong { limit }
            } else {
                template_error(&err)
            }
        })?;
        let prompt = String::from_utf8(out.text).map_err(|_| ChatError::Template {
            line: None,
            reason: "writes text that is not UTF-8".into(),
        })?;
        Ok(if dialogue.add_generation_prompt { with_model_turn(prompt) } else { prompt })
    }

    fn context(&self, dialogue: &Dialogue) -> Map<String, Value> {
        let mut messages = message_values(&dialogue.messages);
        if self.outdated {
            messages = outdated::with_tool_responses(&dialogue.messages, messages);
        }
        let mut context = dialogue.extra.clone();
        context.insert("messages".into(), Value::Array(messages));
        let tools = if dialogue.tools.is_empty() { Value::Null } else { dialogue.tools.clone().into() };
        context.insert("tools".into(), tools);
        context.insert("enable_thinking".into(), dialogue.enable_thinking.into());
        context.insert("add_generation_prompt".into(), dialogue.add_generation_prompt.into());
        context.insert("bos_token".into(), self.bos.clone().into());
        context.insert("eos_token".into(), self.eos.clone().into());
        context
    }
}

/// Messages as templates see them. The system text is one string: Google's templates print the list itself
/// otherwise. A tool message names its function: few clients say it, some templates print it.
fn message_values(messages: &[Message]) -> Vec<Value> {
    let mut calls: &[ToolCall] = &[];
    let mut answered = 0;
    let mut values = Vec::new();
    for message in messages {
        let mut value = serde_json::to_value(message).unwrap_or_default();
        match message.role {
            Role::System | Role::Developer => {
                value["role"] = "system".into();
                value["content"] = message.text().into();
            }
            Role::Tool => {
                if let Some(name) = answering_name(calls, answered, message) {
                    value["name"] = name.into();
                }
                answered += 1;
            }
            Role::User | Role::Assistant => {
                calls = &message.tool_calls;
                answered = 0;
            }
        }
        values.push(value);
    }
    values
}

/// Which function a tool message speaks for: that of the call whose id it names, else what it says itself, else that
/// of the call at its `place`.
fn answering_name<'a>(calls: &'a [ToolCall], place: usize, message: &'a Message) -> Option<&'a str> {
    let id = message.tool_call_id.as_ref();
    let by_id = calls.iter().find(|call| id.is_some() && call.id.as_ref() == id);
    let call = |call: &'a ToolCall| call.function.name.as_str();
    by_id.map(call).or(message.name.as_deref()).or_else(|| calls.get(place).map(call))
}

/// Opens the model's turn where the template should have and did not. Templates leave it out after any tool
/// response, even when the answer to it followed and closed the turn (llama.cpp adds the same text).
fn with_model_turn(mut prompt: String) -> String {
    if prompt.ends_with(TURN_END) {
        prompt.push_str(MODEL_TURN);
    } else if let Some(rest) = prompt.strip_suffix(EMPTY_THOUGHT)
        && rest.ends_with(TURN_END)
    {
        prompt.insert_str(rest.len(), MODEL_TURN);
    }
    prompt
}

fn template_error(err: &Error) -> ChatError {
    let reason = match (err.kind(), err.detail()) {
        (ErrorKind::OutOfFuel, _) => "takes too many steps".to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    ChatError::Template { line: err.line(), reason }
}

const TOO_LONG: &str = "writes too much";

/// How often text may pass [`write_value`] on its way to the prompt: once for every macro around it.
const PASSES: usize = 4;

/// Bytes written by `{{ }}` so far, also into variables and results of macros.
#[derive(Default)]
struct Written(usize);

/// Prints values the way Python does.
fn write_value(out: &mut Output, state: &mut State, value: &Jinja, limit: usize) -> Result<(), Error> {
    let text = match value.kind() {
        // As minijinja prints it: nothing.
        ValueKind::Undefined => return Ok(()),
        ValueKind::Invalid => return minijinja::escape_formatter(out, state, value),
        ValueKind::Number if !value.is_integer() => python::float(f64::try_from(value.clone())?),
        ValueKind::String => String::new(),
        _ => value.to_string(),
    };
    let text = value.as_str().unwrap_or(&text);
    let Written(written) = state.get_or_insert_extension_with(Written::default);
    *written = written.saturating_add(text.len());
    if *written > limit.saturating_mul(PASSES) {
        return Err(Error::new(ErrorKind::WriteFailure, TOO_LONG));
    }
    out.write_str(text)?;
    Ok(())
}

/// Collects up to `limit` bytes.
struct Limited {
    text: Vec<u8>,
    limit: usize,
    full: bool,
}

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.limit - self.text.len() {
            self.full = true;
            return Err(io::Error::other(TOO_LONG));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
