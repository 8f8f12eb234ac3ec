//! Grammars of tool calls, in the Lark dialect of llguidance.
//!
//! A call is not JSON: keys are bare, strings stand between two quote tokens and know no escapes, nothing is spaced.
//! Members come in the order in which templates print them, by name without regard to case: that is the order the
//! model has seen. Of a schema this takes what shapes a call (types, properties, required, items, enum, const, any of,
//! references, lengths and bounds); what it does not know, such as patterns, it does not enforce.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Objects and lists inside one another that are followed; deeper values may be anything.
const DEPTH: usize = 32;
/// Rules of one grammar. A schema whose references fan out beyond it is taken loosely.
const RULES: usize = 20_000;
/// Longest bounded string or list that is counted.
const COUNTED: u64 = 1000;

/// Ids of the tokens that a call is built with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quotes {
    /// `<|"|>`
    pub(super) quote: u32,
    /// `<tool_call|>`
    pub(super) end: u32,
}

/// What stands between `<|tool_call>` and `<tool_call|>`, that token included, for a call of one of `tools`.
///
/// With `loose`, arguments may be anything.
pub(super) fn calls(tools: &[Value], quotes: Quotes, loose: bool) -> String {
    let mut rules =
        Rules { out: String::new(), count: 0, quote: quotes.quote, seen: HashMap::new(), root: &Value::Null };
    let mut heads = Vec::new();
    for tool in tools {
        let function = &tool["function"];
        let name = function["name"].as_str().unwrap_or_default();
        let parameters = &function["parameters"];
        rules.root = parameters;
        rules.seen.clear();
        let arguments = if loose { "any_object".to_owned() } else { rules.arguments(parameters) };
        heads.push(format!("{} {arguments}", literal(name)));
    }
    let mut out = format!("start: \"call:\" call <[{}]>\ncall: {}\n", quotes.end, heads.join("\n  | "));
    out.push_str(&rules.out);
    let quote = quotes.quote;
    let _ = write!(
        out,
        "text: <[{quote}]> TEXT? <[{quote}]>\n\
         any: text | NUMBER | \"true\" | \"false\" | \"null\" | any_object | any_list\n\
         any_object: \"{{\" (any_member (\",\" any_member)*)? \"}}\"\n\
         any_member: KEY \":\" any\n\
         any_list: \"[\" (any (\",\" any)*)? \"]\"\n\
         TEXT: /(?s:.+)/\n\
         KEY: /[^:{{}}\\[\\],<\"'\\s][^:{{}}\\[\\],<\"'\\n]{{0,200}}/\n\
         INTEGER: /-?(0|[1-9][0-9]{{0,18}})/\n\
         NUMBER: /-?(0|[1-9][0-9]{{0,18}})(\\.[0-9]{{1,18}})?([eE][+-]?[0-9]{{1,3}})?/\n"
    );
    out
}

/// A string of the grammar.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// Whether a schema names members.
fn has_properties(map: &Map<String, Value>) -> bool {
    map.get("properties").and_then(Value::as_object).is_some_and(|members| !members.is_empty())
}

struct Rules<'a> {
    out: String,
    count: usize,
    quote: u32,
    /// Rules of references of the tool at hand.
    seen: HashMap<String, String>,
    /// What references of the tool at hand start from.
    root: &'a Value,
}

impl<'a> Rules<'a> {
    fn rule(&mut self, body: &str) -> String {
        let name = self.name();
        let _ = writeln!(self.out, "{name}: {body}");
        name
    }

    fn name(&mut self) -> String {
        self.count += 1;
        format!("r{}", self.count)
    }

    /// The arguments of a tool: always an object.
    fn arguments(&mut self, schema: &'a Value) -> String {
        match schema.as_object() {
            Some(map) if map.contains_key("$ref") || has_properties(map) => match self.resolve(map, 0) {
                Some(map) => self.object(map, 0),
                None => self.value(schema, 0),
            },
            // A tool without parameters takes none.
            Some(map) if map.get("additionalProperties").is_none_or(|more| *more == Value::Bool(false)) => {
                "\"{}\"".to_owned()
            }
            Some(_) => "any_object".to_owned(),
            None => "\"{}\"".to_owned(),
        }
    }

