mod properties;
mod table;

use serde_json::json;

use super::*;
use table::{MALFORMED, table};

const FIRST_ID: u32 = 100;

/// A vocabulary in which every marker is a token.
fn tokens() -> Markers {
    Markers::find(|text| {
        let place = Marker::ALL.iter().position(|marker| marker.text() == text)?;
        Some(FIRST_ID + u32::try_from(place).unwrap())
    })
}

/// `text` as that vocabulary has it: markers as tokens, other characters one by one.
fn encode(mut text: &str) -> Vec<(u32, &str)> {
    let mut out = Vec::new();
    while let Some(c) = text.chars().next() {
        let marker = Marker::ALL.iter().find(|marker| text.starts_with(marker.text()));
        let length = marker.map_or(c.len_utf8(), |marker| marker.text().len());
        let (piece, rest) = text.split_at(length);
        out.push((marker.map_or(0, |marker| tokens().id(*marker).unwrap()), piece));
        text = rest;
    }
    out
}

/// Puts deltas together, and checks that they come in an order that makes sense.
fn collect(deltas: Vec<Delta>, finish: Finish) -> Reply {
    let mut reply = Reply {
        reasoning: String::new(),
        content: String::new(),
        tool_calls: Vec::new(),
        finish,
        errors: Vec::new(),
    };
    let mut open: Option<(String, String)> = None;
    for delta in deltas {
        match delta {
            Delta::Reasoning(text) => reply.reasoning += &text,
            Delta::Content(text) => reply.content += &text,
            Delta::ToolCallStart { index, name } => {
                assert_eq!((index, &open), (reply.tool_calls.len(), &None));
                open = Some((name, String::new()));
            }
            Delta::ToolCallArguments { index, json } => {
                assert_eq!(index, reply.tool_calls.len());
                open.as_mut().unwrap().1 += &json;
            }
            Delta::ToolCallEnd { index } => {
                assert_eq!(index, reply.tool_calls.len());
                let (name, arguments) = open.take().unwrap();
                let arguments = serde_json::from_str(&arguments).unwrap();
                reply.tool_calls.push(FunctionCall { name, arguments });
            }
            Delta::ToolCallError { index, raw, why } => {
                assert_eq!(index, reply.errors.len());
                reply.errors.push(CallError { raw, why });
            }
        }
    }
    assert_eq!(open, None);
    reply
}

fn run<'a>(mut parser: Parser, pieces: impl IntoIterator<Item = (u32, &'a str)>, finish: Finish) -> Reply {
    let mut deltas = Vec::new();
    for (id, text) in pieces {
        deltas.extend(parser.push(id, text));
    }
    let (last, reply) = parser.finish(finish);
    deltas.extend(last);
    assert_eq!(collect(deltas, reply.finish), reply);
    reply
}

fn read(text: &str) -> Reply {
    run(Parser::new(tokens(), Start::Answer), encode(text), Finish::Stop)
}

fn spelled() -> Parser {
    Parser::new(Markers::spelled(), Start::Answer)
}

fn reply(reasoning: &str, content: &str, calls: &[(&str, Value)]) -> Reply {
    let calls = calls.iter().map(|(name, arguments)| FunctionCall {
        name: (*name).to_owned(),
        arguments: arguments.as_object().unwrap().clone(),
    });
    Reply {
        reasoning: reasoning.to_owned(),
        content: content.to_owned(),
        finish: if calls.len() == 0 { Finish::Stop } else { Finish::ToolCalls },
        tool_calls: calls.collect(),
        errors: Vec::new(),
    }
}

#[test]
fn outputs_are_read_as_meant() {
    for (text, expected) in table() {
        assert_eq!(read(text), expected, "{text}");
        assert_eq!(run(spelled(), [(0, text)], Finish::Stop), expected, "spelled: {text}");
    }
}

#[test]
fn malformed_calls_become_errors_and_nothing_around_them_is_lost() {
    for (body, raw, why) in MALFORMED {
        let text = format!("a<|tool_call>{body}<tool_call|>b<|tool_call>call:g{{}}<tool_call|>");
        let mut expected = reply("", "ab", &[("g", json!({}))]);
        expected.errors.push(CallError { raw: raw.into(), why: why.into() });
        assert_eq!(read(&text), expected, "{text}");
    }
}

