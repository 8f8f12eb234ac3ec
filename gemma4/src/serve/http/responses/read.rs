//! Requests for responses.

use gemma4_core::chat::{Content, Dialogue, FunctionCall, Message, Role, ToolCall};
use serde_json::Value;

use super::super::fields::{BadField, Field, Fields};
use super::super::settings::{self, Defaults};
use crate::serve::dialogue::{Ask, Source, ToolChoice};

/// Marks the message of `instructions`, which later requests do not inherit.
pub(super) const INSTRUCTIONS: &str = "instructions";

/// A request that was read.
#[derive(Clone, Debug)]
pub(in super::super) struct Asked {
    pub(in super::super) ask: Ask,
    pub(in super::super) stream: bool,
    /// Whether later requests may continue the response.
    pub(in super::super) store: bool,
    /// The response that this request continues.
    pub(in super::super) previous: Option<String>,
}

/// Reads a request.
pub(in super::super) fn read(fields: &Fields<'_>, defaults: &Defaults<'_>) -> Result<Asked, BadField> {
    if fields.flag("background", false)? {
        return Err(BadField::new(
            "background",
            "this server answers while you wait; leave `background` out",
        ));
    }
    if fields.get("conversation").is_some() {
        return Err(BadField::new(
            "conversation",
            "this server keeps no conversations; use `previous_response_id`",
        ));
    }
    let thinking = settings::thinking(fields, defaults.think)?;
    let mut messages = Vec::new();
    if let Some(field) = fields.get("instructions") {
        let text = field.string()?;
        if !text.trim().is_empty() {
            messages
                .push(Message { name: Some(INSTRUCTIONS.to_owned()), ..Message::new(Role::System, text) });
        }
    }
    input(&fields.need("input", "a string or a list of items")?, &mut messages)?;
    let dialogue = Dialogue {
        tools: fields.read("tools", |field| tools(&field))?.unwrap_or_default(),
        enable_thinking: thinking.on,
        ..Dialogue::new(messages)
    };
    let mut ask = Ask::new(Source::Dialogue(dialogue), settings::sampling(fields, defaults)?);
    ask.thinking = thinking;
    ask.max_tokens = fields.read("max_output_tokens", |field| field.count(1..=usize::MAX))?;
    ask.stop = settings::stop(fields, "stop")?;
    ask.choice = choice(fields)?;
    ask.parallel = fields.flag("parallel_tool_calls", true)?;
    if let Some(text) = fields.get("text")
        && let Some(format) = text.object()?.get("format")
    {
        ask.format = settings::format(&format.object()?)?;
    }
    let top = fields.read("top_logprobs", |field| field.count(0..=super::super::chat::TOP))?;
    let included = match fields.get("include") {
        Some(include) => include.list()?.any(|item| item.value == "message.output_text.logprobs"),
        None => false,
    };
    if included || top.is_some_and(|top| top > 0) {
        ask.logprobs = Some(u8::try_from(top.unwrap_or(0)).unwrap_or(0));
    }
    ask.progress = fields.flag("return_progress", false)?;
    ask.cache = settings::cache(fields)?;
    Ok(Asked {
        ask,
        stream: fields.flag("stream", false)?,
        store: fields.flag("store", true)?,
        previous: fields.read("previous_response_id", |field| field.string().map(str::to_owned))?,
    })
}

/// Tools of the flat form. Those that the vendor's own servers would run are left out: clients list them by default.
fn tools(field: &Field<'_>) -> Result<Vec<Value>, BadField> {
    let mut tools = Vec::new();
    for tool in field.list()? {
        let fields = tool.object()?;
        let kind = fields.need("type", "\"function\"")?;
        if kind.string()? != "function" {
            continue;
        }
        let description = fields.read("description", |field| field.string())?;
        tools.push(settings::tool(&fields.need("name", "a string")?, description, fields.get("parameters"))?);
    }
    Ok(tools)
}

