use gemma4_core::chat::Message;
use serde_json::json;

use super::*;
use crate::cli::Global;
use crate::load;

fn pocket() -> Model {
    let checkpoint = load::checkpoint(&Global::on_the_processor()).unwrap();
    let vocab = checkpoint.model().unwrap().config.vocab;
    let speaker = Arc::new(Speaker::new(&checkpoint).unwrap());
    Model::new(speaker, "pocket".to_owned(), 256, vocab, false)
}

fn ask(messages: Vec<Message>) -> Ask {
    Ask::new(Source::Dialogue(Dialogue::new(messages)), Sampling::default())
}

fn weather() -> Value {
    json!({ "type": "function", "function": { "name": "get_weather", "parameters": {
        "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] } } })
}

#[test]
fn a_changing_line_about_billing_does_not_change_the_prompt() {
    let model = pocket();
    let prompt = |system: &str| {
        let messages = vec![Message::new(Role::System, system), Message::new(Role::User, "Hi")];
        model.prepare(ask(messages)).unwrap().prompt
    };
    let plain = prompt("Be brief.\nBe kind.");
    for system in [
        "x-anthropic-billing-header: cc_version=2.1; cch=00001;\nBe brief.\nBe kind.",
        "Be brief.\n  x-anthropic-billing-header: cch=fffff;\nBe kind.",
    ] {
        assert_eq!(prompt(system), plain, "{system}");
    }
    assert_ne!(prompt("The x-anthropic-billing-header: is a header.\nBe brief."), plain, "other lines stay");
}

#[test]
fn a_begun_answer_is_continued() {
    let model = pocket();
    let user = Message::new(Role::User, "What does numpy.sum do?");
    let plain = model.prepare(ask(vec![user.clone()])).unwrap().prompt;
    let begun = model.prepare(ask(vec![user, Message::new(Role::Assistant, "Sum of ")])).unwrap().prompt;
    assert_eq!(begun[..plain.len()], plain);
    let tail = model.speaker.tokenizer.decode(&begun[plain.len()..], gemma4_core::tokenizer::Markup::Show);
    assert_eq!(tail, "Sum of");
}

#[test]
fn rules_are_made_only_where_something_has_to_be_enforced() {
    let model = pocket();
    let user = || vec![Message::new(Role::User, "Hi")];
    assert!(model.prepare(ask(user())).unwrap().guide.is_none());
    let thinking = Ask { thinking: Thinking { on: true, budget: None }, ..ask(user()) };
    assert!(model.prepare(thinking).unwrap().guide.is_none());
    let brief = Ask { thinking: Thinking { on: true, budget: Some(3) }, ..ask(user()) };
    assert!(model.prepare(brief).unwrap().guide.is_some());
    let dialogue = Dialogue { tools: vec![weather()], ..Dialogue::new(user()) };
    let auto = Ask::new(Source::Dialogue(dialogue), Sampling::default());
    let call = model.speaker.markers().id(Marker::Call).unwrap();
    let prepared = model.prepare(auto.clone()).unwrap();
    assert!(prepared.guide.is_some() && !prepared.suppress.contains(&call));
    let none = model.prepare(Ask { choice: ToolChoice::None, ..auto.clone() }).unwrap();
    assert!(none.guide.is_none() && none.suppress.contains(&call));
    assert_eq!(none.prompt, prepared.prompt, "tools stay in the prompt, and so in the cache");
    for (choice, says) in [
        (ToolChoice::Named(vec!["other".to_owned()]), "`tool_choice`: there is no tool `other` among the 1"),
        (ToolChoice::Required, "`tool_choice`: a call is required, and there are no tools"),
    ] {
        let tools = if choice == ToolChoice::Required { Vec::new() } else { vec![weather()] };
        let dialogue = Dialogue { tools, ..Dialogue::new(user()) };
        let ask = Ask { choice, ..Ask::new(Source::Dialogue(dialogue), Sampling::default()) };
        let error = model.prepare(ask).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn what_cannot_be_enforced_or_is_too_long_is_refused() {
    let model = pocket();
    let user = |text: &str| vec![Message::new(Role::User, text)];
    let format = Format::Schema {
        schema: json!({ "type": "integer", "minimum": 5, "maximum": 1 }),
        key: "here".to_owned(),
    };
    let error = model.prepare(Ask { format, ..ask(user("Hi")) }).unwrap_err();
    assert!(matches!(&error, Failed::Rule { key, .. } if key == "here"), "{error}");
    let error = model.prepare(ask(user(&"x ".repeat(300)))).unwrap_err();
    assert!(matches!(error, Failed::Refused(Refused::TooLong { context: 256, .. })), "{error}");
}