#[test]
fn calls_that_were_cut_off_become_errors() {
    let text = "Hi<|tool_call>call:f{a:<|\"|>long te";
    let reply = run(Parser::new(tokens(), Start::Answer), encode(text), Finish::Length);
    assert_eq!((reply.content.as_str(), reply.finish), ("Hi", Finish::Length));
    let [error] = &reply.errors[..] else { panic!("{:?}", reply.errors) };
    assert_eq!(error.raw, "call:f{a:<|\"|>long te");
    assert_eq!(error.why, "generation ended inside the call: the string at byte 9 does not end");
}

#[test]
fn the_start_state_follows_from_the_prompt() {
    for (prompt, start) in [
        ("<|turn>model\n", Start::Answer),
        ("<|turn>model\n<|channel>thought\n<channel|>", Start::Answer),
        ("<|turn>model\n<|channel>thought\n", Start::Thought),
    ] {
        assert_eq!(Start::of(prompt), start);
    }
    let thinking = || Parser::new(tokens(), Start::Thought);
    for (text, expected) in [
        ("hm\n<channel|>Hi", reply("hm", "Hi", &[])),
        ("\n<channel|>Hi", reply("", "Hi", &[])),
        ("hm", reply("hm", "", &[])),
    ] {
        assert_eq!(run(thinking(), encode(text), Finish::Stop), expected);
    }
}

#[test]
fn thoughts_stay_in_the_content_where_that_is_wanted() {
    let text = "<|channel>thought\nhm\n<channel|>Hi<|tool_call>call:f{}<tool_call|>";
    let expected = reply("", "<|channel>thought\nhm\n<channel|>Hi", &[("f", json!({}))]);
    let parser = |start| Parser::new(tokens(), start).reasoning(Reasoning::InContent);
    assert_eq!(run(parser(Start::Answer), encode(text), Finish::Stop), expected);
    let text = text.strip_prefix("<|channel>thought\n").unwrap();
    assert_eq!(run(parser(Start::Thought), encode(text), Finish::Stop).content, "hm\n<channel|>Hi");
}

#[test]
fn the_parser_knows_when_the_turn_is_over() {
    for (text, done) in
        [("Hi", false), ("Hi<turn|>", true), ("<|tool_call>call:f{}<tool_call|><|tool_response>", true)]
    {
        let mut parser = spelled();
        parser.push_text(text);
        assert_eq!(parser.is_done(), done);
    }
}

#[test]
fn text_streams_as_soon_as_it_is_certain() {
    let mut parser = Parser::new(tokens(), Start::Answer);
    assert_eq!(parser.push(0, "Hel"), [Delta::Content("Hel".into())]);
    assert_eq!(parser.push(0, "lo <"), [Delta::Content("lo <".into())]);
    let mut parser = spelled();
    assert_eq!(parser.push(0, "a <"), [Delta::Content("a ".into())]);
    assert_eq!(parser.push(0, "|x"), [Delta::Content("<|x".into())]);
    assert_eq!(parser.push(0, "<|chan"), []);
    assert_eq!(parser.push(0, "nel>thought\nhm\n"), [Delta::Reasoning("hm".into())]);
    assert_eq!(parser.push(0, "so"), [Delta::Reasoning("\nso".into())]);
}

#[test]
fn calls_with_ids_make_the_message_that_continues_the_dialogue() {
    let message = read("<|channel>thought\nhm\n<channel|><|tool_call>call:f{a:1}<tool_call|>")
        .into_message(|index| format!("call_{index}"));
    assert_eq!(
        serde_json::to_value(message).unwrap(),
        json!({
            "role": "assistant", "reasoning_content": "hm",
            "tool_calls": [{"id": "call_0", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}],
        })
    );
}

// In a vocabulary with tokens for markers the same characters may also be ordinary text, and then are.
#[test]
fn markers_written_as_text_are_text_where_markers_are_tokens() {
    let quoted = "<tool_call|><|\"|><turn|>";
    let call = tokens().id(Marker::Call).unwrap();
    let end = tokens().id(Marker::CallEnd).unwrap();
    let quote = tokens().id(Marker::Quote).unwrap();
    let pieces = [
        (0, quoted),
        (call, ""),
        (0, "call:f{a:"),
        (quote, ""),
        (0, quoted),
        (quote, ""),
        (0, "}"),
        (end, ""),
    ];
    let read = run(Parser::new(tokens(), Start::Answer), pieces, Finish::Stop);
    assert_eq!(read, reply("", quoted, &[("f", json!({"a": quoted}))]));
}

