//! Requests for messages.

use gemma4_core::chat::{Content, Dialogue, FunctionCall, Message, Role, ToolCall};
use serde_json::Value;

use super::super::fields::{BadField, Field, Fields};
use super::super::settings::{self, Defaults};
use crate::serve::dialogue::{Ask, Format, Source, Thinking, ToolChoice};

/// A request that was read.
#[derive(Clone, Debug)]
pub(in super::super) struct Asked {
    pub(in super::super) ask: Ask,
    pub(in super::super) stream: bool,
}

/// Reads a request.
pub(in super::super) fn read(fields: &Fields<'_>, defaults: &Defaults<'_>) -> Result<Asked, BadField> {
    let most = fields.need("max_tokens", "the most tokens of the answer")?.count(1..=usize::MAX)?;
    let (dialogue, thinking) = dialogue(fields, defaults.think)?;
    let mut ask = Ask::new(Source::Dialogue(dialogue), settings::sampling(fields, defaults)?);
    ask.max_tokens = Some(most);
    ask.thinking = thinking;
    ask.stop = settings::stop(fields, "stop_sequences")?;
    if let Some(field) = fields.get("tool_choice") {
        let fields = field.object()?;
        let kind = fields.need("type", "\"auto\", \"any\", \"tool\" or \"none\"")?;
        ask.choice = match kind.one_of(&[("auto", 0), ("any", 1), ("tool", 2), ("none", 3)])? {
            0 => ToolChoice::Auto,
            1 => ToolChoice::Required,
            2 => ToolChoice::Named(vec![fields.need("name", "the name of a tool")?.string()?.to_owned()]),
            _ => ToolChoice::None,
        };
        ask.parallel = !fields.flag("disable_parallel_tool_use", false)?;
    }
    for field in [fields.get("output_format"), output(fields)?].into_iter().flatten() {
        ask.format = format(&field.object()?)?;
    }
    ask.progress = fields.flag("return_progress", false)?;
    ask.cache = settings::cache(fields)?;
    Ok(Asked { ask, stream: fields.flag("stream", false)? })
}

fn output<'a>(fields: &Fields<'a>) -> Result<Option<Field<'a>>, BadField> {
    Ok(fields.read("output_config", Field::object)?.and_then(|config| config.get("format")))
}

fn format(fields: &Fields<'_>) -> Result<Format, BadField> {
    fields.need("type", "\"json_schema\"")?.one_of(&[("json_schema", ())])?;
    settings::format(fields)
}

/// The dialogue of a request, and whether to think in it.
pub(super) fn dialogue(fields: &Fields<'_>, think: bool) -> Result<(Dialogue, Thinking), BadField> {
    let mut thinking = Thinking { on: think, budget: None };
    if let Some(config) = fields.read("output_config", Field::object)?
        && let Some(effort) = config.get("effort")
    {
        thinking.budget = effort.one_of(&Thinking::EFFORTS)?.budget;
    }
    if let Some(field) = fields.get("thinking") {
        let fields = field.object()?;
        let kind = fields.need("type", "\"enabled\", \"adaptive\" or \"disabled\"")?;
        thinking.on = kind.one_of(&[("enabled", true), ("adaptive", true), ("disabled", false)])?;
        if let Some(budget) = fields.read("budget_tokens", |field| field.count(1..=usize::MAX))? {
            thinking.budget = Some(budget);
        }
    }
    let mut messages = Vec::new();
    if let Some(field) = fields.get("system") {
        let text = text(&field)?;
        if !text.trim().is_empty() {
            messages.push(Message::new(Role::System, text));
        }
    }
    let field = fields.need("messages", "a list of messages")?;
    let items = field.list()?;
    if items.len() == 0 {
        return Err(field.wrong("at least one message"));
    }
    for item in items {
        message(&item.object()?, &mut messages)?;
    }
    let tools = match fields.get("tools") {
        Some(tools) => tools.list()?.filter_map(|field| tool(field).transpose()).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let dialogue = Dialogue { tools, enable_thinking: thinking.on, ..Dialogue::new(messages) };
    Ok((dialogue, thinking))
}

/// A tool; `None` for those that the vendor's own servers would run, such as its web search.
fn tool(field: Field<'_>) -> Result<Option<Value>, BadField> {
    let fields = field.object()?;
    if fields.get("type").is_some_and(|kind| kind.value != "custom") {
        return Ok(None);
    }
    let description = fields.read("description", |field| field.string())?;
    let schema = fields.need("input_schema", "a JSON schema")?;
    settings::tool(&fields.need("name", "a string")?, description, Some(schema)).map(Some)
}

/// A string, or blocks of text. Blocks keep a line apart, as they are paragraphs of their own.
fn text(field: &Field<'_>) -> Result<String, BadField> {
    match field.value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(_) => {
            let blocks = field.list()?.map(|block| settings::part_text(block, &["text"]));
            Ok(blocks.collect::<Result<Vec<_>, _>>()?.join("\n"))
        }
        _ => Err(field.wrong("a string or a list of blocks")),
    }
}

/// A message, which may become several: results of tools are messages of their own.
fn message(fields: &Fields<'_>, out: &mut Vec<Message>) -> Result<(), BadField> {
    let role = fields.need("role", "who speaks")?;
    let role =
        role.one_of(&[("user", Role::User), ("assistant", Role::Assistant), ("system", Role::System)])?;
    let content = fields.need("content", "a string or a list of blocks")?;
    if let Value::String(text) = content.value {
        out.push(Message::new(role, text.as_str()));
        return Ok(());
    }
    let mut message = Message { content: None, ..Message::new(role, "") };
    let (mut said, mut thought) = (Vec::new(), Vec::new());
    for block in content.list()? {
        let fields = block.clone().object()?;
        let kind = fields.need("type", "the type of the block")?;
        match (role, kind.string()?) {
            (_, "text") => said.push(settings::part_text(block, &["text"])?.to_owned()),
            (Role::Assistant, "thinking") => {
                thought.push(fields.need("thinking", "a string")?.string()?.to_owned());
            }
            // Nobody but the vendor can read these.
            (Role::Assistant, "redacted_thinking") => {}
            (Role::Assistant, "tool_use") => message.tool_calls.push(ToolCall {
                id: Some(fields.need("id", "a string")?.string()?.to_owned()),
                function: FunctionCall {
                    name: fields.need("name", "a string")?.string()?.to_owned(),
                    arguments: settings::arguments(fields.get("input"))?,
                },
            }),
            (Role::User, "tool_result") => {
                let result = fields.read("content", |field| text(&field))?.unwrap_or_default();
                let failed = fields.flag("is_error", false)?;
                out.push(Message {
                    tool_call_id: Some(fields.need("tool_use_id", "a string")?.string()?.to_owned()),
                    ..Message::new(Role::Tool, if failed { format!("error: {result}") } else { result })
                });
            }
            _ => {
                let expected = match role {
                    Role::Assistant => "\"text\", \"thinking\" or \"tool_use\" in a message of the assistant",
                    _ => "\"text\" or \"tool_result\": this model reads text only",
                };
                return Err(kind.wrong(expected));
            }
        }
    }
    if !said.is_empty() {
        message.content = Some(Content::Text(said.join("\n")));
    }
    message.reasoning_content = (!thought.is_empty()).then(|| thought.join("\n"));
    if message.content.is_some() || !message.tool_calls.is_empty() || message.reasoning_content.is_some() {
        out.push(message);
    }
    Ok(())
}
