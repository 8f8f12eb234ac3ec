//! Messages of a dialogue, shaped like OpenAI's chat completions: the form that the other interfaces are mapped to.

use std::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ChatError;

/// Arrays and objects inside one another in a tool's declaration, in arguments or in extra variables.
/// JSON text cannot be deeper than 128 for the library that reads it; templates recurse on every level.
const MAX_DEPTH: usize = 64;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions that stand above the dialogue.
    System,
    /// The later name of [`Role::System`]: templates see `system`.
    Developer,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a call, after the assistant message that asked for it.
    Tool,
}

/// One part of a message's content. The model reads text: any other part is refused when it is deserialized.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Part {
    /// Text.
    #[serde(alias = "input_text", alias = "output_text")]
    Text {
        /// The text itself.
        text: String,
    },
}

/// What a message says: one string or a list of parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// One string.
    Text(String),
    /// Parts in order; templates trim each and write them one after the other.
    Parts(Vec<Part>),
}

impl Content {
    /// All text, parts joined by nothing.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => parts.iter().map(|Part::Text { text }| text.as_str()).collect(),
        }
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

// By hand, because a derived untagged enum hides which part was wrong.
impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrParts;

        impl<'de> Visitor<'de> for TextOrParts {
            type Value = Content;

            fn expecting(&self, out: &mut fmt::Formatter) -> fmt::Result {
                out.write_str("a string or a list of content parts")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(text.into())
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Content, E> {
                Ok(text.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = items.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }

        deserializer.deserialize_any(TextOrParts)
    }
}

/// A function's name and the arguments it is called with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// Name of the function, any characters but `{` and `(`.
    pub name: String,
    /// Arguments by name. Read from an object, or from a string that holds one (OpenAI's form): templates print
    /// the object.
    #[serde(default, deserialize_with = "arguments")]
    pub arguments: Map<String, Value>,
}

fn arguments<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    let value = match Value::deserialize(deserializer)? {
        Value::String(text) if text.trim().is_empty() => Value::Null,
        Value::String(text) => serde_json::from_str(&text)
            .map_err(|err| de::Error::custom(format!("arguments are not a JSON object: {err}")))?,
        value => value,
    };
    match value {
        Value::Null => Ok(Map::new()),
        Value::Object(map) => Ok(map),
        other => Err(de::Error::custom(format!("arguments are {}, expected a JSON object", kind(&other)))),
    }
}

/// What a JSON value is, for messages.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A call in an assistant message.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ToolCall {
    /// What the tool message that answers names; absent in hand-written dialogues.
    #[serde(default)]
    pub id: Option<String>,
    /// The function and its arguments.
    pub function: FunctionCall,
}

impl Serialize for ToolCall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("ToolCall", 3)?;
        if let Some(id) = &self.id {
            out.serialize_field("id", id)?;
        }
        out.serialize_field("type", "function")?;
        out.serialize_field("function", &self.function)?;
        out.end()
    }
}

/// One message of a dialogue. Fields that are not listed here are ignored when reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said. Absent (not null) for templates when `None`: one that prints it then prints nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// What the model thought before it answered. Clients must send it back with the calls of the current turn,
    /// or the prompt differs from what the model wrote.
    #[serde(default, alias = "reasoning", skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls the model made, in order.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// For [`Role::Tool`]: the [`ToolCall::id`] answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// For [`Role::Tool`]: the function that answered, where ids are not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Message {
    /// A message that only says something.
    pub fn new(role: Role, content: impl Into<Content>) -> Self {
        Self {
            role,
            content: Some(content.into()),
            reasoning_content: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
        }
    }

    /// All text of [`Message::content`].
    #[must_use]
    pub fn text(&self) -> String {
        self.content.as_ref().map(Content::text).unwrap_or_default()
    }
}

/// Everything a prompt is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dialogue {
    /// Messages in order.
    pub messages: Vec<Message>,
    /// Declarations of tools, each `{"type": "function", "function": {"name", "description", "parameters"}}`.
    pub tools: Vec<Value>,
    /// Ask the model to think before it answers.
    pub enable_thinking: bool,
    /// End the prompt where the model begins to speak.
    pub add_generation_prompt: bool,
    /// More variables for the template (`chat_template_kwargs` of other servers). The fields above win.
    pub extra: Map<String, Value>,
}

