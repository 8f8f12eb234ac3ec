use serde_json::json;

use super::{Reply, reply};

/// What models write, and what it means. The first are llama.cpp's test cases.
pub(super) fn table() -> Vec<(&'static str, Reply)> {
    let say = |content| reply("", content, &[]);
    let call = |name, arguments| reply("", "", &[(name, arguments)]);
    let f = |arguments| reply("", "", &[("f", arguments)]);
    vec![
        ("Hello, world!", say("Hello, world!")),
        (
            "<|channel>thought\nI'm\nthinking<channel|>Hello, world!\nWhat's up?",
            reply("I'm\nthinking", "Hello, world!\nWhat's up?", &[]),
        ),
        ("<|channel>thought<channel|>Hello", say("Hello")),
        ("<|channel>thought\n<channel|>Hi<channel|>", say("Hi")),
        ("<|channel>thought\n<channel|>Hi<|channel>thought\n<channel|>", say("Hi")),
        ("<|channel>thought\n<channel|>Hi<|channel>thought\n<channel|><channel|>", say("Hi")),
        ("<|channel><|channel>thought\n<channel|>Hi", say("Hi")),
        (
            "<|tool_call>call:get_time{city:<|\"|>San Francisco<|\"|>}<tool_call|>",
            call("get_time", json!({"city": "San Francisco"})),
        ),
        ("<|tool_call>call:empty_args{}<tool_call|>", call("empty_args", json!({}))),
        (
            "Hello<|tool_call>call:get_time{city:<|\"|>Paris<|\"|>}<tool_call|>",
            reply("", "Hello", &[("get_time", json!({"city": "Paris"}))]),
        ),
        (
            "<|tool_call>call:f{a:1}<tool_call|><|tool_call>call:g{b:2}<tool_call|>",
            reply("", "", &[("f", json!({"a": 1})), ("g", json!({"b": 2}))]),
        ),
        ("<|tool_call>call:f{arg1:42}<tool_call|>", f(json!({"arg1": 42}))),
        ("<|tool_call>call:f{arg1:-7}<tool_call|>", f(json!({"arg1": -7}))),
        ("<|tool_call>call:f{orig:3.25}<tool_call|>", f(json!({"orig": 3.25}))),
        ("<|tool_call>call:f{orig:1.5e10}<tool_call|>", f(json!({"orig": 1.5e10}))),
        ("<|tool_call>call:f{enabled:true}<tool_call|>", f(json!({"enabled": true}))),
        ("<|tool_call>call:f{enabled:false}<tool_call|>", f(json!({"enabled": false}))),
        ("<|tool_call>call:f{value:null}<tool_call|>", f(json!({"value": null}))),
        (
            "<|tool_call>call:f{todos:[<|\"|>buy milk<|\"|>,<|\"|>walk dog<|\"|>]}<tool_call|>",
            f(json!({"todos": ["buy milk", "walk dog"]})),
        ),
        ("<|tool_call>call:f{todos:[]}<tool_call|>", f(json!({"todos": []}))),
        (
            "<|tool_call>call:f{config:{theme:<|\"|>dark<|\"|>,count:3}}<tool_call|>",
            f(json!({"config": {"theme": "dark", "count": 3}})),
        ),
        ("<|tool_call>call:f{config:{}}<tool_call|>", f(json!({"config": {}}))),
        // The turn's own header and end.
        ("<|turn>model\nHi<turn|>\n<|turn>user\nnot me", say("Hi")),
        ("<|turn>model\n<|channel>thought\nhm\n<channel|>Hi", reply("hm", "Hi", &[])),
        ("<|turn>modern art", say("modern art")),
        ("<|turn>model", say("model")),
        ("Hi<|turn>user\nnot me", say("Hi")),
        (
            "<|tool_call>call:f{}<tool_call|><|tool_response>response:f{value:1}<tool_response|>no",
            f(json!({})),
        ),
        ("", say("")),
        // Thoughts.
        ("<|channel>thought\n  a\n\n<channel|>Hi", reply("a\n", "Hi", &[])),
        ("<|channel>thought\na\n<channel|>b<|channel>thought\nc\n<channel|>d", reply("a\nc", "bd", &[])),
        ("<|channel>thought\na\n", reply("a", "", &[])),
        ("<|channel>thought", say("")),
        ("<|channel>tho", say("")),
        ("<|channel>", say("")),
        ("<|channel>plan: a\n<channel|>Hi", reply("plan: a", "Hi", &[])),
        ("<|channel>thou shalt<channel|>Hi", reply("thou shalt", "Hi", &[])),
        ("<|channel>thought\na<|channel>thought\nb<channel|>Hi", reply("a\nb", "Hi", &[])),
        (
            "<|channel>thought\nuse <|\"|>x<|\"|><|tool_call>call:f{}<tool_call|>",
            reply("use \"x\"", "", &[("f", json!({}))]),
        ),
        // Content is kept as it is; what is nothing but white space is none.
        ("  indented\n", say("  indented\n")),
        ("\n\n<|channel>thought\n<channel|>\n<|tool_call>call:f{}<tool_call|>\n", f(json!({}))),
        ("a < b <| c <|x> <tool", say("a < b <| c <|x> <tool")),
        ("He said <|\"|>hi<|\"|>.<tool_call|><tool_response|>", say("He said \"hi\".")),
        // Names.
        ("<|tool_call>call:mcp.git-log/v2{n:1}<tool_call|>", call("mcp.git-log/v2", json!({"n": 1}))),
        ("<|tool_call>call: f {a:1}<tool_call|>", f(json!({"a": 1}))),
        ("<|tool_call>call:<|\"|>f<|\"|>{a:1}<tool_call|>", f(json!({"a": 1}))),
        // White space, spare commas, keys of all kinds.
        (
            "<|tool_call> call:f{ a : [ 1 , 2 , ] ,\n b : { c : <|\"|> x <|\"|> } , }\n<tool_call|>",
            f(json!({"a": [1, 2], "b": {"c": " x "}})),
        ),
        ("<|tool_call>call:f{,a:1,,b:2}<tool_call|>", f(json!({"a": 1, "b": 2}))),
        (
            "<|tool_call>call:f{<|\"|>a:b<|\"|>:1,\"c}d\":2,'e':3}<tool_call|>",
            f(json!({"a:b": 1, "c}d": 2, "e": 3})),
        ),
        ("<|tool_call>call:f{a b-c.d:1,\"e\"f:2}<tool_call|>", f(json!({"a b-c.d": 1, "\"e\"f": 2}))),
        ("<|tool_call>call:f{a:1,b:2,a:3}<tool_call|>", f(json!({"a": 3, "b": 2}))),
        // Values of all kinds.
        (
            "<|tool_call>call:f{a:None,b:True,c:False}<tool_call|>",
            f(json!({"a": null, "b": true, "c": false})),
        ),
        (
            "<|tool_call>call:f{a:Paris, France:x,b:10 km,c:007,d:1e999,e:-,f:1.}<tool_call|>",
            f(
                json!({"a": "Paris", "France": "x", "b": "10 km", "c": "007", "d": "1e999", "e": "-", "f": "1."}),
            ),
        ),
        ("<|tool_call>call:f{a:x)y,b:[p}q]}<tool_call|>", f(json!({"a": "x)y", "b": ["p}q"]}))),
        (
            "<|tool_call>call:f{a:<|\"|>{\"x\": [1, '2']}, } ] : \\n <b>\n<|\"|>}<tool_call|>",
            f(json!({"a": "{\"x\": [1, '2']}, } ] : \\n <b>\n"})),
        ),
        (
            "<|tool_call>call:f{a:<|\"|><|\"|>,b:<|\"|>日本語🙂<|\"|>}<tool_call|>",
            f(json!({"a": "", "b": "日本語🙂"})),
        ),
        (
            "<|tool_call>call:f{a:<|\"|>x<|channel>y<channel|>z<|\"|>}<tool_call|>",
            f(json!({"a": "x<|channel>y<channel|>z"})),
        ),
        // JSON and Python.
        (
            r#"<|tool_call>call:f{"a": "x\n\"y\" \u00e9\ud83d\ude42 \d \u12", "b": [1, {"c": null}]}<tool_call|>"#,
            f(json!({"a": "x\n\"y\" é🙂 \\d \\u12", "b": [1, {"c": null}]})),
        ),
        (
            "<|tool_call>call:f{a:'it\\'s',b:'tis,c:\"x\" y}<tool_call|>",
            f(json!({"a": "it's", "b": "'tis", "c": "\"x\" y"})),
        ),
        ("<|tool_call>call:f{{\"a\": 1}}<tool_call|>", f(json!({"a": 1}))),
        ("<|tool_call>call:f({a:1})<tool_call|>", f(json!({"a": 1}))),
        (
            "<|tool_call>call:f(a=1, b='x', c:<|\"|>)<|\"|>)<tool_call|><|tool_call>call:g()<tool_call|>",
            reply("", "", &[("f", json!({"a": 1, "b": "x", "c": ")"})), ("g", json!({}))]),
        ),
        // A call whose end is missing.
        ("<|tool_call>call:f{a:1}<turn|>", f(json!({"a": 1}))),
        ("<|tool_call>call:f{a:1}<|tool_response>", f(json!({"a": 1}))),
        ("<|tool_call>call:f{a:1}", f(json!({"a": 1}))),
        (
            "<|tool_call>call:f{}<|tool_call>call:g{}<tool_call|>",
            reply("", "", &[("f", json!({})), ("g", json!({}))]),
        ),
        ("<|tool_call>call:f{}<|channel>thought\nhm<channel|>Hi", reply("hm", "Hi", &[("f", json!({}))])),
    ]
}

