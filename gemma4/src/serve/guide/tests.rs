use gemma4_core::dialogue::Speaker;
use gemma4_core::tokenizer::Special;
use serde_json::json;

use super::*;
use crate::cli::Global;
use crate::load;

struct Bench {
    speaker: Speaker,
    guides: Guides,
    words: usize,
}

impl Bench {
    fn new() -> Self {
        let checkpoint = load::checkpoint(&Global::on_the_processor()).unwrap();
        let vocab = checkpoint.model().unwrap().config.vocab;
        let speaker = Speaker::new(&checkpoint).unwrap();
        let guides = Guides::new(speaker.markers().clone(), speaker.end.clone(), vocab);
        Self { speaker, guides, words: vocab.div_ceil(32) }
    }

    fn guide(&self, rules: &Rules<'_>) -> Guide {
        self.guides.guide(&self.speaker.tokenizer, rules, Start::Answer).unwrap().unwrap()
    }

    fn mask(&self, guide: &mut Guide) -> Vec<u32> {
        let mut mask = vec![0; self.words];
        guide.allowed(&mut mask).unwrap();
        mask
    }

    /// Feeds an output; how many of its tokens were allowed, and whether it may end there.
    fn feed(&self, guide: &mut Guide, output: &str) -> (usize, usize, bool) {
        let tokens = self.speaker.tokenizer.encode(output, Special::Parse).unwrap();
        for (at, &token) in tokens.iter().enumerate() {
            let mask = self.mask(guide);
            if mask[token as usize / 32] >> (token % 32) & 1 == 0 {
                return (at, tokens.len(), false);
            }
            guide.accept(token).unwrap();
        }
        let end = self.speaker.tokenizer.marks().turn_end.unwrap();
        let mask = self.mask(guide);
        (tokens.len(), tokens.len(), mask[end as usize / 32] >> (end % 32) & 1 == 1)
    }

    #[track_caller]
    fn takes(&self, rules: &Rules<'_>, output: &str) {
        let (allowed, of, ends) = self.feed(&mut self.guide(rules), output);
        assert_eq!((allowed, ends), (of, true), "{output}");
    }

    #[track_caller]
    fn refuses(&self, rules: &Rules<'_>, output: &str) {
        let (allowed, of, ends) = self.feed(&mut self.guide(rules), output);
        assert!(allowed < of || !ends, "{output}");
    }
}

fn tool(name: &str, parameters: &Value) -> Value {
    json!({ "type": "function", "function": { "name": name, "parameters": parameters } })
}

fn call(arguments: &str) -> String {
    let arguments = arguments.replace('\'', "<|\"|>");
    format!("<|tool_call>call:{arguments}<tool_call|>")
}

#[test]
fn arguments_are_those_that_were_declared() {
    let bench = Bench::new();
    let tools = [
        tool(
            "paint",
            &json!({
                "type": "object", "required": ["color", "size"], "additionalProperties": false,
                "properties": {
                    "size": { "type": "integer", "minimum": 1, "maximum": 9 },
                    "color": { "type": "string", "enum": ["red", "dark green"] },
                    "Names": { "type": "array", "items": { "type": "string" }, "maxItems": 2 },
                    "shiny": { "type": ["boolean", "null"] },
                    "at": { "type": "object", "properties": { "x": { "type": "number" } }, "required": ["x"] },
                },
            }),
        ),
        tool("stop-now.please", &json!({ "type": "object", "properties": {} })),
        tool("anything", &json!({ "type": "object", "additionalProperties": true })),
    ];
    let rules = Rules { tools: &tools, ..Rules::default() };
    for arguments in [
        "paint{color:'red',size:3}",
        "paint{at:{x:-2.5e3},color:'dark green',Names:[],shiny:true,size:9}",
        "paint{color:'red',Names:['a','b, ]}'],shiny:null,size:1}",
        "stop-now.please{}",
        "anything{}",
        "anything{a:'x',b:[1,{c:null}],d:false}",
    ] {
        bench.takes(&rules, &call(arguments));
    }
    for arguments in [
        "paint{}",
        "paint{size:3}",
        "paint{color:'red',size:10}",
        "paint{color:'red',size:0}",
        "paint{color:'blue',size:3}",
        "paint{color:red,size:3}",
        "paint{size:3,color:'red'}",
        "paint{color:'red',Names:['a','b','c'],size:3}",
        "paint{color:'red',size:3,more:1}",
        "paint{at:{},color:'red',size:3}",
        "paint(color:'red')",
        "stop-now.please{a:1}",
        "other{}",
    ] {
        bench.refuses(&rules, &call(arguments));
    }
    let one = call("stop-now.please{}");
    bench.takes(&rules, "Just text.");
    bench.takes(&rules, &format!("I will.{one}"));
    bench.takes(&rules, &format!("{one}{}", call("anything{}")));
    bench.refuses(&rules, &format!("{one}text"));
    bench.refuses(&Rules { one_call: true, ..rules.clone() }, &format!("{one}{}", call("anything{}")));
    let must = Rules { must_call: true, ..rules };
    bench.takes(&must, &one);
    bench.refuses(&must, "Just text.");
    bench.refuses(&must, "");
}