fn choice(fields: &Fields<'_>) -> Result<ToolChoice, BadField> {
    let Some(field) = fields.get("tool_choice") else { return Ok(ToolChoice::Auto) };
    if field.value.is_string() {
        let word = field.one_of(&[("auto", 0), ("none", 1), ("required", 2)])?;
        return Ok([ToolChoice::Auto, ToolChoice::None, ToolChoice::Required][word].clone());
    }
    let fields = field.object()?;
    let name = |fields: &Fields<'_>| Ok(fields.need("name", "the name of a tool")?.string()?.to_owned());
    if let Some(tools) = fields.get("tools") {
        let names = tools.list()?.map(|tool| name(&tool.object()?)).collect::<Result<_, BadField>>()?;
        return Ok(ToolChoice::Named(names));
    }
    Ok(ToolChoice::Named(vec![name(&fields)?]))
}

fn input(field: &Field<'_>, out: &mut Vec<Message>) -> Result<(), BadField> {
    match field.value {
        Value::String(text) => out.push(Message::new(Role::User, text.as_str())),
        Value::Array(items) if !items.is_empty() => {
            for item in field.list()? {
                self::item(&item.object()?, out)?;
            }
        }
        _ => return Err(field.wrong("a string or a list of at least one item")),
    }
    Ok(())
}

/// An item, as a message of its own or as a part of the model's turn before it.
fn item(fields: &Fields<'_>, out: &mut Vec<Message>) -> Result<(), BadField> {
    let kind = match fields.get("type") {
        Some(kind) => kind.string()?,
        None if fields.get("role").is_some() => "message",
        None => {
            return Err(fields
                .need("type", "the type of the item")
                .map_or_else(|bad| bad, |kind| kind.wrong("a type")));
        }
    };
    match kind {
        "message" => {
            let role = fields.need("role", "who speaks")?.one_of(&[
                ("user", Role::User),
                ("assistant", Role::Assistant),
                ("system", Role::System),
                ("developer", Role::Developer),
            ])?;
            let text = text(&fields.need("content", "a string or a list of parts")?)?;
            if role != Role::Assistant {
                out.push(Message::new(role, text));
                return Ok(());
            }
            let turn = turn(out);
            if turn.content.is_some() {
                out.push(Message::new(Role::Assistant, text));
            } else {
                turn.content = Some(Content::Text(text));
            }
        }
        "reasoning" => {
            let mut thought = String::new();
            for key in ["content", "summary"] {
                if let Some(parts) = fields.get(key).filter(|_| thought.is_empty()) {
                    for part in parts.list()? {
                        thought += settings::part_text(part, &["reasoning_text", "summary_text", "text"])?;
                    }
                }
            }
            if !thought.is_empty() {
                turn(out).reasoning_content = Some(thought);
            }
        }
        "function_call" => {
            let call = ToolCall {
                id: Some(fields.need("call_id", "a string")?.string()?.to_owned()),
                function: FunctionCall {
                    name: fields.need("name", "a string")?.string()?.to_owned(),
                    arguments: settings::arguments(fields.get("arguments"))?,
                },
            };
            turn(out).tool_calls.push(call);
        }
        "function_call_output" => {
            let id = fields.need("call_id", "a string")?.string()?.to_owned();
            let output = fields.need("output", "a string or a list of parts")?;
            out.push(Message { tool_call_id: Some(id), ..Message::new(Role::Tool, text(&output)?) });
        }
        _ => {
            let known = "\"message\", \"reasoning\", \"function_call\" or \"function_call_output\"";
            return Err(fields.need("type", known)?.wrong(known));
        }
    }
    Ok(())
}

/// The model's turn at the end, where more of it belongs; a new one if somebody else spoke last, or if it has been
/// said already.
fn turn(out: &mut Vec<Message>) -> &mut Message {
    if out.last().is_none_or(|last| last.role != Role::Assistant) {
        out.push(Message { content: None, ..Message::new(Role::Assistant, "") });
    }
    let last = out.len() - 1;
    &mut out[last]
}

fn text(field: &Field<'_>) -> Result<String, BadField> {
    match field.value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(_) => {
            let kinds = ["input_text", "output_text", "text", "refusal"];
            field.list()?.map(|part| settings::part_text(part, &kinds)).collect()
        }
        _ => Err(field.wrong("a string or a list of parts")),
    }
}
