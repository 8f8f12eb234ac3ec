//! Responses and the events that announce them.

use gemma4_core::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};

use super::super::error::{ApiError, Vendor};
use super::super::fields::Fields;
use super::super::record::unix_time;
use super::super::sse::{Events, Gone};
use super::super::{chat, ids, usage};
use super::items::{Item, Items};
use super::read::Asked;
use crate::serve::dialogue::{Call, Ended, Finish, TokenLog};

/// Keys of a request that a response repeats.
const REPEATED: [&str; 17] = [
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "store",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
];

/// What all forms of a response share.
#[derive(Clone, Debug)]
pub(super) struct Head {
    response: Map<String, Value>,
}

impl Head {
    pub(super) fn new(model: &str, fields: &Fields<'_>, asked: &Asked) -> Self {
        let mut response = Map::new();
        let mut put = |key: &str, value: Value| {
            response.insert(key.to_owned(), value);
        };
        put("id", ids::fresh("resp_").into());
        put("object", "response".into());
        put("created_at", unix_time().into());
        put("status", "in_progress".into());
        put("background", false.into());
        put("error", Value::Null);
        put("incomplete_details", Value::Null);
        put("model", model.into());
        put("output", Value::Array(Vec::new()));
        put("usage", Value::Null);
        put("truncation", "disabled".into());
        for key in REPEATED {
            put(key, fields.map.get(key).cloned().unwrap_or(Value::Null));
        }
        let or = |response: &mut Map<String, Value>, key: &str, value: Value| {
            if response.get(key).is_none_or(Value::is_null) {
                response.insert(key.to_owned(), value);
            }
        };
        let sampling = &asked.ask.sampling;
        or(&mut response, "temperature", sampling.temperature.into());
        or(&mut response, "top_p", sampling.top_p.into());
        or(&mut response, "parallel_tool_calls", true.into());
        or(&mut response, "tool_choice", "auto".into());
        or(&mut response, "tools", Value::Array(Vec::new()));
        or(&mut response, "text", json!({ "format": { "type": "text" } }));
        or(&mut response, "metadata", json!({}));
        or(&mut response, "store", asked.store.into());
        or(&mut response, "reasoning", json!({ "effort": null, "summary": null }));
        Self { response }
    }

    fn with(&self, changes: Value) -> Value {
        let mut response = self.response.clone();
        if let Value::Object(changes) = changes {
            response.extend(changes);
        }
        Value::Object(response)
    }

    /// The response when the model has ended it.
    pub(super) fn ended(&self, items: &Items, ended: &Ended) -> Value {
        let cut = ended.finish == Finish::Length;
        let status = if cut { "incomplete" } else { "completed" };
        self.with(json!({
            "status": status,
            "incomplete_details": if cut { json!({ "reason": "max_output_tokens" }) } else { Value::Null },
            "output": items.json(status),
            "usage": usage::responses(ended),
            "timings": usage::timings(ended),
        }))
    }
}

/// Writes the events of a response that comes in pieces.
pub(super) struct Writer {
    events: Events,
    head: Head,
    items: Items,
    /// Whether the last item may still grow.
    open: bool,
    number: u64,
}

impl Writer {
    pub(super) fn new(events: Events, head: Head) -> Self {
        Self { events, head, items: Items::default(), open: false, number: 0 }
    }

    pub(super) fn events(&self) -> &Events {
        &self.events
    }

    pub(super) fn items(&self) -> &Items {
        &self.items
    }

    async fn send(&mut self, kind: &str, mut data: Value) -> Result<(), Gone> {
        data["type"] = kind.into();
        data["sequence_number"] = self.number.into();
        self.number += 1;
        self.events.event(kind, &data).await
    }

    pub(super) async fn created(&mut self) -> Result<(), Gone> {
        for kind in ["response.created", "response.in_progress"] {
            let response = self.head.with(json!({}));
            self.send(kind, json!({ "response": response })).await?;
        }
        Ok(())
    }

    /// How far the prompt is: an event of ours, sent only to who asks for it.
    pub(super) async fn progress(&mut self, done: usize, total: usize) -> Result<(), Gone> {
        let progress = json!({ "prompt_progress": { "processed": done, "total": total } });
        self.send("response.prompt_progress", progress).await
    }

    fn at(&self) -> usize {
        self.items.0.len().saturating_sub(1)
    }