#[test]
fn a_call_that_repeats_itself_is_the_last() {
    let bench = Bench::new();
    let tools = [tool("f", &json!({ "type": "object", "properties": { "x": { "type": "integer" } } }))];
    let rules = Rules { tools: &tools, ..Rules::default() };
    let (one, two) = (call("f{x:1}"), call("f{x:2}"));
    bench.takes(&rules, &format!("{one}{two}"));
    bench.takes(&rules, &format!("{one}{two}{one}"));
    bench.refuses(&rules, &format!("{one}{one}{two}"));
}

#[test]
fn schemas_may_refer_to_themselves_and_bound_their_strings() {
    let bench = Bench::new();
    let tools = [tool(
        "f",
        &json!({
            "type": "object", "required": ["t"],
            "properties": {
                "t": { "$ref": "#/$defs/tree" },
                "s": { "type": "string", "minLength": 2, "maxLength": 3 },
                "c": { "const": "x" },
                "loop": { "$ref": "#/$defs/loop" },
                "odd: key": { "anyOf": [{ "type": "integer" }, { "type": "string" }] },
            },
            "$defs": {
                "tree": { "type": "object", "properties": { "next": { "$ref": "#/$defs/tree" } } },
                "loop": { "$ref": "#/$defs/loop" },
            },
        }),
    )];
    let rules = Rules { tools: &tools, ..Rules::default() };
    bench.takes(&rules, &call("f{t:{next:{next:{}}}}"));
    bench.takes(&rules, &call("f{c:'x','odd: key':5,s:'abc',t:{}}"));
    bench.refuses(&rules, &call("f{s:'a',t:{}}"));
    bench.refuses(&rules, &call("f{s:'abcd',t:{}}"));
    bench.refuses(&rules, &call("f{c:'y',t:{}}"));
    bench.refuses(&rules, &call("f{t:{next:3}}"));
}

#[test]
fn json_answers_follow_their_schema() {
    let bench = Bench::new();
    let schema = json!({
        "type": "object", "required": ["a"], "additionalProperties": false,
        "properties": { "a": { "type": "integer" }, "b": { "$ref": "#/$defs/b" } }, "$defs": { "b": { "type": "string" } },
    });
    let rules = Rules { schema: Some(&schema), ..Rules::default() };
    for output in ["{\"a\":1}", "{\"a\": 1, \"b\": \"x\"}", "{\n  \"a\": 1\n}"] {
        bench.takes(&rules, output);
    }
    for output in [
        "{}",
        "{\"a\":\"1\"}",
        "Sure: {\"a\":1}",
        "{\"a\":1} there",
        "{\"c\":1}",
        "<|channel>thought\nHm.<channel|>{\"a\":1}",
    ] {
        bench.refuses(&rules, output);
    }
    let thinking = Rules { thoughts: true, ..rules };
    bench.takes(&thinking, "<|channel>thought\nHm, {}.<channel|>{\"a\":1}");
    bench.takes(&thinking, "{\"a\":1}");
    let wrong = json!({ "type": "nonsense" });
    let error = bench.guides.guide(
        &bench.speaker.tokenizer,
        &Rules { schema: Some(&wrong), ..Rules::default() },
        Start::Answer,
    );
    assert!(matches!(error, Err(BadRule::Schema(why)) if !why.is_empty() && !why.contains('\n')));
}

#[test]
fn a_budget_closes_a_thought_and_opens_no_other() {
    let bench = Bench::new();
    let rules = Rules { thoughts: true, budget: Some(4), ..Rules::default() };
    let mut guide = bench.guide(&rules);
    let marks = *bench.speaker.tokenizer.marks();
    let (open, close) = (marks.channel.unwrap(), marks.channel_end.unwrap());
    guide.accept(open).unwrap();
    for _ in 0..4 {
        let mask = bench.mask(&mut guide);
        assert!(mask.iter().map(|word| word.count_ones()).sum::<u32>() > 1000);
        let end = marks.turn_end.unwrap();
        assert_eq!(mask[end as usize / 32] >> (end % 32) & 1, 0, "an answer does not end in a thought");
        guide.accept(300).unwrap();
    }
    let mask = bench.mask(&mut guide);
    assert_eq!(mask.iter().map(|word| word.count_ones()).sum::<u32>(), 1, "only its end is left");
    assert_eq!(mask[close as usize / 32] >> (close % 32) & 1, 1);
    guide.accept(close).unwrap();
    let mask = bench.mask(&mut guide);
    assert_eq!(mask[open as usize / 32] >> (open % 32) & 1, 0, "the budget is spent");
}
