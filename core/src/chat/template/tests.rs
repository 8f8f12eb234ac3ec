use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::chat::{Content, Part};

const LAUNCH: &str = include_str!("../fixtures/launch.jinja");
const POCKET: &str = include_str!("../fixtures/pocket.jinja");

fn compile(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, "<bos>", "<eos>").unwrap()
}

fn builtin() -> ChatTemplate {
    ChatTemplate::builtin("<bos>", "<eos>")
}

fn dialogue(value: &Value) -> Dialogue {
    Dialogue {
        messages: serde_json::from_value(value["messages"].clone()).unwrap(),
        tools: value["tools"].as_array().cloned().unwrap_or_default(),
        enable_thinking: value["enable_thinking"].as_bool().unwrap_or(false),
        add_generation_prompt: value["add_generation_prompt"].as_bool().unwrap_or(true),
        extra: Map::new(),
    }
}

fn user(text: &str) -> Dialogue {
    Dialogue::new(vec![Message::new(Role::User, text)])
}

fn error(source: &str) -> String {
    match ChatTemplate::new(source, "", "") {
        Ok(template) => template.render(&user("hi")).unwrap_err().to_string(),
        Err(err) => err.to_string(),
    }
}

#[test]
fn prompts_are_those_of_jinja2() {
    let dialogues: BTreeMap<String, Value> =
        serde_json::from_str(include_str!("../fixtures/dialogues.json")).unwrap();
    let expected: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_str(include_str!("../fixtures/expected.json")).unwrap();
    let templates = [("launch", compile(LAUNCH)), ("pocket", compile(POCKET)), ("gemma4", builtin())];
    assert_eq!(expected.len(), templates.len());
    for (name, template) in &templates {
        assert_eq!(expected[*name].len(), dialogues.len());
        for (case, prompt) in &expected[*name] {
            assert_eq!(&template.render(&dialogue(&dialogues[case])).unwrap(), prompt, "{name}: {case}");
        }
    }
}

// From renderings of Google's own template for the 31B.
#[test]
fn the_builtin_template_prints_what_google_prints() {
    let template = builtin();
    let hi = json!([{"role": "user", "content": " Hi "}]);
    let call = |id: &str, x: i32| json!([{"id": id, "function": {"name": "f", "arguments": {"x": x}}}]);
    for (value, prompt) in [
        (json!({"messages": hi}), "<bos><|turn>user\nHi<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"),
        (
            json!({"messages": hi, "enable_thinking": true}),
            "<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n",
        ),
        (
            json!({"messages": [{"role": "system", "content": "Be brief."}, hi[0]], "enable_thinking": true}),
            "<bos><|turn>system\n<|think|>\nBe brief.<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n",
        ),
        (
            json!({"messages": [
                hi[0],
                {"role": "assistant", "tool_calls": [
                    {"id": "a", "function": {"name": "get_weather", "arguments": "{\"days\": 3, \"city\": \"Paris\"}"}},
                ]},
                {"role": "tool", "tool_call_id": "a", "content": "{\"t\":20}"},
            ]}),
            "<bos><|turn>user\nHi<turn|>\n<|turn>model\n<|tool_call>call:get_weather{city:<|\"|>Paris<|\"|>,days:3}\
             <tool_call|><|tool_response>response:get_weather{value:<|\"|>{\"t\":20}<|\"|>}<tool_response|>",
        ),
        (
            json!({"messages": [
                hi[0],
                {"role": "assistant", "tool_calls": call("a", 1)},
                {"role": "tool", "tool_call_id": "a", "content": "A"},
                {"role": "assistant", "content": "final"},
                {"role": "user", "content": "next"},
            ]}),
            "<bos><|turn>user\nHi<turn|>\n<|turn>model\n<|tool_call>call:f{x:1}<tool_call|><|tool_response>response:f\
             {value:<|\"|>A<|\"|>}<tool_response|>final<turn|>\n<|turn>user\nnext<turn|>\n<|turn>model\n\
             <|channel>thought\n<channel|>",
        ),
        (
            json!({"enable_thinking": true, "messages": [
                hi[0],
                {"role": "assistant", "reasoning_content": "r1", "tool_calls": call("a", 1)},
                {"role": "tool", "tool_call_id": "a", "content": "A"},
                {"role": "assistant", "reasoning_content": "r2", "tool_calls": call("b", 2)},
                {"role": "tool", "tool_call_id": "b", "content": "B"},
            ]}),
            "<bos><|turn>system\n<|think|>\n<turn|>\n<|turn>user\nHi<turn|>\n<|turn>model\n\
             <|channel>thought\nr1\n<channel|><|tool_call>call:f{x:1}<tool_call|>\
             <|tool_response>response:f{value:<|\"|>A<|\"|>}<tool_response|>\
             <|channel>thought\nr2\n<channel|><|tool_call>call:f{x:2}<tool_call|>\
             <|tool_response>response:f{value:<|\"|>B<|\"|>}<tool_response|>",
        ),
        (
            json!({"messages": hi, "tools": [{"type": "function", "function": {
                "name": "get_weather", "description": "Get weather.",
                "parameters": {"type": "object", "required": ["city"], "properties": {
                    "city": {"type": "string", "description": "City"},
                    "days": {"type": "integer"},
                    "opt": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "unit": {"type": "string", "enum": ["C", "F"]},
                }},
            }}]}),
            "<bos><|turn>system\n<|tool>declaration:get_weather{description:<|\"|>Get weather.<|\"|>,parameters:\
             {properties:{city:{description:<|\"|>City<|\"|>,type:<|\"|>STRING<|\"|>},days:{type:<|\"|>INTEGER<|\"|>},\
             opt:{properties:{a:{type:<|\"|>BOOLEAN<|\"|>}},required:[<|\"|>a<|\"|>],type:<|\"|>OBJECT<|\"|>},\
             tags:{items:{type:<|\"|>STRING<|\"|>},type:<|\"|>ARRAY<|\"|>},unit:{enum:[<|\"|>C<|\"|>,<|\"|>F<|\"|>],\
             type:<|\"|>STRING<|\"|>}},required:[<|\"|>city<|\"|>],type:<|\"|>OBJECT<|\"|>}}<tool|><turn|>\n\
             <|turn>user\nHi<turn|>\n<|turn>model\n<|channel>thought\n<channel|>",
        ),
    ] {
        assert_eq!(template.render(&dialogue(&value)).unwrap(), prompt);
    }
}

