//! What a response consists of.

use gemma4_core::chat::{Content, FunctionCall, Message, Role, ToolCall};
use gemma4_core::tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::super::{chat, ids};
use crate::serve::dialogue::{Call, TokenLog, Whole};

/// An item of the output.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// Thoughts.
    Reasoning {
        /// Its name.
        id: String,
        /// The thoughts.
        text: String,
    },
    /// The answer.
    Message {
        /// Its name.
        id: String,
        /// The answer.
        text: String,
        /// Its tokens.
        logs: Vec<Value>,
    },
    /// A call of a tool.
    Call {
        /// Its name.
        id: String,
        /// The call.
        call: Call,
    },
}

impl Item {
    pub(super) fn reasoning(text: String) -> Self {
        Self::Reasoning { id: ids::fresh("rs_"), text }
    }

    pub(super) fn message(text: String, logs: &[TokenLog], tokenizer: &Tokenizer) -> Self {
        let logs = logs.iter().map(|log| chat::log_entry(log, tokenizer)).collect();
        Self::Message { id: ids::fresh("msg_"), text, logs }
    }

    pub(super) fn call(call: Call) -> Self {
        Self::Call { id: ids::fresh("fc_"), call }
    }

    pub(super) fn id(&self) -> &str {
        match self {
            Self::Reasoning { id, .. } | Self::Message { id, .. } | Self::Call { id, .. } => id,
        }
    }

    /// As responses show it.
    pub(super) fn json(&self, status: &str) -> Value {
        match self {
            Self::Reasoning { id, text } => json!({
                "id": id, "type": "reasoning", "summary": [], "encrypted_content": null, "status": status,
                "content": [{ "type": "reasoning_text", "text": text }],
            }),
            Self::Message { id, .. } => json!({
                "id": id, "type": "message", "role": "assistant", "status": status, "content": [self.part()],
            }),
            Self::Call { id, call } => json!({
                "id": id, "type": "function_call", "status": status,
                "call_id": call.id, "name": call.name, "arguments": call.arguments,
            }),
        }
    }

    /// The one part that thoughts and answers have.
    pub(super) fn part(&self) -> Value {
        match self {
            Self::Reasoning { text, .. } => json!({ "type": "reasoning_text", "text": text }),
            Self::Message { text, logs, .. } => {
                json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": logs })
            }
            Self::Call { .. } => Value::Null,
        }
    }
}

/// The items of a response, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Items(pub(super) Vec<Item>);

impl Items {
    /// Those of a complete answer.
    pub(super) fn whole(whole: Whole, tokenizer: &Tokenizer) -> Self {
        let mut items = Vec::new();
        if !whole.reasoning.is_empty() {
            items.push(Item::reasoning(whole.reasoning));
        }
        // An answer of nothing is still one.
        if !whole.content.is_empty() || whole.calls.is_empty() {
            items.push(Item::message(whole.content, &whole.logs, tokenizer));
        }
        items.extend(whole.calls.into_iter().map(Item::call));
        Self(items)
    }

    /// As responses show them.
    pub(super) fn json(&self, status: &str) -> Value {
        self.0.iter().map(|item| item.json(status)).collect()
    }

    /// The message that continues the dialogue.
    pub(super) fn message(&self) -> Message {
        let mut message = Message { content: None, ..Message::new(Role::Assistant, "") };
        for item in &self.0 {
            match item {
                Item::Reasoning { text, .. } => message.reasoning_content = Some(text.clone()),
                Item::Message { text, .. } => {
                    let before = message.content.as_ref().map(Content::text).unwrap_or_default();
                    message.content = Some(Content::Text(before + text));
                }
                Item::Call { call, .. } => message.tool_calls.push(ToolCall {
                    id: Some(call.id.clone()),
                    function: FunctionCall {
                        name: call.name.clone(),
                        arguments: serde_json::from_str(&call.arguments).unwrap_or_default(),
                    },
                }),
            }
        }
        message
    }
}