    /// The object itself, where no reference has to be followed.
    fn resolve(&self, map: &'a Map<String, Value>, depth: usize) -> Option<&'a Map<String, Value>> {
        match map.get("$ref") {
            None => Some(map),
            Some(Value::String(to)) if depth < 8 => {
                let target = self.target(to)?.as_object()?;
                target.contains_key("properties").then_some(())?;
                self.resolve(target, depth + 1)
            }
            Some(_) => None,
        }
    }

    fn target(&self, reference: &str) -> Option<&'a Value> {
        reference.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer))
    }

    /// An expression for a value that a schema describes.
    fn value(&mut self, schema: &'a Value, depth: usize) -> String {
        let Some(map) = schema.as_object() else { return "any".to_owned() };
        if depth > DEPTH || self.count > RULES {
            return "any".to_owned();
        }
        if let Some(Value::String(to)) = map.get("$ref") {
            return self.reference(to, depth);
        }
        if let Some(value) = map.get("const") {
            return self.exactly(value);
        }
        if let Some(Value::Array(values)) = map.get("enum")
            && !values.is_empty()
        {
            let values: Vec<String> = values.iter().map(|value| self.exactly(value)).collect();
            return self.either(values);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(Value::Array(schemas)) = map.get(key)
                && !schemas.is_empty()
            {
                let values: Vec<String> =
                    schemas.iter().map(|schema| self.value(schema, depth + 1)).collect();
                return self.either(values);
            }
        }
        if let Some([one]) = map.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
            return self.value(one, depth + 1);
        }
        let mut values = match map.get("type") {
            Some(Value::String(kind)) => vec![self.typed(kind, map, depth)],
            Some(Value::Array(kinds)) if !kinds.is_empty() => {
                let kinds = kinds.iter().map(|kind| kind.as_str().unwrap_or_default());
                kinds.map(|kind| self.typed(kind, map, depth)).collect()
            }
            _ if map.contains_key("properties") => vec![self.object(map, depth)],
            _ if map.contains_key("items") => vec![self.list(map, depth)],
            _ => return "any".to_owned(),
        };
        if map.get("nullable") == Some(&Value::Bool(true)) {
            values.push("\"null\"".to_owned());
        }
        self.either(values)
    }

    fn either(&mut self, mut values: Vec<String>) -> String {
        values.dedup();
        match values.len() {
            1 => values.remove(0),
            _ => self.rule(&values.join("\n  | ")),
        }
    }

    /// A reference is a rule of its own, so that schemas may contain themselves.
    fn reference(&mut self, to: &str, depth: usize) -> String {
        if let Some(name) = self.seen.get(to) {
            return name.clone();
        }
        let Some(target) = self.target(to) else { return "any".to_owned() };
        let name = self.name();
        self.seen.insert(to.to_owned(), name.clone());
        let body = self.value(target, depth + 1);
        // A reference to itself alone describes nothing.
        let body = if body == name { "any" } else { &body };
        let _ = writeln!(self.out, "{name}: {body}");
        name
    }

    fn typed(&mut self, kind: &str, map: &'a Map<String, Value>, depth: usize) -> String {
        match kind.to_ascii_lowercase().as_str() {
            "string" => self.string(map),
            "integer" => Self::number("INTEGER", "integer", map),
            "number" => Self::number("NUMBER", "number", map),
            "boolean" => "(\"true\" | \"false\")".to_owned(),
            "null" => "\"null\"".to_owned(),
            "object" => self.object(map, depth),
            "array" => self.list(map, depth),
            _ => "any".to_owned(),
        }
    }

    fn string(&mut self, map: &Map<String, Value>) -> String {
        let bound = |key: &str| map.get(key).and_then(Value::as_u64).filter(|&n| n <= COUNTED);
        let (least, most) = (bound("minLength").unwrap_or(0), bound("maxLength"));
        if (least == 0 && most.is_none()) || most.is_some_and(|most| most < least) {
            return "text".to_owned();
        }
        let quote = self.quote;
        if most == Some(0) {
            return format!("<[{quote}]> <[{quote}]>");
        }
        let most = most.map(|n| n.to_string()).unwrap_or_default();
        let inside = format!("/(?s:.{{{},{most}}})/", least.max(1));
        let optional = if least == 0 { "?" } else { "" };
        self.rule(&format!("<[{quote}]> ({inside}){optional} <[{quote}]>"))
    }

    /// Numbers are written as in JSON, so bounds are llguidance's business.
    fn number(plain: &str, kind: &str, map: &Map<String, Value>) -> String {
        let keys = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
        let bounds: Map<String, Value> = keys
            .iter()
            .filter_map(|key| Some((*key, map.get(*key)?)))
            .filter(|(_, bound)| bound.as_f64().is_some_and(|bound| bound.abs() < 1e15))
            .map(|(key, bound)| (key.to_owned(), bound.clone()))
            .collect();
        let value = |key: &str| bounds.get(key).and_then(Value::as_f64);
        let least = value("minimum").or(value("exclusiveMinimum"));
        let most = value("maximum").or(value("exclusiveMaximum"));
        // Of an empty range nothing could be generated.
        let empty = least.zip(most).is_some_and(|(least, most)| most - least < 1.0);
        if bounds.is_empty() || empty {
            return plain.to_owned();
        }
        let mut schema = Map::from_iter([("type".to_owned(), Value::from(kind))]);
        schema.extend(bounds);
        format!("%json {}", Value::Object(schema))
    }

    fn list(&mut self, map: &'a Map<String, Value>, depth: usize) -> String {
        let item = match map.get("items") {
            Some(items) => self.value(items, depth + 1),
            None => "any".to_owned(),
        };
        let item = self.rule(&item);
        let bound = |key: &str| map.get(key).and_then(Value::as_u64).filter(|&n| n <= COUNTED);
        let (least, most) = (bound("minItems").unwrap_or(0), bound("maxItems"));
        let body = match (least, most) {
            (_, Some(0)) => "\"[\" \"]\"".to_owned(),
            (least, Some(most)) if most >= least.max(1) => {
                let more = format!("{item} (\",\" {item}){{{},{}}}", least.max(1) - 1, most - 1);
                if least == 0 { format!("\"[\" ({more})? \"]\"") } else { format!("\"[\" {more} \"]\"") }
            }
            (0, _) => format!("\"[\" ({item} (\",\" {item})*)? \"]\""),
            (least, _) => format!("\"[\" {item} (\",\" {item}){{{},}} \"]\"", least - 1),
        };
        self.rule(&body)
    }

    fn object(&mut self, map: &'a Map<String, Value>, depth: usize) -> String {
        let properties = map.get("properties").and_then(Value::as_object);
        let more = match map.get("additionalProperties") {
            Some(Value::Bool(false)) => None,
            Some(Value::Bool(true)) => Some("any".to_owned()),
            Some(schema) => Some(self.value(schema, depth + 1)),
            // JSON schema would allow anything more; a model is better off with what was declared.
            None => properties.is_none_or(Map::is_empty).then(|| "any".to_owned()),
        };
        let required: Vec<&str> = map
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let mut members: Vec<(&'a String, &'a Value)> = properties.into_iter().flatten().collect();
        members.sort_by_key(|(name, _)| name.to_lowercase());

        // Behind the last member: whatever is allowed beside those declared.
        let (mut first, mut next) = match &more {
            Some(value) => {
                let member = self.rule(&format!("KEY \":\" {value}"));
                let next = self.rule(&format!("(\",\" {member})*"));
                (self.rule(&format!("({member} (\",\" {member})*)?")), next)
            }
            None => (self.rule("\"\""), self.rule("\"\"")),
        };
        // From the last to the first: `first` where nothing was written yet, `next` where a comma is due.
        for (name, schema) in members.into_iter().rev() {
            let value = self.value(schema, depth + 1);
            let member = self.rule(&format!("{} {value}", self.key(name)));
            if required.contains(&name.as_str()) {
                first = self.rule(&format!("{member} {next}"));
                next = self.rule(&format!("\",\" {member} {next}"));
            } else {
                first = self.rule(&format!("{member} {next}\n  | {first}"));
                next = self.rule(&format!("(\",\" {member})? {next}"));
            }
        }
        self.rule(&format!("\"{{\" {first} \"}}\""))
    }

    /// A key and its colon: bare, or between quotes where it could not be read back.
    fn key(&self, name: &str) -> String {
        let bare = !name.is_empty()
            && !name.contains([':', '{', '}', '[', ']', '(', ')', ',', '=', '<', '"', '\'', '\n']);
        if bare && name.trim() == name {
            literal(&format!("{name}:"))
        } else {
            format!("<[{0}]> {1} <[{0}]> \":\"", self.quote, literal(name))
        }
    }

    /// This value and no other.
    fn exactly(&mut self, value: &Value) -> String {
        let quote = self.quote;
        match value {
            Value::String(text) if text.is_empty() => format!("(<[{quote}]> <[{quote}]>)"),
            Value::String(text) => format!("(<[{quote}]> {} <[{quote}]>)", literal(text)),
            Value::Array(items) => {
                let items: Vec<String> = items.iter().map(|item| self.exactly(item)).collect();
                self.rule(&format!("\"[\" {} \"]\"", items.join(" \",\" ")))
            }
            Value::Object(map) => {
                let mut members: Vec<(&String, &Value)> = map.iter().collect();
                members.sort_by_key(|(name, _)| name.to_lowercase());
                let members: Vec<String> = members
                    .into_iter()
                    .map(|(name, value)| format!("{} {}", self.key(name), self.exactly(value)))
                    .collect();
                self.rule(&format!("\"{{\" {} \"}}\"", members.join(" \",\" ")))
            }
            plain => literal(&plain.to_string()),
        }
    }
}