impl Dialogue {
    /// Messages that the model is to answer.
    #[must_use]
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, add_generation_prompt: true, ..Self::default() }
    }

    /// Refuses what a template would drop or garble without a word.
    pub(super) fn check(&self) -> Result<(), ChatError> {
        let mut calls_before = false;
        for (index, message) in self.messages.iter().enumerate() {
            let wrong = |reason: String| Err(ChatError::Message { index, reason });
            match message.role {
                Role::Tool if !calls_before => {
                    return wrong("role `tool` must follow an assistant message with tool_calls".into());
                }
                Role::Tool => {}
                Role::Assistant => calls_before = !message.tool_calls.is_empty(),
                _ => calls_before = false,
            }
            if message.role != Role::Assistant && !message.tool_calls.is_empty() {
                return wrong("tool_calls are found outside an assistant message".into());
            }
            for call in &message.tool_calls {
                let FunctionCall { name, arguments } = &call.function;
                if let Some(why) = bad_name(name) {
                    return wrong(format!("the call of `{name}` {why}"));
                }
                if arguments.values().any(|value| deeper_than(value, MAX_DEPTH)) {
                    return wrong(format!("arguments of `{name}` are nested deeper than {MAX_DEPTH} levels"));
                }
            }
        }
        for (index, tool) in self.tools.iter().enumerate() {
            let wrong = |reason: String| Err(ChatError::Tool { index, reason });
            if let Some(other) = tool.get("type").filter(|kind| *kind != "function") {
                return wrong(format!("type is {other}, expected \"function\""));
            }
            let Some(function) = tool.get("function").and_then(Value::as_object) else {
                return wrong(
                    "`function` is missing, expected an object with `name` and `parameters`".into(),
                );
            };
            let Some(name) = function.get("name").and_then(Value::as_str) else {
                return wrong("`function.name` is missing, expected a string".into());
            };
            if let Some(why) = bad_name(name) {
                return wrong(format!("`{name}` {why}"));
            }
            if let Some(parameters) = function.get("parameters").filter(|p| !p.is_object() && !p.is_null()) {
                return wrong(format!("parameters of `{name}` are {}, expected an object", kind(parameters)));
            }
            if deeper_than(tool, MAX_DEPTH) {
                return wrong(format!("`{name}` is nested deeper than {MAX_DEPTH} levels"));
            }
        }
        if self.extra.values().any(|value| deeper_than(value, MAX_DEPTH)) {
            return Err(ChatError::Template {
                line: None,
                reason: format!("an extra variable is nested deeper than {MAX_DEPTH} levels"),
            });
        }
        Ok(())
    }
}

/// What keeps `name` from being read back out of a call; `None` if it is fine.
fn bad_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("has an empty name")
    } else if name.contains(['{', '(', '\n']) || name.contains("<|") || name.trim() != name {
        Some("has a name with `{`, `(`, `<|` or outer white space, which a call cannot spell")
    } else {
        None
    }
}

/// Recurses at most `limit` levels deep, whatever the value's own depth.
fn deeper_than(value: &Value, limit: usize) -> bool {
    let mut inside: Box<dyn Iterator<Item = &Value>> = match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(map) => Box::new(map.values()),
        _ => return false,
    };
    match limit.checked_sub(1) {
        None => true,
        Some(limit) => inside.any(|value| deeper_than(value, limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn openai_messages_are_read() {
        let message: Message = serde_json::from_value(json!({
            "role": "assistant", "content": null, "refusal": null, "reasoning": "hm",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}],
        }))
        .unwrap();
        assert_eq!(message.content, None);
        assert_eq!(message.reasoning_content.as_deref(), Some("hm"));
        assert_eq!(
            serde_json::to_value(&message.tool_calls).unwrap(),
            json!([{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}])
        );

        let message: Message = serde_json::from_value(json!({
            "role": "user", "tool_calls": null,
            "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}],
        }))
        .unwrap();
        assert_eq!(message.text(), "ab");
    }

    #[test]
    fn empty_and_absent_arguments_are_no_arguments() {
        for call in [
            json!({"name": "f"}),
            json!({"name": "f", "arguments": ""}),
            json!({"name": "f", "arguments": null}),
        ] {
            let call: FunctionCall = serde_json::from_value(call).unwrap();
            assert!(call.arguments.is_empty());
        }
    }

    #[test]
    fn what_cannot_be_a_message_says_why() {
        let read = |value: Value| serde_json::from_value::<Message>(value).unwrap_err().to_string();
        let with_arguments = |arguments: Value| json!({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]});
        for (value, part) in [
            (json!({"role": "robot", "content": "x"}), "unknown variant `robot`"),
            (json!({"role": "user", "content": 3}), "a string or a list of content parts"),
            (
                json!({"role": "user", "content": [{"type": "image_url"}]}),
                "unknown variant `image_url`, expected",
            ),
            (with_arguments(json!("{x: 1}")), "arguments are not a JSON object: key must be a string"),
            (with_arguments(json!([1])), "arguments are an array, expected a JSON object"),
        ] {
            let message = read(value);
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn dialogues_that_templates_would_garble_are_refused() {
        let tool_first = vec![Message::new(Role::User, "hi"), Message::new(Role::Tool, "42")];
        let error = Dialogue::new(tool_first).check().unwrap_err().to_string();
        assert!(error.starts_with("message 1: role `tool` must follow"), "{error}");

        let mut deep = json!(1);
        for _ in 0..70 {
            deep = json!([deep]);
        }
        for (tool, part) in [
            (json!({"type": "web_search"}), "type is \"web_search\""),
            (json!({"type": "function"}), "`function` is missing"),
            (json!({"function": {"description": "x"}}), "`function.name` is missing"),
            (json!({"function": {"name": "a{b"}}), "`a{b` has a name with"),
            (json!({"function": {"name": "f", "parameters": []}}), "parameters of `f` are an array"),
            (json!({"function": {"name": "f", "parameters": {"x": deep}}}), "deeper than 64"),
        ] {
            let dialogue = Dialogue { tools: vec![tool], ..Dialogue::default() };
            let error = dialogue.check().unwrap_err().to_string();
            assert!(error.starts_with("tool 0: ") && error.contains(part), "{error}");
        }
    }
}
