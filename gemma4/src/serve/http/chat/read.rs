//! Requests for chat completions.

use gemma4_core::chat::{Content, Dialogue, FunctionCall, Message, Part, Role, ToolCall};
use serde_json::{Map, Value};

use super::super::fields::{BadField, Field, Fields};
use super::super::settings::{self, Defaults};
use crate::serve::dialogue::{Ask, Source, ToolChoice};

/// Most choices of a request.
const CHOICES: usize = 16;
/// Most likely tokens that are listed beside each token.
pub(in super::super) const TOP: usize = 20;

/// A request that was read.
#[derive(Clone, Debug)]
pub(in super::super) struct Asked {
    pub(in super::super) ask: Ask,
    pub(in super::super) choices: u32,
    pub(in super::super) stream: bool,
    pub(in super::super) include_usage: bool,
}

/// Reads a request. Keys that are not listed here are ignored, as the vendor ignores them.
pub(in super::super) fn read(fields: &Fields<'_>, defaults: &Defaults<'_>) -> Result<Asked, BadField> {
    for key in ["functions", "function_call"] {
        if fields.get(key).is_some() {
            return Err(BadField::new(
                key,
                "is no longer part of the interface, use `tools` and `tool_choice`",
            ));
        }
    }
    let thinking = settings::thinking(fields, defaults.think)?;
    let dialogue = dialogue(fields, thinking.on)?;
    let sampling = settings::sampling(fields, defaults)?;
    let mut ask = Ask::new(Source::Dialogue(dialogue), sampling);
    ask.thinking = thinking;
    let most = fields.any(&["max_completion_tokens", "max_tokens"]);
    // -1 and 0 are what some clients write for no limit.
    let most = most.map(|field| field.integer(-1..=i64::MAX)).transpose()?;
    ask.max_tokens = most.and_then(|most| usize::try_from(most).ok()).filter(|&most| most > 0);
    ask.stop = settings::stop(fields, "stop")?;
    ask.logprobs = logprobs(fields)?;
    ask.choice = choice(fields)?;
    ask.parallel = fields.flag("parallel_tool_calls", true)?;
    if let Some(field) = fields.get("response_format") {
        ask.format = settings::format(&field.object()?)?;
    }
    ask.progress = fields.flag("return_progress", false)?;
    ask.cache = settings::cache(fields)?;
    let choices = fields.read("n", |field| field.count(1..=CHOICES))?.unwrap_or(1);
    let options = fields.read("stream_options", Field::object)?;
    Ok(Asked {
        ask,
        choices: u32::try_from(choices).unwrap_or(1),
        stream: fields.flag("stream", false)?,
        include_usage: options
            .map(|options| options.flag("include_usage", false))
            .transpose()?
            .unwrap_or(false),
    })
}

/// The dialogue of a request.
pub(in super::super) fn dialogue(fields: &Fields<'_>, think: bool) -> Result<Dialogue, BadField> {
    let mut extra = match fields.get("chat_template_kwargs") {
        Some(field) => field.object()?.map.clone(),
        None => Map::new(),
    };
    extra.remove("enable_thinking");
    Ok(Dialogue {
        messages: messages(&fields.need("messages", "a list of messages")?)?,
        tools: fields.read("tools", |field| tools(&field))?.unwrap_or_default(),
        enable_thinking: think,
        add_generation_prompt: true,
        extra,
    })
}

fn logprobs(fields: &Fields<'_>) -> Result<Option<u8>, BadField> {
    let wanted = fields.flag("logprobs", false)?;
    let top = fields.read("top_logprobs", |field| field.count(0..=TOP))?;
    if let (false, Some(1..)) = (wanted, top) {
        return Err(BadField::new("top_logprobs", "needs `logprobs` to be true"));
    }
    Ok(wanted.then(|| u8::try_from(top.unwrap_or(0)).unwrap_or(0)))
}

