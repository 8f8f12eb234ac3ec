//! One answer on stdout: from the engine's events to lines.

use gemma4_core::chat::{Delta, Finish as Ending, Parser, Reply, Start};
use gemma4_core::dialogue::Speaker;
use gemma4_core::tokenizer::{Markup, Stream};
use serde_json::{Value, json};

use super::out::Out;
use crate::serve::job::{Event, Finish, ReuseEnd, Usage};

/// How the text of an answer is read.
pub(super) enum Reading {
    /// As the answer to a dialogue.
    Dialogue(Box<Parser>),
    /// As text, markers and all.
    Plain(String),
}

impl Reading {
    pub(super) fn dialogue(speaker: &Speaker, start: Start) -> Self {
        Self::Dialogue(Box::new(speaker.parser(start)))
    }
}

/// An answer that is being written.
pub(super) struct Answer<'a> {
    pub(super) id: Value,
    pub(super) speaker: &'a Speaker,
    pub(super) out: &'a Out,
    pub(super) seed: u64,
    pub(super) reading: Reading,
    pub(super) stream: Stream,
}

impl<'a> Answer<'a> {
    pub(super) fn new(id: Value, speaker: &'a Speaker, out: &'a Out, seed: u64, reading: Reading) -> Self {
        Self { id, speaker, out, seed, reading, stream: Stream::new(Markup::Show) }
    }

    /// Writes what an event says.
    pub(super) fn event(&mut self, event: Event) {
        match event {
            Event::Started { reused, prompt, why } => self.write(json!({
                "event": "started", "prompt_tokens": prompt, "reused_tokens": reused, "reuse_end": reuse_end(why),
            })),
            Event::Prefill { done, total } => {
                self.write(json!({ "event": "prefill", "done": done, "total": total }));
            }
            Event::Token { id, logprob, top } => self.token(id, logprob, &top),
            Event::Finished { reason, usage } => self.finished(reason, &usage),
        }
    }

    fn token(&mut self, id: u32, logprob: Option<f32>, top: &[(u32, f32)]) {
        // An end token that is no marker of the dialogue, such as `<eos>`, is no text either; nor is any in plain text.
        let ends = self.speaker.end.contains(&id);
        let text = match &self.reading {
            Reading::Plain(_) if ends => String::new(),
            _ => self.stream.push(&self.speaker.tokenizer, id),
        };
        let mut line = json!({ "event": "token", "token": id });
        if let Some(logprob) = logprob {
            line["logprob"] = json!(logprob);
            line["top"] = json!(top);
        }
        match &mut self.reading {
            Reading::Plain(all) => {
                all.push_str(&text);
                line["content"] = json!(text);
                self.write(line);
            }
            Reading::Dialogue(parser) => {
                let deltas = parser.push(id, &text);
                self.write(line);
                for delta in &deltas {
                    self.delta(delta);
                }
            }
        }
    }

    fn delta(&self, delta: &Delta) {
        self.write(match delta {
            Delta::Reasoning(text) => json!({ "event": "delta", "reasoning": text }),
            Delta::Content(text) => json!({ "event": "delta", "content": text }),
            Delta::ToolCallStart { index, name } => {
                json!({ "event": "delta", "tool_call": { "index": index, "name": name } })
            }
            Delta::ToolCallArguments { index, json } => {
                json!({ "event": "delta", "tool_call": { "index": index, "arguments": json } })
            }
            Delta::ToolCallEnd { index } => {
                json!({ "event": "delta", "tool_call": { "index": index, "complete": true } })
            }
            Delta::ToolCallError { index, raw, why } => {
                json!({ "event": "delta", "error": { "index": index, "raw": raw, "why": why } })
            }
        });
    }

    fn finished(&mut self, reason: Finish, usage: &Usage) {
        let ending = match &reason {
            Finish::Stop | Finish::Constraint => Ending::Stop,
            Finish::Length => Ending::Length,
            Finish::Cancelled | Finish::Deadline | Finish::Failed(_) => Ending::Cancelled,
        };
        let stream = std::mem::replace(&mut self.stream, Stream::new(Markup::Show));
        let last = stream.finish();
        let reply = match std::mem::replace(&mut self.reading, Reading::Plain(String::new())) {
            Reading::Plain(mut content) => {
                content.push_str(last);
                let (tool_calls, errors) = (Vec::new(), Vec::new());
                Reply { reasoning: String::new(), content, tool_calls, finish: ending, errors }
            }
            Reading::Dialogue(mut parser) => {
                let mut deltas = parser.push_text(last);
                let (rest, reply) = parser.finish(ending);
                deltas.extend(rest);
                for delta in &deltas {
                    self.delta(delta);
                }
                reply
            }
        };
        let errors: Vec<Value> = reply.errors.iter().map(|e| json!({ "raw": e.raw, "why": e.why })).collect();
        let mut line = json!({
            "event": "finished",
            "finish": finish(&reason, reply.finish),
            "content": reply.content,
            "reasoning": reply.reasoning,
            "tool_calls": reply.tool_calls,
            "errors": errors,
            "usage": {
                "prompt_tokens": usage.prompt,
                "reused_tokens": usage.reused,
                "completion_tokens": usage.generated,
                "drafted_tokens": usage.drafted,
                "accepted_tokens": usage.accepted,
            },
            "seed": self.seed,
            "timings": {
                "queue_seconds": usage.queue_time.as_secs_f64(),
                "prefill_seconds": usage.prefill_time.as_secs_f64(),
                "decode_seconds": usage.decode_time.as_secs_f64(),
            },
        });
        if let Finish::Failed(why) = reason {
            line["message"] = json!(why);
        }
        self.write(line);
    }

    fn write(&self, line: Value) {
        self.out.write(Some(&self.id), line);
    }
}

fn finish(reason: &Finish, reply: Ending) -> &'static str {
    match reason {
        Finish::Stop if reply == Ending::ToolCalls => "tool_calls",
        Finish::Stop | Finish::Constraint => "stop",
        Finish::Length => "length",
        Finish::Cancelled => "cancelled",
        Finish::Deadline => "deadline",
        Finish::Failed(_) => "failed",
    }
}

fn reuse_end(why: ReuseEnd) -> Value {
    match why {
        ReuseEnd::Whole => json!({ "kind": "whole" }),
        ReuseEnd::NewTokens => json!({ "kind": "new_tokens" }),
        ReuseEnd::NewConversation => json!({ "kind": "new_conversation" }),
        ReuseEnd::EditedAt(at) => json!({ "kind": "edited", "at": at }),
        ReuseEnd::WindowGone { common } => json!({ "kind": "window_gone", "common": common }),
        ReuseEnd::Evicted { common } => json!({ "kind": "evicted", "common": common }),
        ReuseEnd::Generated { common } => json!({ "kind": "generated", "common": common }),
        ReuseEnd::Off => json!({ "kind": "off" }),
    }
}
