//! Dialogues: templates, messages, and what the model writes.

use gemma4_core::chat::{ChatError, ChatTemplate, Delta, Dialogue, Finish, Marker, Markers, Message, Parser};
use gemma4_core::chat::{Reasoning, Reply, Role, Start};
use serde_json::{Value, json};

use crate::fuzz::{Syntax, Target, keys};

/// Separates pieces of output in an input of [`Output`].
const CUT: char = '\u{1}';
/// Starts a piece that is a token with the id that the next character gives.
const TOKEN: char = '\u{2}';

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    let words = words.iter().map(|word| word.as_bytes().to_vec());
    words.chain(Marker::ALL.map(|marker| marker.text().as_bytes().to_vec())).collect()
}

/// The parser of the model's output.
///
/// An input is a byte of options and text in pieces.
#[derive(Debug)]
pub(super) struct Output;

impl Output {
    fn parser(options: u8, markers: Markers) -> Parser {
        let start = if options & 2 == 0 { Start::Answer } else { Start::Thought };
        let mode = if options & 4 == 0 { Reasoning::Apart } else { Reasoning::InContent };
        Parser::new(markers, start).reasoning(mode)
    }

    fn finish(options: u8) -> Finish {
        [Finish::Stop, Finish::ToolCalls, Finish::Length, Finish::Cancelled][usize::from(options >> 3 & 3)]
    }
}

impl Target for Output {
    fn name(&self) -> &'static str {
        "chat"
    }

    fn syntax(&self) -> Syntax {
        Syntax::Bytes
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        let call =
            "<|tool_call>call:f{a:<|\"|>x<|\"|>,b:[1,-2.5e3,true,null],c:{d:<|\"|><|\"|>}}<tool_call|>";
        let text = format!("<|channel>thought\nWell.\n<channel|>It is {call}{call}<|tool_response>");
        let tokens = "\u{2}\u{0}thought\nWell.\u{1}\u{2}\u{1}It is\u{1}\u{2}\u{2}call:f{a:\u{1}\u{2}\u{6}x\u{1}\u{2}\u{6}}\
                      \u{1}\u{2}\u{3}\u{1}\u{2}\u{8}";
        let cut = text.replace('_', "\u{1}_").replace('e', "e\u{1}");
        let mut samples = Vec::new();
        for options in [0, 2, 4, 8, 16] {
            samples.push([&[options], text.as_bytes()].concat());
            samples.push([&[options], cut.as_bytes()].concat());
            samples.push([&[options + 1], tokens.as_bytes()].concat());
        }
        samples
    }

    fn words(&self) -> Vec<Vec<u8>> {
        words(&[
            "thought\n",
            "call:",
            "model\n",
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\u{1}",
            "\u{1}\u{2}",
            "\u{2}\u{6}",
            "1e9",
        ])
    }

    fn label(&self) -> &'static str {
        ""
    }

    fn inputs(&self) -> u64 {
        10_000
    }

    fn never_refuses(&self) -> bool {
        true
    }

    fn run(&self, input: &[u8]) -> Result<(), String> {
        let (&options, text) = input.split_first().unwrap_or((&0, &[]));
        let text = String::from_utf8_lossy(text);
        let with_tokens = options & 1 == 1;
        let markers = if with_tokens {
            Markers::find(|text| {
                (0..).zip(Marker::ALL).find(|(_, marker)| marker.text() == text).map(|(id, _)| id)
            })
        } else {
            Markers::spelled()
        };
        let mut parser = Self::parser(options, markers.clone());
        let mut deltas = Vec::new();
        let mut plain = String::new();
        for piece in text.split(CUT) {
            let mut chars = piece.chars();
            match (chars.next(), chars.next()) {
                (Some(TOKEN), Some(id)) if with_tokens => {
                    deltas.extend(parser.push(u32::from(id) % 16, chars.as_str()));
                }
                _ => {
                    plain += piece;
                    deltas.extend(parser.push_text(piece));
                }
            }
        }
        let (last, reply) = parser.finish(Self::finish(options));
        deltas.extend(last);
        agree(deltas, &reply);
        if !with_tokens {
            let mut parser = Self::parser(options, markers);
            let _ = parser.push_text(&plain);
            assert_eq!(
                parser.finish(Self::finish(options)).1,
                reply,
                "the reply depends on where the text is cut"
            );
        }
        Ok(())
    }
}

