//! Hostile bodies: whatever comes, readers and what is behind them answer with a request or with a sentence.

use std::sync::Arc;

use gemma4_conformance::fuzz::{BadKey, Random, Syntax, keys, mutated, spoil};
use gemma4_core::dialogue::Speaker;
use serde_json::{Value, json};

use super::error::ApiError;
use super::fields::Fields;
use super::settings::Defaults;
use super::{body, chat, completions, messages, responses};
use crate::cli::Global;
use crate::load;
use crate::serve::dialogue::{Ask, Model};

fn pocket() -> Model {
    let checkpoint = load::checkpoint(&Global::on_the_processor()).unwrap();
    let vocab = checkpoint.model().unwrap().config.vocab;
    let speaker = Arc::new(Speaker::new(&checkpoint).unwrap());
    Model::new(speaker, "pocket".to_owned(), 4096, vocab, false)
}

fn tool() -> Value {
    json!({
        "name": "paint", "description": "Paints.",
        "parameters": {
            "type": "object", "required": ["color"],
            "properties": {
                "color": { "type": "string", "enum": ["red", "green"] },
                "size": { "anyOf": [{ "type": "integer", "minimum": 1, "maximum": 9 }, { "type": "null" }] },
                "tags": { "type": "array", "items": { "type": "string", "maxLength": 5 }, "maxItems": 3 },
                "tree": { "$ref": "#/$defs/node" },
            },
            "$defs": { "node": { "type": "object", "properties": { "next": { "$ref": "#/$defs/node" } } } },
        },
    })
}

/// A reader of one interface, and requests that use every key it knows.
struct Interface {
    name: &'static str,
    read: fn(&Fields<'_>, &Defaults<'_>) -> Result<Vec<Ask>, ApiError>,
    samples: Vec<Value>,
}

fn interfaces() -> Vec<Interface> {
    let tool = tool();
    let mut flat = tool.clone();
    flat["type"] = "function".into();
    let sampling = json!({
        "model": "m", "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3, "stream": true,
        "frequency_penalty": 0.1, "presence_penalty": 0.1, "repetition_penalty": 1.1, "logit_bias": { "5": -1 },
        "stream_options": { "include_usage": true }, "cache": "exact", "return_progress": true,
    });
    let with = |more: Value| {
        let mut body = sampling.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer" } }, "required": ["a"] });
    vec![
        Interface {
            name: "chat",
            read: |fields, defaults| Ok(vec![chat::read(fields, defaults)?.ask]),
            samples: vec![
                with(json!({
                    "messages": [
                        { "role": "system", "content": "x-anthropic-billing-header: cch=1;\nBe brief." },
                        { "role": "user", "content": [{ "type": "text", "text": "Hi" }] },
                        { "role": "assistant", "content": null, "reasoning_content": "Hm.", "tool_calls": [
                            { "id": "1", "type": "function", "function": { "name": "paint", "arguments": "{\"color\":\"red\"}" } }
                        ] },
                        { "role": "tool", "tool_call_id": "1", "name": "paint", "content": "done" },
                        { "role": "user", "content": "Thanks" },
                    ],
                    "tools": [{ "type": "function", "function": tool }], "tool_choice": "auto",
                    "parallel_tool_calls": false, "max_completion_tokens": 9, "stop": ["a", "b"], "logprobs": true,
                    "top_logprobs": 2, "n": 2, "reasoning_effort": "low", "response_format": {
                        "type": "json_schema", "json_schema": { "name": "it", "schema": schema } },
                })),
                with(json!({
                    "messages": [{ "role": "user", "content": "Hi" }, { "role": "assistant", "content": "Well" }],
                    "max_tokens": 5, "stop": "x", "chat_template_kwargs": { "enable_thinking": true },
                    "thinking": { "type": "enabled", "budget_tokens": 5 }, "reasoning": { "effort": "high" },
                    "tools": [{ "type": "function", "function": tool }],
                    "tool_choice": { "type": "function", "function": { "name": "paint" } },
                })),
            ],
        },
        Interface {
            name: "completions",
            read: |fields, defaults| Ok(completions::read(fields, defaults)?.asks()),
            samples: vec![
                with(
                    json!({ "prompt": ["a", "b"], "max_tokens": 3, "echo": true, "logprobs": 1, "n": 2, "stop": "x" }),
                ),
                with(json!({ "prompt": [[2, 5], [7]], "suffix": "" })),
            ],
        },
        Interface {
            name: "responses",
            read: |fields, defaults| Ok(vec![responses::read(fields, defaults)?.ask]),
            samples: vec![with(json!({
                "instructions": "Be brief.", "previous_response_id": "resp_1", "store": false, "max_output_tokens": 9,
                "input": [
                    { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "Hi" }] },
                    { "type": "reasoning", "id": "r", "summary": [], "content": [{ "type": "reasoning_text", "text": "Hm." }] },
                    { "type": "function_call", "call_id": "c", "name": "paint", "arguments": "{}" },
                    { "type": "function_call_output", "call_id": "c", "output": "done" },
                ],
                "tools": [flat, { "type": "web_search" }], "tool_choice": { "type": "function", "name": "paint" },
                "parallel_tool_calls": true, "include": ["message.output_text.logprobs"], "top_logprobs": 2,
                "reasoning": { "effort": "low", "summary": "auto" },
                "text": { "format": { "type": "json_schema", "name": "it", "schema": schema } },
            }))],
        },
        Interface {
            name: "messages",
            read: |fields, defaults| Ok(vec![messages::read(fields, defaults)?.ask]),
            samples: vec![with(json!({
                "max_tokens": 50, "system": [{ "type": "text", "text": "Be brief." }], "stop_sequences": ["x"],
                "thinking": { "type": "enabled", "budget_tokens": 1024 }, "output_config": { "effort": "low" },
                "messages": [
                    { "role": "user", "content": "Hi" },
                    { "role": "assistant", "content": [
                        { "type": "thinking", "thinking": "Hm.", "signature": "s" },
                        { "type": "tool_use", "id": "t", "name": "paint", "input": { "color": "red" } },
                    ] },
                    { "role": "user", "content": [
                        { "type": "tool_result", "tool_use_id": "t", "is_error": true, "content": [{ "type": "text", "text": "no" }] },
                        { "type": "text", "text": "And now?" },
                    ] },
                ],
                "tools": [{ "name": "paint", "input_schema": tool["parameters"] }],
                "tool_choice": { "type": "any", "disable_parallel_tool_use": true },
            }))],
        },
    ]
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// Reads a body as a handler does.
fn read(interface: &Interface, defaults: &Defaults<'_>, input: &[u8]) -> Result<Vec<Ask>, ApiError> {
    let body = body::parse(input)?;
    (interface.read)(&Fields::of(&body)?, defaults)
}

