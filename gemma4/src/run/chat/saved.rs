//! What of a chat is saved beside its cache.

use gemma4_core::chat::{Dialogue, Message};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Enough to go on where the cache cannot be used.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    messages: Vec<Message>,
    #[serde(default)]
    tools: Vec<Value>,
    #[serde(default)]
    think: bool,
}

impl Saved {
    /// What is worth saving of a dialogue.
    pub(super) fn of(dialogue: &Dialogue) -> Self {
        Self {
            messages: dialogue.messages.clone(),
            tools: dialogue.tools.clone(),
            think: dialogue.enable_thinking,
        }
    }

    /// As JSON.
    pub(super) fn to_json(&self) -> serde_json::Result<Value> {
        serde_json::to_value(self)
    }

    /// From JSON.
    pub(super) fn from_json(value: Value) -> serde_json::Result<Self> {
        serde_json::from_value(value)
    }

    /// Puts it in place of what `dialogue` had.
    pub(super) fn into(self, dialogue: &mut Dialogue) {
        dialogue.messages = self.messages;
        dialogue.tools = self.tools;
        dialogue.enable_thinking = self.think;
    }
}