    /// A new item begins.
    async fn add(&mut self, item: Item) -> Result<(), Gone> {
        self.close().await?;
        let mut shown = item.json("in_progress");
        let part = item.part();
        match &item {
            Item::Call { .. } => shown["arguments"] = "".into(),
            _ => shown["content"] = Value::Array(Vec::new()),
        }
        let id = item.id().to_owned();
        self.items.0.push(item);
        self.open = true;
        let at = self.at();
        self.send("response.output_item.added", json!({ "output_index": at, "item": shown })).await?;
        if part.is_null() {
            return Ok(());
        }
        let event = json!({ "item_id": id, "output_index": at, "content_index": 0, "part": part });
        self.send("response.content_part.added", event).await
    }

    /// The last item is complete.
    async fn close(&mut self) -> Result<(), Gone> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        let at = self.at();
        let Some(item) = self.items.0.last().cloned() else { return Ok(()) };
        let id = item.id();
        match &item {
            Item::Reasoning { text, .. } => {
                let event = json!({ "item_id": id, "output_index": at, "content_index": 0, "text": text });
                self.send("response.reasoning_text.done", event).await?;
            }
            Item::Message { text, logs, .. } => {
                let event = json!({ "item_id": id, "output_index": at, "content_index": 0, "text": text, "logprobs": logs });
                self.send("response.output_text.done", event).await?;
            }
            Item::Call { call, .. } => {
                let event = json!({ "item_id": id, "output_index": at, "name": call.name, "arguments": call.arguments });
                self.send("response.function_call_arguments.done", event).await?;
            }
        }
        if !item.part().is_null() {
            let event = json!({ "item_id": id, "output_index": at, "content_index": 0, "part": item.part() });
            self.send("response.content_part.done", event).await?;
        }
        let event = json!({ "output_index": at, "item": item.json("completed") });
        self.send("response.output_item.done", event).await
    }

    pub(super) async fn reasoning(&mut self, more: &str) -> Result<(), Gone> {
        if !self.open || !matches!(self.items.0.last(), Some(Item::Reasoning { .. })) {
            self.add(Item::reasoning(String::new())).await?;
        }
        let at = self.at();
        let Some(Item::Reasoning { id, text }) = self.items.0.last_mut() else { return Ok(()) };
        text.push_str(more);
        let event = json!({ "item_id": id, "output_index": at, "content_index": 0, "delta": more });
        self.send("response.reasoning_text.delta", event).await
    }

    pub(super) async fn text(
        &mut self,
        more: &str,
        new: &[TokenLog],
        tokenizer: &Tokenizer,
    ) -> Result<(), Gone> {
        if !self.open || !matches!(self.items.0.last(), Some(Item::Message { .. })) {
            self.add(Item::message(String::new(), &[], tokenizer)).await?;
        }
        let at = self.at();
        let Some(Item::Message { id, text, logs }) = self.items.0.last_mut() else { return Ok(()) };
        let new: Vec<Value> = new.iter().map(|log| chat::log_entry(log, tokenizer)).collect();
        text.push_str(more);
        logs.extend(new.iter().cloned());
        let event =
            json!({ "item_id": id, "output_index": at, "content_index": 0, "delta": more, "logprobs": new });
        self.send("response.output_text.delta", event).await
    }

    pub(super) async fn call(&mut self, call: Call) -> Result<(), Gone> {
        let arguments = call.arguments.clone();
        self.add(Item::call(call)).await?;
        let id = self.items.0.last().map(|item| item.id().to_owned());
        let event = json!({ "item_id": id, "output_index": self.at(), "delta": arguments });
        self.send("response.function_call_arguments.delta", event).await?;
        self.close().await
    }

    /// Closes the last item; the response as it stands now.
    pub(super) async fn ended(&mut self, ended: &Ended) -> Result<Value, Gone> {
        self.close().await?;
        Ok(self.head.ended(&self.items, ended))
    }

    /// The last event.
    pub(super) async fn finish(&mut self, response: &Value, ended: &Ended) -> Result<(), Gone> {
        let cut = ended.finish == Finish::Length;
        let kind = if cut { "response.incomplete" } else { "response.completed" };
        self.send(kind, json!({ "response": response })).await
    }

    /// The last event of a response that failed.
    pub(super) async fn failed(&mut self, error: &ApiError) -> Result<(), Gone> {
        self.close().await?;
        let body = error.body(Vendor::OpenAi);
        let code = error.code.unwrap_or("server_error");
        let response = self.head.with(json!({
            "status": "failed",
            "error": { "code": code, "message": body["error"]["message"] },
            "output": self.items.json("incomplete"),
        }));
        self.send("response.failed", json!({ "response": response })).await
    }
}