#[test]
fn the_builtin_template_mends_what_google_garbles() {
    let tool = |parameters: Value| Dialogue {
        tools: vec![json!({"function": {"name": "f", "parameters": parameters}})],
        ..user("hi")
    };
    for (parameters, part) in [
        // A parameter may have any name.
        (
            json!({"type": "object", "properties": {"type": {"type": "string"}, "description": {"type": "string"}}}),
            "properties:{description:{type:<|\"|>STRING<|\"|>},type:{type:<|\"|>STRING<|\"|>}},type:",
        ),
        // A schema without type is still closed.
        (
            json!({"properties": {"x": {"type": "string"}}}),
            "parameters:{properties:{x:{type:<|\"|>STRING<|\"|>}},type:<|\"|>OBJECT<|\"|>}}<tool|>",
        ),
        // A list of types.
        (
            json!({"type": "object", "properties": {"x": {"type": ["string", "null"], "enum": ["a"]}}}),
            "x:{enum:[<|\"|>a<|\"|>],type:[<|\"|>STRING<|\"|>,<|\"|>NULL<|\"|>]}",
        ),
        // Schemas that say nothing, or nothing that Gemma knows.
        (
            json!({"type": "object", "properties": {"x": true, "y": {"anyOf": [{"type": "string"}]}, "z": {}}}),
            "properties:{x:{type:<|\"|><|\"|>},y:{type:<|\"|><|\"|>},z:{type:<|\"|><|\"|>}}",
        ),
    ] {
        let prompt = builtin().render(&tool(parameters)).unwrap();
        assert!(prompt.contains(part), "{prompt}");
    }
}

