//! `/v1/messages` and `/v1/messages/count_tokens`: Anthropic's interface.

mod read;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use serde_json::{Value, json};

use super::error::{ApiError, Vendor};
use super::fields::Fields;
use super::record::Record;
use super::settings::Defaults;
use super::{Answer, Shared, answer, blocking, ids, reply, sse, usage};
use crate::serve::dialogue::{Call, Choice, Ended, Finish, Piece, Source};

pub(super) use read::read;

/// What is sent into silence: clients take it for a sign of life, and the standard's comments not always.
const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

/// Thoughts must be signed for Anthropic's own servers. This one checks no signatures.
const SIGNATURE: &str = "gemma4";

pub(super) async fn handle(
    State(app): State<Shared>,
    Extension(record): Extension<Record>,
    request: Request,
) -> Response<Body> {
    answer(&record, Vendor::Anthropic, respond(app, record.clone(), request).await)
}

pub(super) async fn count_tokens(
    State(app): State<Shared>,
    Extension(record): Extension<Record>,
    request: Request,
) -> Response<Body> {
    answer(&record, Vendor::Anthropic, count(app, request).await)
}

async fn count(app: Shared, request: Request) -> Answer {
    let body = app.json(request).await?;
    let dialogue = read::dialogue(&Fields::of(&body)?, app.model.think)?.0;
    let (tokens, ..) = blocking(move || app.model.prompt(&Source::Dialogue(dialogue))).await??;
    Ok(reply(&json!({ "input_tokens": tokens.len() })))
}

async fn respond(app: Shared, record: Record, request: Request) -> Answer {
    let body = app.json(request).await?;
    let read::Asked { ask, stream } = read(&Fields::of(&body)?, &Defaults::of(&app.model))?;
    drop(body);
    let prepared = app.prepare(ask).await?;
    let choice = app.submit(&prepared, 1)?.remove(0);
    let id = ids::fresh("msg_");
    if stream {
        return Ok(sse::respond(|events| streamed(app, record, choice, id, events)));
    }
    let whole = choice.whole(&app.model.speaker.tokenizer, || record.first_token()).await?;
    app.count(&record, &whole.ended);
    let mut content = Vec::new();
    if !whole.reasoning.is_empty() {
        content.push(json!({ "type": "thinking", "thinking": whole.reasoning, "signature": SIGNATURE }));
    }
    if !whole.content.is_empty() {
        content.push(json!({ "type": "text", "text": whole.content }));
    }
    for call in whole.calls {
        let input: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        content.push(json!({ "type": "tool_use", "id": tool_id(&call), "name": call.name, "input": input }));
    }
    let (reason, sequence) = stop_reason(&whole.ended);
    let mut message = begun(&id, &app.model.name, &usage::anthropic(&whole.ended));
    message["content"] = content.into();
    message["stop_reason"] = reason.into();
    message["stop_sequence"] = sequence;
    Ok(reply(&message))
}

fn begun(id: &str, model: &str, usage: &Value) -> Value {
    json!({
        "id": id, "type": "message", "role": "assistant", "model": model,
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
    })
}

/// Calls have names of this vendor's form.
fn tool_id(call: &Call) -> String {
    call.id.replacen("call_", "toolu_", 1)
}

fn stop_reason(ended: &Ended) -> (&'static str, Value) {
    match &ended.finish {
        Finish::Stop => ("end_turn", Value::Null),
        Finish::StopString(text) => ("stop_sequence", text.clone().into()),
        Finish::Length => ("max_tokens", Value::Null),
        Finish::ToolCalls => ("tool_use", Value::Null),
    }
}

/// What kind of block is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
}

/// Writes blocks one after the other.
struct Blocks {
    events: sse::Events,
    open: Option<Block>,
    index: usize,
}

impl Blocks {
    async fn delta(&self, delta: &Value) -> Result<(), sse::Gone> {
        let event = json!({ "type": "content_block_delta", "index": self.index, "delta": delta });
        self.events.event("content_block_delta", &event).await
    }