/// Calls that cannot be read, and why.
pub(super) const MALFORMED: [(&str, &str, &str); 16] = [
    ("", "", "the call does not begin with `call:`"),
    ("{\"name\": \"f\"}", "{\"name\": \"f\"}", "the call does not begin with `call:`"),
    ("call:f", "call:f", "no arguments follow the name"),
    ("call:{a:1}", "call:{a:1}", "the name is missing"),
    ("call:f{a:1", "call:f{a:1", "expected `,` or `}`: the call ends"),
    ("call:f{a:[1}", "call:f{a:[1}", "expected `,` or `]`: the call ends"),
    ("call:f{a:1}}", "call:f{a:1}}", "text follows the arguments: byte 11 is '}'"),
    ("call:f{a:1} done", "call:f{a:1} done", "text follows the arguments: byte 12 is 'd'"),
    ("call:f{a}", "call:f{a}", "expected a key and `:`: byte 7 is 'a'"),
    ("call:f{:1}", "call:f{:1}", "expected a key and `:`: byte 7 is ':'"),
    ("call:f{a:}", "call:f{a:}", "expected a value: byte 9 is '}'"),
    ("call:f{a:<|\"|>x}", "call:f{a:<|\"|>x}", "the string at byte 9 does not end"),
    ("call:f{a:<|\"|>x<|\"|>y}", "call:f{a:<|\"|>x<|\"|>y}", "expected `,` or `}`: byte 20 is 'y'"),
    ("call:f{a:x<|\"|>y<|\"|>}", "call:f{a:x<|\"|>y<|\"|>}", "expected `,` or `}`: byte 10 is '<'"),
    ("call:f(\"Paris\")", "call:f(\"Paris\")", "expected a key and `:`: byte 7 is '\"'"),
    ("BEGIN_ARG x END_ARG", "BEGIN_ARG x END_ARG", "the call does not begin with `call:`"),
];
