//! `/tokenize`, `/detokenize` and `/apply-template`: what a prompt is made of.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use gemma4_core::dialogue::DialogueError;
use gemma4_core::tokenizer::{Markup, Special};
use serde_json::{Value, json};

use super::error::Vendor;
use super::fields::Fields;
use super::record::Record;
use super::{Answer, Shared, answer, blocking, chat, reply, settings};
use crate::serve::dialogue::{Failed, Source};

pub(super) async fn tokenize(
    State(app): State<Shared>,
    Extension(record): Extension<Record>,
    request: Request,
) -> Response<Body> {
    answer(&record, Vendor::OpenAi, ids_of(app, request).await)
}

/// Takes the requests of llama.cpp's server (`content`, `add_special`, `parse_special`, `with_pieces`) and of vLLM
/// (`prompt` or `messages`, `add_special_tokens`).
async fn ids_of(app: Shared, request: Request) -> Answer {
    let body = app.json(request).await?;
    let fields = Fields::of(&body)?;
    let pieces = fields.flag("with_pieces", false)?;
    let context = app.model.context;
    let dialogue = match fields.get("messages") {
        Some(_) => Some(chat::dialogue(&fields, settings::thinking(&fields, app.model.think)?.on)?),
        None => None,
    };
    let tokens = if let Some(dialogue) = dialogue {
        let app = app.clone();
        blocking(move || app.model.prompt(&Source::Dialogue(dialogue))).await??.0
    } else {
        let text = match fields.any(&["content", "prompt"]) {
            Some(text) => text.string()?.to_owned(),
            None => fields.need("content", "a string")?.string()?.to_owned(),
        };
        let bos = match fields.get("prompt") {
            Some(_) => fields.flag("add_special_tokens", true)?,
            None => fields.flag("add_special", false)?,
        };
        let special = if fields.flag("parse_special", true)? { Special::Parse } else { Special::Literal };
        let app = app.clone();
        let encode = move || -> Result<Vec<u32>, Failed> {
            let tokenizer = &app.model.speaker.tokenizer;
            let tokens = tokenizer.encode(&text, special).map_err(DialogueError::from)?;
            Ok(if bos { tokenizer.with_bos(tokens) } else { tokens })
        };
        blocking(encode).await??
    };
    let tokenizer = &app.model.speaker.tokenizer;
    let listed: Value = if pieces {
        let piece = |&id: &u32| {
            let bytes = tokenizer.token_bytes(id).unwrap_or_default();
            // A byte of a character is no text.
            let piece = String::from_utf8(bytes).map_or_else(|error| error.into_bytes().into(), Value::from);
            json!({ "id": id, "piece": piece })
        };
        tokens.iter().map(piece).collect()
    } else {
        json!(tokens)
    };
    Ok(reply(&json!({ "tokens": listed, "count": tokens.len(), "max_model_len": context })))
}

pub(super) async fn detokenize(
    State(app): State<Shared>,
    Extension(record): Extension<Record>,
    request: Request,
) -> Response<Body> {
    answer(&record, Vendor::OpenAi, text_of(app, request).await)
}

async fn text_of(app: Shared, request: Request) -> Answer {
    let body = app.json(request).await?;
    let fields = Fields::of(&body)?;
    let tokens = fields.need("tokens", "a list of token ids")?.list()?.map(|id| id.token(app.model.vocab));
    let tokens = tokens.collect::<Result<Vec<u32>, _>>()?;
    let text = app.model.speaker.tokenizer.decode(&tokens, Markup::Show);
    Ok(reply(&json!({ "content": text, "prompt": text })))
}

pub(super) async fn apply_template(
    State(app): State<Shared>,
    Extension(record): Extension<Record>,
    request: Request,
) -> Response<Body> {
    answer(&record, Vendor::OpenAi, prompt_of(app, request).await)
}

async fn prompt_of(app: Shared, request: Request) -> Answer {
    let body = app.json(request).await?;
    let fields = Fields::of(&body)?;
    let mut dialogue = chat::dialogue(&fields, settings::thinking(&fields, app.model.think)?.on)?;
    dialogue.add_generation_prompt = fields.flag("add_generation_prompt", true)?;
    let render = move || app.model.speaker.template.render(&dialogue).map_err(DialogueError::from);
    let text = blocking(render).await??;
    Ok(reply(&json!({ "prompt": text })))
}
