use std::time::Duration;

use gemma4_core::chat::Start;
use gemma4_core::tokenizer::Special;

use super::*;
use crate::cli::Global;
use crate::load;

struct Told {
    reasoning: String,
    content: String,
    logs: Vec<usize>,
    calls: Vec<(usize, String, String)>,
    ended: Result<Ended, Failed>,
}

/// What a reader makes of an output; `stop` ends it, `reason` is the engine's.
fn read(output: &str, stop: &[&str], reason: job::Finish) -> Told {
    let checkpoint = load::checkpoint(&Global::on_the_processor()).unwrap();
    let speaker = Speaker::new(&checkpoint).unwrap();
    let tokenizer = &speaker.tokenizer;
    let tokens = tokenizer.encode(output, Special::Parse).unwrap();
    let mut reader = Reader {
        parser: Some(speaker.parser(Start::Answer)),
        stream: Some(Stream::new(Markup::Show)),
        stops: Stops::new(stop.iter().map(|word| (*word).to_owned()).collect()),
        stopped: None,
        end: speaker.end.clone(),
        raw: false,
        logs: Vec::new(),
        reuse: None,
        reasoning: 0,
        said: false,
        calls: 0,
        open: None,
        known: HashSet::new(),
        broken: None,
    };
    let mut out = VecDeque::new();
    for id in tokens {
        let event = Event::Token { id, logprob: Some(-0.5), top: Vec::new() };
        reader.take(tokenizer, event, &mut out);
    }
    let usage = Usage { generated: 7, decode_time: Duration::from_secs(1), ..Usage::default() };
    reader.take(tokenizer, Event::Finished { reason, usage }, &mut out);
    let (mut reasoning, mut content, mut logs, mut calls) =
        (String::new(), String::new(), Vec::new(), Vec::new());
    let mut ended = None;
    for piece in out {
        assert!(ended.is_none(), "nothing follows the end");
        match piece {
            Piece::Reasoning(text) => reasoning += &text,
            Piece::Content(text, more) => {
                content += &text;
                logs.extend(more.iter().map(|log| log.offset));
            }
            Piece::Call(call) => {
                assert!(call.id.starts_with("call_") && call.id.len() > 20);
                calls.push((call.index, call.name, call.arguments));
            }
            Piece::Finished(end) => ended = Some(end),
            Piece::Started(_) | Piece::Prefill { .. } => {}
        }
    }
    Told { reasoning, content, logs, calls, ended: ended.unwrap() }
}

const CALL: &str = "<|tool_call>call:get_weather{city:<|\"|>Paris<|\"|>}<tool_call|>";

#[test]
fn thoughts_answers_and_calls_are_told_apart() {
    let told = read("<|channel>thought\nWell.<channel|>It is <turn|>", &[], job::Finish::Stop);
    assert_eq!((told.reasoning.as_str(), told.content.as_str()), ("Well.", "It is "));
    let ended = told.ended.unwrap();
    assert!(ended.finish == Finish::Stop && ended.reasoning >= 3, "{ended:?}");
    assert_eq!(told.logs.first(), Some(&0));
    let two = format!("{CALL}{}<|tool_response>", CALL.replace("Paris", "Rome"));
    let told = read(&two, &[], job::Finish::Stop);
    let call = |index, city: &str| (index, "get_weather".to_owned(), format!("{{\"city\":\"{city}\"}}"));
    assert_eq!(told.calls, [call(0, "Paris"), call(1, "Rome")]);
    assert_eq!(told.ended.unwrap().finish, Finish::ToolCalls);
}

#[test]
fn the_same_call_twice_is_one() {
    let told = read(&format!("{CALL}{CALL}{CALL}<|tool_response>"), &[], job::Finish::Stop);
    assert_eq!(told.calls.len(), 1);
}

#[test]
fn a_stop_string_ends_text_and_tokens() {
    let told = read("one two three four<turn|>", &[" three"], job::Finish::Stop);
    assert_eq!(told.content, "one two");
    assert!(told.logs.iter().all(|&offset| offset < "one two".len()), "{:?}", told.logs);
    assert_eq!(told.ended.unwrap().finish, Finish::StopString(" three".to_owned()));
    let told = read("<|channel>thought\none three<channel|>two<turn|>", &["three"], job::Finish::Stop);
    assert_eq!(
        (told.reasoning.as_str(), told.content.as_str()),
        ("one three", "two"),
        "thoughts are not the answer"
    );
}

#[test]
fn a_broken_call_is_an_error_and_never_an_empty_answer() {
    let broken = "<|tool_call>get_weather(Paris)<tool_call|><|tool_response>";
    for output in [broken.to_owned(), format!("Let me see.{broken}"), format!("{CALL}{broken}")] {
        let told = read(&output, &[], job::Finish::Stop);
        let error = told.ended.unwrap_err();
        assert!(matches!(&error, Failed::Call { .. }), "{output}: {error}");
        assert!(error.to_string().contains("does not begin with `call:`"), "{error}");
    }
    // Cut off in a call: `length` says so where there is anything to see.
    let cut = "<|tool_call>call:get_weather{city:<|\"|>Pa";
    assert!(read(cut, &[], job::Finish::Length).ended.is_err());
    let told = read(&format!("Let me see.{cut}"), &[], job::Finish::Length);
    assert_eq!((told.content.as_str(), told.ended.unwrap().finish), ("Let me see.", Finish::Length));
}

#[test]
fn what_ended_an_answer_otherwise_is_told() {
    assert!(matches!(read("x", &[], job::Finish::Deadline).ended, Err(Failed::Deadline)));
    assert!(matches!(read("x", &[], job::Finish::Cancelled).ended, Err(Failed::Cancelled)));
    let failed = read("x", &[], job::Finish::Failed("no device".to_owned())).ended.unwrap_err();
    assert_eq!(failed.to_string(), "the engine failed: no device");
    assert_eq!(read("x", &[], job::Finish::Constraint).ended.unwrap().finish, Finish::Stop);
    // A thought that was cut is a thought.
    let told = read("<|channel>thought\nWell, let", &[], job::Finish::Length);
    assert_eq!((told.reasoning.as_str(), told.content.as_str()), ("Well, let", ""));
}