    async fn start(&self, block: &Value) -> Result<(), sse::Gone> {
        let event = json!({ "type": "content_block_start", "index": self.index, "content_block": block });
        self.events.event("content_block_start", &event).await
    }

    async fn stop(&mut self) -> Result<(), sse::Gone> {
        let event = json!({ "type": "content_block_stop", "index": self.index });
        self.index += 1;
        self.events.event("content_block_stop", &event).await
    }

    async fn close(&mut self) -> Result<(), sse::Gone> {
        match self.open.take() {
            Some(Block::Thinking) => {
                self.delta(&json!({ "type": "signature_delta", "signature": SIGNATURE })).await?;
                self.stop().await
            }
            Some(Block::Text) => self.stop().await,
            None => Ok(()),
        }
    }

    async fn enter(&mut self, block: Block) -> Result<(), sse::Gone> {
        if self.open == Some(block) {
            return Ok(());
        }
        self.close().await?;
        self.open = Some(block);
        self.start(&match block {
            Block::Thinking => json!({ "type": "thinking", "thinking": "", "signature": "" }),
            Block::Text => json!({ "type": "text", "text": "" }),
        })
        .await
    }

    async fn call(&mut self, call: &Call) -> Result<(), sse::Gone> {
        self.close().await?;
        self.start(&json!({ "type": "tool_use", "id": tool_id(call), "name": call.name, "input": {} }))
            .await?;
        self.delta(&json!({ "type": "input_json_delta", "partial_json": call.arguments })).await?;
        self.stop().await
    }
}

async fn streamed(
    app: Shared,
    record: Record,
    mut choice: Choice,
    id: String,
    events: sse::Events,
) -> Result<(), sse::Gone> {
    let tokenizer = &app.model.speaker.tokenizer;
    let mut blocks = Blocks { events, open: None, index: 0 };
    loop {
        let Some(piece) = blocks.events.wait(choice.next(tokenizer)).await? else { return Ok(()) };
        match piece {
            Piece::Started(reuse) => {
                let message = begun(&id, &app.model.name, &usage::started(&reuse));
                let event = json!({ "type": "message_start", "message": message });
                blocks.events.event("message_start", &event).await?;
                // Comments until here, for this must be the first event.
                blocks.events.alive(PING);
            }
            Piece::Prefill { done, total } => {
                let event =
                    json!({ "type": "ping", "prompt_progress": { "processed": done, "total": total } });
                blocks.events.event("ping", &event).await?;
            }
            Piece::Reasoning(text) => {
                record.first_token();
                blocks.enter(Block::Thinking).await?;
                blocks.delta(&json!({ "type": "thinking_delta", "thinking": text })).await?;
            }
            Piece::Content(text, _) => {
                record.first_token();
                if !text.is_empty() {
                    blocks.enter(Block::Text).await?;
                    blocks.delta(&json!({ "type": "text_delta", "text": text })).await?;
                }
            }
            Piece::Call(call) => {
                record.first_token();
                blocks.call(&call).await?;
            }
            Piece::Finished(Ok(ended)) => {
                app.count(&record, &ended);
                blocks.close().await?;
                let (reason, sequence) = stop_reason(&ended);
                let delta = json!({ "stop_reason": reason, "stop_sequence": sequence });
                let event =
                    json!({ "type": "message_delta", "delta": delta, "usage": usage::anthropic(&ended) });
                blocks.events.event("message_delta", &event).await?;
                return blocks.events.event("message_stop", &json!({ "type": "message_stop" })).await;
            }
            Piece::Finished(Err(failed)) => {
                let error = ApiError::from(failed);
                record.failed(error.code.unwrap_or("failed"));
                blocks.close().await?;
                return blocks.events.event("error", &error.body(Vendor::Anthropic)).await;
            }
        }
    }
}