/// What was streamed is what the reply says.
fn agree(deltas: Vec<Delta>, reply: &Reply) {
    let (mut reasoning, mut content, mut arguments) = (String::new(), String::new(), Vec::<String>::new());
    let (mut names, mut ends, mut errors) = (Vec::new(), 0, 0);
    for delta in deltas {
        match delta {
            Delta::Reasoning(text) => reasoning += &text,
            Delta::Content(text) => content += &text,
            Delta::ToolCallStart { index, name } => {
                assert_eq!(index, names.len());
                names.push(name);
                arguments.push(String::new());
            }
            Delta::ToolCallArguments { index, json } => arguments[index] += &json,
            Delta::ToolCallEnd { index } => {
                assert_eq!(index, ends);
                ends += 1;
            }
            Delta::ToolCallError { index, raw, why } => {
                assert_eq!((index, &raw, &why), (errors, &reply.errors[index].raw, &reply.errors[index].why));
                errors += 1;
            }
        }
    }
    assert_eq!((reasoning, content), (reply.reasoning.clone(), reply.content.clone()));
    assert_eq!(
        (names.len(), ends, errors),
        (reply.tool_calls.len(), reply.tool_calls.len(), reply.errors.len())
    );
    for ((name, text), call) in names.iter().zip(&arguments).zip(&reply.tool_calls) {
        assert_eq!(*name, call.name);
        assert_eq!(serde_json::from_str::<Value>(text).ok(), Some(Value::Object(call.arguments.clone())));
    }
}

/// Templates, each rendered with several dialogues.
#[derive(Debug)]
pub(super) struct Template;

