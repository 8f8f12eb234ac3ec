//! Messages for the templates Gemma 4 was launched with, which know no messages of role `tool`.
//!
//! Those templates print a tool's result only from a field `tool_responses` of the assistant message that made the
//! call, and print a `tool` message as a turn of its own, which no model was trained on. Many model files still
//! carry them. The rewrite is llama.cpp's (`common/chat.cpp`).

use serde_json::{Value, json};

use super::message::{Message, Role};

/// Whether a template is of the launch kind. Those read `tool_responses` and nothing else; the later ones, which look
/// at `tool` messages too, say so in a comment.
pub(super) fn is_outdated(source: &str) -> bool {
    source.contains("'<|tool_call>call:'")
        && source.contains("tool_responses")
        && !source.contains("OpenAI Chat Completions:")
}

/// `values` (the same messages, as templates see them) with each run of tool messages moved into the assistant
/// message before it, and an answer that follows the results moved there too.
pub(super) fn with_tool_responses(messages: &[Message], values: Vec<Value>) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    let mut rest = messages.iter().zip(values).peekable();
    while let Some((message, mut value)) = rest.next() {
        if message.role == Role::Assistant && !message.tool_calls.is_empty() {
            let mut responses = Vec::new();
            while let Some((result, value)) = rest.next_if(|(next, _)| next.role == Role::Tool) {
                let text = result.text();
                let response = serde_json::from_str(&text).unwrap_or(Value::String(text));
                responses.push(json!({ "name": value["name"], "response": response }));
            }
            if !responses.is_empty() {
                value["tool_responses"] = responses.into();
                let answer = rest.next_if(|(next, _)| {
                    next.role == Role::Assistant && next.tool_calls.is_empty() && !next.text().is_empty()
                });
                if let Some((_, mut answer)) = answer {
                    value["content"] = answer["content"].take();
                }
            }
        }
        out.push(value);
    }
    out
}
