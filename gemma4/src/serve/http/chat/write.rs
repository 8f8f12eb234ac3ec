//! Chat completions and their chunks.

use gemma4_core::tokenizer::{Markup, Tokenizer};
use serde_json::{Value, json};

use super::super::record::unix_time;
use super::super::{ids, usage};
use crate::serve::dialogue::{Call, Ended, Model, TokenLog, Whole};

/// What makes two answers comparable.
pub(in super::super) const FINGERPRINT: &str = concat!("gemma4-", env!("CARGO_PKG_VERSION"));

/// What all chunks of a response begin with.
#[derive(Clone, Debug)]
pub(super) struct Head {
    id: String,
    created: u64,
    model: String,
}

impl Head {
    pub(super) fn new(model: &str) -> Self {
        Self { id: ids::fresh("chatcmpl-"), created: unix_time(), model: model.to_owned() }
    }

    fn object(&self, kind: &str, choices: &Value) -> Value {
        json!({
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }

    fn chunk(&self, index: usize, delta: &Value, logprobs: &Value, finish: Option<&str>) -> Value {
        let choice = json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish });
        self.object("chat.completion.chunk", &json!([choice]))
    }

    fn delta(&self, index: usize, delta: &Value) -> Value {
        self.chunk(index, delta, &Value::Null, None)
    }

    pub(super) fn role(&self, index: usize) -> Value {
        self.delta(index, &json!({ "role": "assistant", "content": "" }))
    }

    /// How far the prompt is, in llama.cpp's field.
    pub(super) fn progress(&self, done: usize, total: usize) -> Value {
        let mut chunk = self.object("chat.completion.chunk", &json!([]));
        chunk["prompt_progress"] = json!({ "processed": done, "total": total });
        chunk
    }

    pub(super) fn reasoning(&self, index: usize, text: &str) -> Value {
        self.delta(index, &json!({ "reasoning_content": text }))
    }

    pub(super) fn content(
        &self,
        index: usize,
        text: &str,
        logs: &[TokenLog],
        tokenizer: &Tokenizer,
    ) -> Value {
        self.chunk(index, &json!({ "content": text }), &log_probs(logs, tokenizer), None)
    }

    /// The name first and then the arguments, as the vendor does.
    pub(super) fn call(&self, index: usize, call: &Call) -> [Value; 2] {
        let delta = |call: Value| self.delta(index, &json!({ "tool_calls": [call] }));
        [
            delta(json!({
                "index": call.index, "id": call.id, "type": "function",
                "function": { "name": call.name, "arguments": "" },
            })),
            delta(json!({ "index": call.index, "function": { "arguments": call.arguments } })),
        ]
    }

    pub(super) fn end(&self, index: usize, ended: &Ended) -> Value {
        let mut chunk = self.chunk(index, &json!({}), &Value::Null, Some(ended.finish.word()));
        chunk["timings"] = usage::timings(ended);
        chunk
    }

    pub(super) fn usage(&self, ends: &[Ended]) -> Value {
        let mut chunk = self.object("chat.completion.chunk", &json!([]));
        chunk["usage"] = usage::openai(ends);
        chunk
    }

    /// A response in one piece.
    pub(super) fn whole(&self, model: &Model, answers: Vec<Whole>) -> Value {
        let ends: Vec<Ended> = answers.iter().map(|answer| answer.ended.clone()).collect();
        let choices: Vec<Value> = answers
            .into_iter()
            .enumerate()
            .map(|(index, answer)| {
                let logprobs = log_probs(&answer.logs, &model.speaker.tokenizer);
                let finish = answer.ended.finish.word();
                json!({ "index": index, "message": message(answer), "logprobs": logprobs, "finish_reason": finish })
            })
            .collect();
        let mut object = self.object("chat.completion", &Value::Array(choices));
        object["usage"] = usage::openai(&ends);
        if let Some(first) = ends.first() {
            object["timings"] = usage::timings(first);
        }
        object
    }
}

fn message(answer: Whole) -> Value {
    let silent = answer.content.is_empty() && !answer.calls.is_empty();
    let content = if silent { Value::Null } else { answer.content.into() };
    let mut message = json!({ "role": "assistant", "content": content, "refusal": null });
    if !answer.reasoning.is_empty() {
        message["reasoning_content"] = answer.reasoning.into();
    }
    if !answer.calls.is_empty() {
        let call = |call: Call| {
            json!({
                "id": call.id, "type": "function",
                "function": { "name": call.name, "arguments": call.arguments },
            })
        };
        message["tool_calls"] = answer.calls.into_iter().map(call).collect();
    }
    message
}

/// `logprobs` of a choice; `null` if there are none.
fn log_probs(logs: &[TokenLog], tokenizer: &Tokenizer) -> Value {
    if logs.is_empty() {
        return Value::Null;
    }
    let content: Vec<Value> = logs.iter().map(|log| log_entry(log, tokenizer)).collect();
    json!({ "content": content, "refusal": null })
}

/// A token with the most likely ones at its place.
pub(in super::super) fn log_entry(log: &TokenLog, tokenizer: &Tokenizer) -> Value {
    let entry = |id: u32, logprob: f32| {
        json!({
            "token": tokenizer.decode(&[id], Markup::Show),
            "logprob": finite(logprob),
            "bytes": tokenizer.token_bytes(id),
        })
    };
    let mut found = entry(log.id, log.logprob);
    found["top_logprobs"] = log.top.iter().map(|&(id, logprob)| entry(id, logprob)).collect();
    found
}

/// JSON has no infinity; the vendor writes -9999.
pub(in super::super) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}
