//! One answer to one prompt.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;

use gemma4_core::backend::Backend;
use gemma4_core::chat::{Dialogue, Finish, Reply};
use gemma4_core::dialogue::{Answer, DialogueError, ReplyOptions, Speaker};
use gemma4_core::engine::Engine;
use gemma4_core::sample::Sampling;
use gemma4_core::session::{Ended, Event, Request, Session, SessionError};
use gemma4_core::speculate::Speculator;
use gemma4_core::tokenizer::{Markup, Stream};
use serde_json::{Value, json};

use super::interrupt::{Interrupt, STOPPED};
use super::screen::Screen;
use super::turn::{self, Watch};
use super::{RunError, Settings, Shown, Task};
use crate::draft;
use crate::failure::Failure;

/// Answers and prints.
pub(super) fn answer<B: Backend>(
    engine: &mut Engine<B>,
    speaker: &Speaker,
    settings: &Settings,
    task: &Task,
    shown: &Shown,
    mut screen: Screen,
    stop: &Interrupt,
) -> Result<ExitCode, Failure> {
    let mut watch = Watch::new((!shown.json).then_some(&mut screen), stop);
    let mut session = Session::new(engine).map_err(SessionError::from)?;
    session.speculate(settings.draft.clone().and_then(|draft| Speculator::new(draft, engine)));
    let answer = match task {
        Task::Raw(prompt) => raw(engine, &mut session, speaker, settings, prompt, &mut watch)?,
        Task::Once(dialogue) | Task::Chat(dialogue) => {
            reply(engine, &mut session, speaker, settings, dialogue, &mut watch)?
        }
    };
    let written = watch.finish().and_then(|()| {
        if shown.json {
            let drafting = session.speculator().map(|speculator| draft::to_json(speculator, engine.warmed()));
            write(&to_json(&answer, &settings.sampling, drafting.as_ref()))
        } else {
            Ok(())
        }
    });
    match written {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
        Err(error) => return Err(RunError::Output(error).into()),
        Ok(()) => {}
    }
    let ended = answer.generated.ended;
    if !shown.json {
        if let Some(cut) = turn::cut(ended, engine.options().context) {
            let advice = if ended == Ended::ContextFull { " Raise --ctx for more." } else { "" };
            screen.note(&format!("{cut}{advice}"));
        }
        screen.note(&turn::summary(&answer.generated));
        for line in session.speculator().map(draft::lines).unwrap_or_default() {
            screen.note(&line);
        }
    }
    Ok(if ended == Ended::Stopped { ExitCode::from(STOPPED) } else { ExitCode::SUCCESS })
}

fn reply<B: Backend>(
    engine: &mut Engine<B>,
    session: &mut Session,
    speaker: &Speaker,
    settings: &Settings,
    dialogue: &Dialogue,
    watch: &mut Watch<'_>,
) -> Result<Answer, DialogueError> {
    let options = ReplyOptions { sampling: &settings.sampling, max_tokens: settings.max_tokens };
    speaker.reply(engine, session, dialogue, &options, &mut |update| watch.update(&update))
}

/// Continues tokens; all that comes is content, markers of dialogues included.
fn raw<B: Backend>(
    engine: &mut Engine<B>,
    session: &mut Session,
    speaker: &Speaker,
    settings: &Settings,
    prompt: &[u32],
    watch: &mut Watch<'_>,
) -> Result<Answer, SessionError> {
    let mut stream = Stream::new(Markup::Show);
    let mut content = String::new();
    let request = Request {
        prompt,
        border: prompt.len(),
        sampling: &settings.sampling,
        max_tokens: settings.max_tokens,
        end: &speaker.end,
        suppress: &speaker.suppress,
    };
    let generated = session.generate(engine, &request, &mut |event| match event {
        Event::Prefill { done, total } => watch.prefill(done, total),
        Event::Token(token) if speaker.end.contains(&token) => watch.token(),
        Event::Token(token) => {
            let flow = watch.token();
            let text = stream.push(&speaker.tokenizer, token);
            content.push_str(&text);
            if watch.text(&text).is_break() { ControlFlow::Break(()) } else { flow }
        }
    })?;
    let last = stream.finish();
    content.push_str(last);
    // Nothing is left to be stopped.
    let _ = watch.text(last);
    let finish = match generated.ended {
        Ended::Token(_) => Finish::Stop,
        Ended::MaxTokens | Ended::ContextFull => Finish::Length,
        Ended::Stopped => Finish::Cancelled,
    };
    let reply =
        Reply { reasoning: String::new(), content, tool_calls: Vec::new(), finish, errors: Vec::new() };
    Ok(Answer { reply, generated })
}

fn to_json(answer: &Answer, sampling: &Sampling, drafting: Option<&Value>) -> Value {
    let Answer { reply, generated } = answer;
    let finish = match reply.finish {
        Finish::Stop => "stop",
        Finish::ToolCalls => "tool_calls",
        Finish::Length => "length",
        Finish::Cancelled => "cancelled",
    };
    let errors: Vec<Value> =
        reply.errors.iter().map(|error| json!({ "raw": error.raw, "why": error.why })).collect();
    json!({
        "content": reply.content,
        "reasoning": reply.reasoning,
        "tool_calls": reply.tool_calls,
        "errors": errors,
        "finish": finish,
        "usage": {
            "prompt_tokens": generated.prompt,
            "reused_tokens": generated.reused,
            "completion_tokens": generated.tokens.len(),
        },
        "seed": sampling.seed,
        "timings": {
            "prefill_seconds": generated.prefill.as_secs_f64(),
            "prefill_tokens_per_second": generated.prefill_rate(),
            "decode_seconds": generated.decode.as_secs_f64(),
            "decode_tokens_per_second": generated.decode_rate(),
        },
        "drafting": drafting,
    })
}

fn write(value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{value:#}")?;
    out.flush()
}