#[test]
fn blank_content_beside_a_call_does_not_end_the_models_turn() {
    let value = json!({"messages": [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "\n", "tool_calls": [{"id": "a", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "A"},
    ]});
    let prompt = builtin().render(&dialogue(&value)).unwrap();
    assert!(prompt.ends_with(
        "<|tool_call>call:f{}<tool_call|><|tool_response>response:f{value:<|\"|>A<|\"|>}<tool_response|>"
    ));
}

#[test]
fn launch_templates_get_tool_results_the_way_they_expect_them() {
    assert!(is_outdated_template(LAUNCH));
    assert!(!is_outdated_template(POCKET) && !is_outdated_template(BUILTIN));
    let value = json!({"messages": [
        {"role": "user", "content": "go"},
        {"role": "assistant", "tool_calls": [
            {"function": {"name": "f", "arguments": "{}"}}, {"function": {"name": "g", "arguments": {}}},
        ]},
        {"role": "tool", "content": "{\"t\": 20, \"ok\": true}"},
        {"role": "tool", "content": "[1, \"x\"]"},
        {"role": "assistant", "content": "final"},
        {"role": "user", "content": "next"},
    ]});
    let prompt = compile(LAUNCH).render(&dialogue(&value)).unwrap();
    assert!(
        prompt.contains(
            "<|turn>model\n<|tool_call>call:f{}<tool_call|><|tool_call>call:g{}<tool_call|>\
             <|tool_response>response:f{ok:true,t:20}<tool_response|>\
             <|tool_response>response:g{value:[1,<|\"|>x<|\"|>]}<tool_response|>final<turn|>\n<|turn>user\nnext"
        ),
        "{prompt}"
    );
}

fn is_outdated_template(source: &str) -> bool {
    outdated::is_outdated(source)
}

#[test]
fn tool_results_are_named_after_the_call_they_answer() {
    let value = json!({"messages": [
        {"role": "user", "content": "go"},
        {"role": "assistant", "tool_calls": [
            {"id": "1", "function": {"name": "f"}}, {"id": "2", "function": {"name": "g"}},
        ]},
        {"role": "tool", "tool_call_id": "2", "name": "liar", "content": "a"},
        {"role": "tool", "tool_call_id": "gone", "name": "own", "content": "b"},
        {"role": "assistant", "tool_calls": [{"id": "3", "function": {"name": "h"}}]},
        {"role": "tool", "content": "c"},
    ]});
    let values = message_values(&dialogue(&value).messages);
    let names: Vec<_> = values.iter().filter_map(|value| value["name"].as_str()).collect();
    assert_eq!(names, ["g", "own", "h"]);
}

#[test]
fn system_parts_become_one_text() {
    let part = |text: &str| Part::Text { text: text.into() };
    let system = Message::new(Role::Developer, Content::Parts(vec![part("Be "), part("brief.")]));
    let dialogue = Dialogue::new(vec![system, Message::new(Role::User, "Hi")]);
    for source in [LAUNCH, POCKET, BUILTIN] {
        let prompt = compile(source).render(&dialogue).unwrap();
        assert!(prompt.starts_with("<bos><|turn>system\nBe brief.<turn|>\n"), "{prompt}");
    }
}

#[test]
fn templates_of_other_models_find_what_they_use() {
    let source = "{%- set ns = namespace(n=0) -%}
{%- for m in messages[::-1] if m.get('content', '').strip() -%}
{%- set ns.n = ns.n + 1 %}{% if ns.n > 2 %}{% break %}{% endif -%}
{{ m.role | upper }}:{{ m['content'].split('|')[0] }};
{%- endfor -%}
{{ tools | tojson }} {{ tools[0].function | tojson(indent=2) }} {{ eos_token }} {{ mood }}
{%- if strftime_now('%Y') | int < 2020 %}{{ raise_exception('the clock is wrong') }}{% endif %}";
    let dialogue = Dialogue {
        messages: vec![
            Message::new(Role::User, "one"),
            Message::new(Role::User, "two|2"),
            Message::new(Role::User, "<three> & 'all'"),
        ],
        tools: vec![json!({"function": {"name": "é<", "parameters": {}, "x": [], "y": [1.0, 1e20]}})],
        extra: json!({"mood": "fine", "messages": "never"}).as_object().unwrap().clone(),
        ..Dialogue::default()
    };
    let prompt = compile(source).render(&dialogue).unwrap();
    assert_eq!(
        prompt,
        "USER:<three> & 'all';USER:two;\
         [{\"function\": {\"name\": \"é<\", \"parameters\": {}, \"x\": [], \"y\": [1.0, 1e+20]}}] \
         {\n  \"name\": \"é<\",\n  \"parameters\": {},\n  \"x\": [],\n  \"y\": [\n    1.0,\n    1e+20\n  ]\n} <eos> fine"
    );
}

// Expectations: json.dumps.
#[test]
fn tojson_takes_the_arguments_of_python() {
    for (options, text) in [
        ("", r#"{"b": ["é", 1], "a": null}"#),
        ("ensure_ascii=true", r#"{"b": ["\u00e9", 1], "a": null}"#),
        ("separators=(',', ':')", r#"{"b":["é",1],"a":null}"#),
        ("sort_keys=true", r#"{"a": null, "b": ["é", 1]}"#),
    ] {
        let source = format!("{{{{ {{'b': ['é', 1], 'a': none}} | tojson({options}) }}}}");
        assert_eq!(compile(&source).render(&user("")).unwrap(), text);
    }
}

#[test]
fn errors_name_the_line_and_the_reason() {
    for (source, text) in [
        ("a\n{% if %}", "chat template, line 2: syntax error: unexpected end of block"),
        ("a\n\n{{ messages.nope.deeper }}", "chat template, line 3: undefined value"),
        (
            "\n{{ raise_exception('roles must alternate') }}",
            "chat template, line 2: invalid operation: roles must alternate",
        ),
        (
            "{{ messages | no_such_filter }}",
            "chat template, line 1: unknown filter: filter no_such_filter is unknown",
        ),
    ] {
        let message = error(source);
        assert!(message.starts_with(text), "{message}");
    }
}

#[test]
fn templates_that_look_at_all_pairs_of_messages_can_read_long_dialogues() {
    let source = "{%- set ns = namespace(last='') -%}
{%- for m in messages -%}
{%- for j in range(loop.index0 - 1, -1, -1) -%}
{%- if not ns.found -%}{%- if messages[j]['role'] != 'tool' -%}{%- set ns.last = m.content -%}{%- endif -%}{%- endif -%}
{%- endfor -%}
{%- endfor -%}
{{ ns.last }}";
    let messages = (0..2500).map(|index| Message::new(Role::User, index.to_string())).collect();
    assert_eq!(compile(source).render(&Dialogue::new(messages)).unwrap(), "2499");
}

// On a small stack: servers render on threads of 2 MiB.
#[test]
fn hostile_templates_end_in_an_error() {
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    let cases = [
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% set x = a %}{% endfor %}{% endfor %}", "takes too many steps"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion limit"),
        ("{% macro m(x) %}{% for y in [1] %}{{ m([x]) }}{% endfor %}{% endmacro %}{{ m([]) }}", "recursion limit"),
        ("{% for x in [messages] recursive %}{{ loop([x]) }}{% endfor %}", "recursion limit"),
        ("{% include 'chat' %}", "could not render include"),
        ("{% for a in range(1000) %}{% for b in range(1000) %}0123456789abcdef0123456789abcdef{% endfor %}{% endfor %}", "longer than"),
        ("{% set x = 'x' * 90000000 %}{{ x }}", "longer than"),
        ("{% for a in range(9999) %}{% set y %}{{ 'x' * 99999 }}{% endset %}{% endfor %}", "longer than"),
        ("{{ range(1000000000000) }}", "too many elements"),
        ("{{ [1] | tojson(indent=99999999999) }}", "indent is more than 64"),
        (nested.as_str(), "recursion limit"),
    ]
    .map(|(source, text)| (source.to_owned(), text));
    let check = move || {
        for (source, text) in cases {
            let message = error(&source);
            assert!(message.contains(text), "{message}");
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(check).unwrap().join().unwrap();
}

#[test]
fn a_dialogue_as_deep_as_allowed_fits_on_a_small_stack() {
    // Each as deep as the check lets through: 64 levels, two for every object of a schema.
    let mut schema = json!({"type": "string"});
    for _ in 0..30 {
        schema = json!({"type": "object", "properties": {"x": schema}});
    }
    let mut value = json!(1);
    for _ in 0..32 {
        value = json!([{"k": value}]);
    }
    let value = json!({
        "messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": {"x": value}}}]},
            {"role": "tool", "tool_call_id": "a", "content": "A"},
        ],
        "tools": [{"function": {"name": "f", "description": "", "parameters": schema}}],
    });
    let check = move || {
        for source in [LAUNCH, POCKET, BUILTIN] {
            compile(source).render(&dialogue(&value)).unwrap();
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(check).unwrap().join().unwrap();
}

#[test]
fn a_template_that_makes_the_engine_panic_is_an_error() {
    let source = "{% macro f(a=1) %}{{ a[::-1] }}{% endmacro %}{{ f('') }}";
    let template = ChatTemplate::new(source, "<bos>", "<eos>").expect("it compiles");
    let dialogue = Dialogue::new(vec![Message::new(Role::User, "Hi".to_owned())]);
    let error = template.render(&dialogue).expect_err("the slice has no first element");
    assert!(matches!(error, ChatError::Template { .. }), "{error}");
}
