//! `/v1/responses`: OpenAI's later interface, the only one that Codex speaks.

mod items;
mod read;
mod store;
mod write;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{Response, StatusCode};
use gemma4_core::chat::Message;
use serde_json::{Value, json};

use super::error::{ApiError, Vendor};
use super::fields::{BadField, Fields};
use super::record::Record;
use super::settings::Defaults;
use super::{Answer, App, Shared, answer, blocking, reply, sse};
use crate::serve::dialogue::{Ask, Choice, Piece, Source};

pub(super) use read::read;
pub(super) use store::Store;

pub(super) async fn handle(
    State(app): State<Shared>,
    Extension(record): Extension<Record>,
    request: Request,
) -> Response<Body> {
    answer(&record, Vendor::OpenAi, respond(app, record.clone(), request).await)
}

/// How many tokens a request's input has.
pub(super) async fn input_tokens(
    State(app): State<Shared>,
    Extension(record): Extension<Record>,
    request: Request,
) -> Response<Body> {
    answer(&record, Vendor::OpenAi, count(app, request).await)
}

/// A response that was kept.
pub(super) async fn get(
    State(app): State<Shared>,
    Extension(record): Extension<Record>,
    Path(id): Path<String>,
) -> Response<Body> {
    answer(&record, Vendor::OpenAi, app.kept(&id, "id").map(|kept| reply(&kept.response)))
}

/// Forgets a response.
pub(super) async fn delete(
    State(app): State<Shared>,
    Extension(record): Extension<Record>,
    Path(id): Path<String>,
) -> Response<Body> {
    let known = app.kept(&id, "id").map(|_| {
        app.store().forget(&id);
        reply(&json!({ "id": id, "object": "response", "deleted": true }))
    });
    answer(&record, Vendor::OpenAi, known)
}

impl App {
    fn store(&self) -> std::sync::MutexGuard<'_, Store> {
        self.responses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn kept(&self, id: &str, key: &str) -> Result<store::Kept, ApiError> {
        self.store().get(id).ok_or_else(|| {
            let shown: String = id.chars().take(60).collect();
            let text =
                format!("there is no response `{shown}`; this server keeps the last few, until it ends");
            let error = ApiError::new(StatusCode::NOT_FOUND, text).code("response_not_found");
            ApiError { param: Some(key.to_owned()), ..error }
        })
    }
}

/// Puts the messages of the response that a request continues in front of its own.
fn continued(app: &App, ask: &mut Ask, previous: Option<&str>) -> Result<(), ApiError> {
    let (Some(id), Source::Dialogue(dialogue)) = (previous, &mut ask.source) else { return Ok(()) };
    let mut messages = app.kept(id, "previous_response_id")?.messages;
    // Instructions are those of the new request alone, which the reader put first.
    let own = std::mem::take(&mut dialogue.messages);
    let (instructions, own): (Vec<Message>, Vec<Message>) =
        if ask_instructions(&own) { (own[..1].to_vec(), own[1..].to_vec()) } else { (Vec::new(), own) };
    dialogue.messages = instructions;
    dialogue.messages.append(&mut messages);
    dialogue.messages.extend(own);
    Ok(())
}

fn ask_instructions(messages: &[Message]) -> bool {
    messages.first().is_some_and(|first| first.name.as_deref() == Some(read::INSTRUCTIONS))
}

async fn count(app: Shared, request: Request) -> Answer {
    let body = app.json(request).await?;
    let mut asked = read(&Fields::of(&body)?, &Defaults::of(&app.model))?;
    continued(&app, &mut asked.ask, asked.previous.as_deref())?;
    let (tokens, ..) = blocking(move || app.model.prompt(&asked.ask.source)).await??;
    Ok(reply(&json!({ "object": "response.input_tokens", "input_tokens": tokens.len() })))
}

async fn respond(app: Shared, record: Record, request: Request) -> Answer {
    let body = app.json(request).await?;
    let fields = Fields::of(&body)?;
    let mut asked = read(&fields, &Defaults::of(&app.model))?;
    continued(&app, &mut asked.ask, asked.previous.as_deref())?;
    let head = write::Head::new(&app.model.name, &fields, &asked);
    drop(body);
    let Source::Dialogue(dialogue) = &asked.ask.source else {
        return Err(BadField::new("input", "is missing").into());
    };
    // Instructions are not part of what later requests continue.
    let messages =
        dialogue.messages.iter().filter(|m| m.name.as_deref() != Some(read::INSTRUCTIONS)).cloned().collect();
    let keep = asked.store.then_some(messages);
    let prepared = app.prepare(asked.ask).await?;
    let choice = app.submit(&prepared, 1)?.remove(0);
    if asked.stream {
        return Ok(sse::respond(|events| streamed(app, record, choice, head, keep, events)));
    }
    let tokenizer = &app.model.speaker.tokenizer;
    let whole = choice.whole(tokenizer, || record.first_token()).await?;
    app.count(&record, &whole.ended);
    let ended = whole.ended.clone();
    let items = items::Items::whole(whole, tokenizer);
    let response = head.ended(&items, &ended);
    app.keep(keep, &items, &response);
    Ok(reply(&response))
}

impl App {
    fn keep(&self, messages: Option<Vec<Message>>, items: &items::Items, response: &Value) {
        if let Some(mut messages) = messages {
            messages.push(items.message());
            self.store().put(store::Kept { messages, response: response.clone() });
        }
    }
}

async fn streamed(
    app: Shared,
    record: Record,
    mut choice: Choice,
    head: write::Head,
    keep: Option<Vec<Message>>,
    events: sse::Events,
) -> Result<(), sse::Gone> {
    let tokenizer = &app.model.speaker.tokenizer;
    let mut out = write::Writer::new(events, head);
    out.created().await?;
    loop {
        let Some(piece) = out.events().wait(choice.next(tokenizer)).await? else { return Ok(()) };
        match piece {
            Piece::Started(_) => {}
            Piece::Prefill { done, total } => out.progress(done, total).await?,
            Piece::Reasoning(text) => {
                record.first_token();
                out.reasoning(&text).await?;
            }
            Piece::Content(text, logs) => {
                record.first_token();
                out.text(&text, &logs, tokenizer).await?;
            }
            Piece::Call(call) => {
                record.first_token();
                out.call(call).await?;
            }
            Piece::Finished(Ok(ended)) => {
                app.count(&record, &ended);
                let response = out.ended(&ended).await?;
                app.keep(keep, out.items(), &response);
                return out.finish(&response, &ended).await;
            }
            Piece::Finished(Err(failed)) => {
                let error = ApiError::from(failed);
                record.failed(error.code.unwrap_or("failed"));
                return out.failed(&error).await;
            }
        }
    }
}