#[test]
fn half_a_marker_that_was_cut_off_is_not_shown() {
    for (text, content) in [("Hi <tool_c", "Hi "), ("Hi <|", "Hi "), ("a <", "a <"), ("Hi <x", "Hi <x")] {
        assert_eq!(run(spelled(), [(0, text)], Finish::Length).content, content);
    }
}

#[test]
fn limits_hold() {
    let limits = Limits { depth: 3, call_bytes: 30 };
    let parser =
        |text: &str| run(Parser::new(tokens(), Start::Answer).limits(limits), encode(text), Finish::Stop);
    assert_eq!(
        parser("<|tool_call>call:f{a:[[1]]}<tool_call|>"),
        reply("", "", &[("f", json!({"a": [[1]]}))])
    );
    let deep = parser("<|tool_call>call:f{a:[[[1]]]}<tool_call|>");
    assert_eq!(deep.errors[0].why, "the call is nested too deep: byte 12 is '1'");
    let long = format!("<|tool_call>call:f{{a:{}}}<tool_call|>Hi", "x".repeat(40));
    let long = parser(&long);
    assert_eq!((long.content.as_str(), long.errors[0].raw.len()), ("Hi", 30));
    assert_eq!(long.errors[0].why, "the call is longer than 30 bytes");
}

#[test]
fn hostile_calls_are_read_in_linear_time_and_on_a_small_stack() {
    let check = || {
        for unit in [
            "[", "{a:", "\"x,", "'x,", "\"\\", "a:\"x,", "<|\"|>", "<|\"|>,", "a:'\",", ",", " ", "<", "<|",
            "\\\"",
        ] {
            for prefix in
                ["", "<|tool_call>call:f{", "<|tool_call>call:f{a:", "<|tool_call>call:f{a:[", "<|channel>"]
            {
                let text = prefix.to_owned() + &unit.repeat(200_000);
                let started = std::time::Instant::now();
                run(spelled(), [(0, text.as_str())], Finish::Stop);
                // Quadratic time would be minutes.
                assert!(started.elapsed().as_secs() < 5, "{prefix}{unit}");
            }
        }
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(check).unwrap().join().unwrap();
}

/// All texts whose reading must not depend on how they are cut.
fn texts() -> impl Iterator<Item = String> {
    let good = table().into_iter().map(|(text, _)| text.to_owned());
    good.chain(MALFORMED.into_iter().map(|(body, ..)| format!("a<|tool_call>{body}<tool_call|>b")))
}

// Half a marker shown early would be in the deltas and not in the reply to the whole text.
#[test]
fn every_cut_gives_the_same_reply_and_shows_no_half_marker() {
    for text in texts() {
        let whole = run(spelled(), [(0, text.as_str())], Finish::Stop);
        for at in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
            let (left, right) = text.split_at(at);
            assert_eq!(run(spelled(), [(0, left), (0, right)], Finish::Stop), whole, "{left}|{right}");
        }
        let chars: Vec<&str> = text.split_inclusive(|_| true).collect();
        assert_eq!(run(spelled(), chars.iter().map(|c| (0, *c)), Finish::Stop), whole, "{text}");
    }
}

#[test]
fn every_truncation_gives_a_consistent_reply() {
    for text in texts() {
        let tokens_of_text = encode(&text);
        let whole = read(&text);
        for count in 0..=tokens_of_text.len() {
            let part = tokens_of_text[..count].iter().copied();
            let reply = run(Parser::new(tokens(), Start::Answer), part, Finish::Length);
            assert_eq!(reply.finish, Finish::Length);
            assert!(whole.reasoning.starts_with(&reply.reasoning), "{text}, {count}: {reply:?}");
            assert!(whole.content.starts_with(&reply.content), "{text}, {count}: {reply:?}");
            assert!(reply.tool_calls.len() <= whole.tool_calls.len() + whole.errors.len());
            // What has begun is either a call or an error.
            let begun = text[..part_bytes(&tokens_of_text[..count])].matches("<|tool_call>").count();
            assert_eq!(reply.tool_calls.len() + reply.errors.len(), begun, "{text}, {count}: {reply:?}");
        }
    }
}

fn part_bytes(tokens: &[(u32, &str)]) -> usize {
    tokens.iter().map(|(_, text)| text.len()).sum()
}