impl Target for Template {
    fn name(&self) -> &'static str {
        "template"
    }

    fn syntax(&self) -> Syntax {
        Syntax::Bytes
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        let small = "{{ bos_token }}{%- for m in messages %}{{ '<|turn>' + m['role'] + '\n' }}\
                     {%- if m.content is string %}{{ m.content | trim }}{% else %}{{ m.tool_calls | tojson }}{% endif -%}\
                     <turn|>\n{%- endfor %}{% set ns = namespace(x=0) %}{% for i in range(3) %}{% set ns.x = ns.x + i %}\
                     {% if ns.x > 9 %}{{ raise_exception('no') }}{% endif %}{% endfor %}\
                     {% macro f(a, b=1) %}{{ a[::-1] }}{{ b }}{% endmacro %}{{ f('x') }}\
                     {% if add_generation_prompt %}<|turn>model\n{% endif %}";
        let builtin = ChatTemplate::builtin("<bos>", "<eos>").source().to_owned();
        vec![small.as_bytes().to_vec(), builtin.into_bytes()]
    }

    fn words(&self) -> Vec<Vec<u8>> {
        words(&[
            "{{",
            "}}",
            "{%",
            "%}",
            "{#",
            "#}",
            "-",
            "messages",
            "m",
            "tools",
            "bos_token",
            "enable_thinking",
            "loop.index",
            "{% for i in range(9) %}",
            "{% endfor %}",
            "{% if x %}",
            "{% endif %}",
            "{% set x = ",
            "| tojson",
            "| length",
            ".split(',')",
            ".strip()",
            "[1:]",
            "[::-1]",
            "~",
            "*",
            "**",
            "//",
            "%",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            "'",
            "99999999999",
            "is defined",
            "is mapping",
            "namespace(",
            "dictsort",
            "items()",
            "range(",
            "| join",
            "| replace('a', 'b')",
        ])
    }

    fn label(&self) -> &'static str {
        "chat template"
    }

    fn inputs(&self) -> u64 {
        300
    }

    fn run(&self, input: &[u8]) -> Result<(), String> {
        let template = ChatTemplate::new(&String::from_utf8_lossy(input), "<bos>", "<eos>")
            .map_err(|error| error.to_string())?;
        for dialogue in dialogues() {
            template.render(&dialogue).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

/// Dialogues in JSON, rendered with the built-in template.
#[derive(Debug)]
pub(super) struct Messages;

/// How [`Messages`] itself names what is not even a list of messages.
const NOT_MESSAGES: &str = "not a dialogue";

impl Target for Messages {
    fn name(&self) -> &'static str {
        "dialogue"
    }

    fn syntax(&self) -> Syntax {
        Syntax::Json
    }

    fn samples(&self) -> Vec<Vec<u8>> {
        vec![sample().to_string().into_bytes()]
    }

    fn words(&self) -> Vec<Vec<u8>> {
        let mut all = words(&[
            "system",
            "developer",
            "user",
            "assistant",
            "tool",
            "text",
            "{\"a\": 1}",
            "function",
            "string",
        ]);
        all.extend(keys(sample().to_string().as_bytes()));
        all
    }

    fn label(&self) -> &'static str {
        ""
    }

    fn inputs(&self) -> u64 {
        1_000
    }

    fn run(&self, input: &[u8]) -> Result<(), String> {
        let not = |error: serde_json::Error| format!("{NOT_MESSAGES}: {error}");
        let mut value: Value = serde_json::from_slice(input).map_err(not)?;
        let mut take = |key: &str| value.get_mut(key).map(Value::take).unwrap_or_default();
        let messages: Vec<Message> = serde_json::from_value(take("messages")).map_err(not)?;
        let dialogue = Dialogue {
            messages,
            tools: take("tools").as_array().cloned().unwrap_or_default(),
            enable_thinking: take("enable_thinking") == json!(true),
            add_generation_prompt: take("add_generation_prompt") == json!(true),
            extra: take("extra").as_object().cloned().unwrap_or_default(),
        };
        ChatTemplate::builtin("<bos>", "<eos>").render(&dialogue).map(drop).map_err(|error| named(&error))
    }
}

/// The text of an error, which says what it is about.
fn named(error: &ChatError) -> String {
    let text = error.to_string();
    let place = ["chat template", "message ", "tool "].into_iter().find(|place| text.starts_with(place));
    assert!(place.is_some(), "the error says not where: {text}");
    text
}

fn sample() -> Value {
    json!({
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Weather in Rome?"}]},
            {"role": "assistant", "reasoning_content": "A call.", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome", "days": [1, 2.5, null, true, {"a": "b"}]}}}
            ]},
            {"role": "tool", "tool_call_id": "1", "content": "{\"sky\": \"clear\"}"},
            {"role": "assistant", "content": "Clear."},
            {"role": "user", "content": "Thanks"}
        ],
        "tools": [{"type": "function", "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Name", "enum": ["Rome", "Oslo"]},
                    "days": {"type": "array", "items": {"type": "integer"}, "nullable": true}
                },
                "required": ["city"]
            }
        }}],
        "enable_thinking": true,
        "add_generation_prompt": true,
        "extra": {"preserve_thinking": false}
    })
}

fn dialogues() -> [Dialogue; 2] {
    let mut value = sample();
    let messages = serde_json::from_value(value["messages"].take()).expect("the sample is a dialogue");
    let tools = value["tools"].as_array().cloned().unwrap_or_default();
    let long = Dialogue { tools, enable_thinking: true, ..Dialogue::new(messages) };
    [Dialogue::new(vec![Message::new(Role::User, "Hello".to_owned())]), long]
}