fn choice(fields: &Fields<'_>) -> Result<ToolChoice, BadField> {
    let Some(field) = fields.get("tool_choice") else { return Ok(ToolChoice::Auto) };
    if field.value.is_string() {
        let word = field.one_of(&[("auto", 0), ("none", 1), ("required", 2), ("any", 2)])?;
        return Ok([ToolChoice::Auto, ToolChoice::None, ToolChoice::Required][word].clone());
    }
    let expected = "\"auto\", \"none\", \"required\" or an object with `function.name`";
    let Value::Object(map) = field.value else { return Err(field.wrong(expected)) };
    let fields = Fields { map, path: field.path.clone() };
    if let Some(allowed) = fields.get("allowed_tools") {
        let allowed = allowed.object()?;
        let mut names = Vec::new();
        for tool in allowed.need("tools", "a list of tools")?.list()? {
            let function = tool.object()?.need("function", "an object")?.object()?;
            names.push(function.need("name", "a string")?.string()?.to_owned());
        }
        return Ok(ToolChoice::Named(names));
    }
    let function = fields.need("function", "an object with `name`")?.object()?;
    Ok(ToolChoice::Named(vec![function.need("name", "the name of a tool")?.string()?.to_owned()]))
}

/// Declarations of tools.
pub(in super::super) fn tools(field: &Field<'_>) -> Result<Vec<Value>, BadField> {
    field
        .list()?
        .map(|tool| {
            let tool = tool.object()?;
            if let Some(kind) = tool.get("type") {
                kind.one_of(&[("function", ())])?;
            }
            let function = tool.need("function", "an object with `name` and `parameters`")?.object()?;
            let description = function.read("description", |field| field.string())?;
            settings::tool(&function.need("name", "a string")?, description, function.get("parameters"))
        })
        .collect()
}

/// Messages of a dialogue.
pub(in super::super) fn messages(field: &Field<'_>) -> Result<Vec<Message>, BadField> {
    let items = field.list()?;
    if items.len() == 0 {
        return Err(field.wrong("at least one message"));
    }
    items.map(|item| message(&item.object()?)).collect()
}

fn message(fields: &Fields<'_>) -> Result<Message, BadField> {
    let role = fields.need("role", "who speaks")?.one_of(&[
        ("user", Role::User),
        ("assistant", Role::Assistant),
        ("system", Role::System),
        ("developer", Role::Developer),
        ("tool", Role::Tool),
    ])?;
    let calls = match fields.get("tool_calls") {
        Some(calls) => calls.list()?.map(|call| tool_call(&call.object()?)).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let content = fields.read("content", |field| content(&field))?;
    if content.is_none() && role != Role::Assistant {
        return Err(fields
            .need("content", "a string or a list of parts")
            .err()
            .unwrap_or_else(|| BadField::new(fields.path.clone(), "`content` is missing")));
    }
    let text = |field: Field<'_>| field.string().map(str::to_owned);
    Ok(Message {
        role,
        content,
        reasoning_content: fields.any(&["reasoning_content", "reasoning"]).map(text).transpose()?,
        tool_calls: calls,
        tool_call_id: fields.read("tool_call_id", text)?,
        name: fields.read("name", text)?,
    })
}

fn content(field: &Field<'_>) -> Result<Content, BadField> {
    match field.value {
        Value::String(text) => Ok(Content::Text(text.clone())),
        Value::Array(_) => {
            let kinds = ["text", "input_text", "output_text", "refusal"];
            let part = |part| Ok(Part::Text { text: settings::part_text(part, &kinds)?.to_owned() });
            Ok(Content::Parts(field.list()?.map(part).collect::<Result<_, BadField>>()?))
        }
        _ => Err(field.wrong("a string or a list of parts")),
    }
}

fn tool_call(fields: &Fields<'_>) -> Result<ToolCall, BadField> {
    let function = fields.need("function", "an object with `name` and `arguments`")?.object()?;
    Ok(ToolCall {
        id: fields.read("id", |field| field.string().map(str::to_owned))?,
        function: FunctionCall {
            name: function.need("name", "a string")?.string()?.to_owned(),
            arguments: settings::arguments(function.get("arguments"))?,
        },
    })
}