#[test]
fn a_key_with_a_wrong_value_is_named() {
    let model = pocket();
    let defaults = Defaults::of(&model);
    let wrong = [json!([[]]), json!({ "a": [] }), json!(-7.5), json!("\u{0}"), json!(true), json!(1e300)];
    for interface in interfaces() {
        let (mut taken, mut refused) = (0, 0);
        for sample in &interface.samples {
            for ask in read(&interface, &defaults, &bytes(sample)).unwrap() {
                model.prepare(ask).unwrap();
            }
            for BadKey { names, input } in spoil(&bytes(sample), &wrong) {
                match read(&interface, &defaults, &input) {
                    Ok(_) => taken += 1,
                    Err(error) => {
                        refused += 1;
                        assert_eq!(error.status, 400, "{error:?}");
                        // A part of a message may be blamed on its list.
                        let named = names.iter().any(|name| error.message.contains(name.as_str()));
                        assert!(named, "{}: {names:?}: {}", interface.name, error.message);
                    }
                }
            }
        }
        assert!(refused > 50, "{}: {refused} refused, {taken} taken", interface.name);
    }
}

#[test]
fn mutated_requests_end_in_a_request_or_a_sentence() {
    let model = pocket();
    let defaults = Defaults::of(&model);
    let mut random = Random::new(41);
    for interface in interfaces() {
        let samples: Vec<Vec<u8>> = interface.samples.iter().map(bytes).collect();
        let words: Vec<Vec<u8>> = samples.iter().flat_map(|sample| keys(sample)).collect();
        let (mut taken, mut refused, mut prepared) = (0, 0, 0);
        for _ in 0..1500 {
            let (parent, other) = (random.pick(&samples).clone(), random.pick(&samples).clone());
            let input = mutated(&mut random, Syntax::Json, &parent, &other, &words);
            match read(&interface, &defaults, &input) {
                Err(error) => {
                    refused += 1;
                    assert!(!error.message.is_empty() && error.message.len() < 2000, "{}", error.message);
                }
                Ok(asks) => {
                    taken += 1;
                    // Templates and grammars take longer than reading.
                    for ask in asks.into_iter().take(60 - prepared) {
                        prepared += 1;
                        if let Err(failed) = model.prepare(ask) {
                            let error = ApiError::from(failed);
                            assert_eq!(error.status, 400, "{error:?}");
                        }
                    }
                }
            }
        }
        assert!(taken > 20 && refused > 200, "{}: {taken} taken, {refused} refused", interface.name);
    }
}
