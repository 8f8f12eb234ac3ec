//! What a request took, in each interface's own fields.

use serde_json::{Value, json};

use crate::serve::dialogue::{Ended, Reuse};

/// What came from the cache and why no more; a field of ours beside the vendors'.
fn reuse(reuse: Option<&Reuse>) -> Value {
    reuse.map_or(Value::Null, |reuse| {
        json!({ "reused_tokens": reuse.reused, "prompt_tokens": reuse.prompt, "reason": reuse.reason() })
    })
}

/// Sums over the choices of a request; its prompt counts once.
fn sums(all: &[Ended]) -> (usize, usize, usize, usize) {
    let prompt = all.iter().map(|ended| ended.usage.prompt).max().unwrap_or(0);
    // The first choice pays for the prompt, the others share its pages.
    let reused = all.iter().map(|ended| ended.usage.reused).min().unwrap_or(0);
    let generated = all.iter().map(|ended| ended.usage.generated).sum();
    let reasoning = all.iter().map(|ended| ended.reasoning).sum();
    (prompt, reused, generated, reasoning)
}

/// `usage` of chat completions and completions.
pub(super) fn openai(all: &[Ended]) -> Value {
    let (prompt, reused, generated, reasoning) = sums(all);
    let first = all.iter().filter_map(|ended| ended.reuse.as_ref()).min_by_key(|reuse| reuse.reused);
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": { "cached_tokens": reused },
        "completion_tokens_details": {
            "reasoning_tokens": reasoning,
            "accepted_prediction_tokens": all.iter().map(|ended| ended.usage.accepted).sum::<usize>(),
            "rejected_prediction_tokens":
                all.iter().map(|ended| ended.usage.drafted - ended.usage.accepted.min(ended.usage.drafted)).sum::<usize>(),
        },
        "reuse": reuse(first),
    })
}

/// `usage` of responses.
pub(super) fn responses(ended: &Ended) -> Value {
    let usage = &ended.usage;
    json!({
        "input_tokens": usage.prompt,
        "input_tokens_details": { "cached_tokens": usage.reused },
        "output_tokens": usage.generated,
        "output_tokens_details": { "reasoning_tokens": ended.reasoning },
        "total_tokens": usage.prompt + usage.generated,
        "reuse": reuse(ended.reuse.as_ref()),
    })
}

/// `usage` of messages when they begin: `input_tokens` are those that were not cached, as Anthropic counts.
pub(super) fn started(found: &Reuse) -> Value {
    json!({
        "input_tokens": found.prompt - found.reused.min(found.prompt),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": found.reused,
        "output_tokens": 0,
        "reuse": reuse(Some(found)),
    })
}

/// `usage` of messages.
pub(super) fn anthropic(ended: &Ended) -> Value {
    let usage = &ended.usage;
    json!({
        "input_tokens": usage.prompt - usage.reused.min(usage.prompt),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.reused,
        "output_tokens": usage.generated,
        "reuse": reuse(ended.reuse.as_ref()),
    })
}

/// Times, in the fields of llama.cpp's server.
pub(super) fn timings(ended: &Ended) -> Value {
    let usage = &ended.usage;
    let ms = |time: std::time::Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let rate = |count: usize, time: std::time::Duration| {
        let rate = if count == 0 { 0.0 } else { count as f64 / time.as_secs_f64().max(1e-9) };
        (rate * 100.0).round() / 100.0
    };
    let computed = usage.prompt - usage.reused.min(usage.prompt);
    json!({
        "cache_n": usage.reused,
        "prompt_n": computed,
        "prompt_ms": ms(usage.prefill_time),
        "prompt_per_second": rate(computed, usage.prefill_time),
        "predicted_n": usage.generated,
        "predicted_ms": ms(usage.decode_time),
        "predicted_per_second": rate(usage.generated.saturating_sub(1), usage.decode_time),
        "draft_n": usage.drafted,
        "draft_n_accepted": usage.accepted,
        "queue_ms": ms(usage.queue_time),
    })
}
