//! The syntax of a call: `call:NAME{key:value,…}`.
//!
//! It is not JSON: keys are bare, strings stand between two quote tokens without any escapes. Models also write JSON,
//! Python and unquoted text, so what can only mean one thing is read too: keys and strings in double or single quotes,
//! `None`, `True`, `False`, a call in round brackets (with `=` for `:`), doubled braces, trailing commas. Text without
//! quotes is a string up to the next comma or closing bracket. Of a key that comes twice the last value counts.

use serde_json::{Map, Number, Value};

use super::message::FunctionCall;
use super::{Marker, parser::Limits};

const QUOTE: &str = Marker::Quote.text();

/// What the model wrote between the markers of a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Body {
    /// The text, quote tokens spelled out.
    pub(super) text: String,
    /// Byte offsets of the quote tokens, rising: a string may hold the same characters as ordinary text.
    quotes: Vec<usize>,
    /// More was written than [`Limits::call_bytes`]; the rest is lost.
    overflown: bool,
}

impl Body {
    pub(super) fn push(&mut self, text: &str, limits: Limits) {
        self.overflown |= text.len() > limits.call_bytes.saturating_sub(self.text.len());
        if !self.overflown {
            self.text.push_str(text);
        }
    }

    /// A marker that does not end the call.
    pub(super) fn push_marker(&mut self, marker: Marker, limits: Limits) {
        let place = self.text.len();
        self.push(marker.text(), limits);
        if marker == Marker::Quote && !self.overflown {
            self.quotes.push(place);
        }
    }

    /// Whether the call is over at `marker`, properly or because its end is missing.
    pub(super) fn ends_at(&self, marker: Marker) -> bool {
        match marker {
            Marker::Quote | Marker::ChannelEnd | Marker::ResponseEnd => false,
            // In a string it is text.
            Marker::Channel => self.quotes.len().is_multiple_of(2),
            // Even in a string: better one call lost than all that follow it.
            Marker::Call | Marker::CallEnd | Marker::Response | Marker::Turn | Marker::TurnEnd => true,
        }
    }

    /// Reads the call.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(super) fn parse(&self, limits: Limits) -> Result<FunctionCall, String> {
        if self.overflown {
            return Err(format!("the call is longer than {} bytes", limits.call_bytes));
        }
        let start = self.text.len() - self.text.trim_start().len();
        if !self.text[start..].starts_with("call:") {
            return Err("the call does not begin with `call:`".to_owned());
        }
        let start = start + "call:".len();
        let Some(open) = self.text[start..].find(['{', '(']).map(|open| open + start) else {
            return Err("no arguments follow the name".to_owned());
        };
        let name = self.text[start..open].trim();
        let name = name.strip_prefix(QUOTE).and_then(|name| name.strip_suffix(QUOTE)).unwrap_or(name);
        if name.is_empty() {
            return Err("the name is missing".to_owned());
        }
        let mut reader = Reader { text: &self.text, quotes: &self.quotes, at: open, depth: limits.depth };
        let arguments = reader.arguments()?;
        reader.skip_space();
        if reader.at < self.text.len() {
            return Err(reader.wrong("text follows the arguments"));
        }
        Ok(FunctionCall { name: name.to_owned(), arguments })
    }
}

/// What a list of members or items stands in.
#[derive(Clone, Copy)]
enum Bracket {
    Brace,
    Square,
    Round,
}

impl Bracket {
    fn close(self) -> char {
        match self {
            Self::Brace => '}',
            Self::Square => ']',
            Self::Round => ')',
        }
    }

    /// Whether `c` stands between a key and its value.
    fn assigns(self, c: char) -> bool {
        c == ':' || (c == '=' && matches!(self, Self::Round))
    }
}

/// Reads from left to right. Text is read at most a few times over: a quoted string that turns out to be none is read
/// again as bare text, but ends where the next such string would begin.
struct Reader<'a> {
    text: &'a str,
    quotes: &'a [usize],
    /// Byte offset.
    at: usize,
    /// Levels that may still be opened.
    depth: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn wrong(&self, what: &str) -> String {
        match self.rest().chars().next() {
            Some(c) => format!("{what}: byte {} is {c:?}", self.at),
            None => format!("{what}: the call ends"),
        }
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn next_is(&self, c: char) -> bool {
        self.rest().starts_with(c)
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.next_is(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    /// Offset of the first quote token from `at` on.
    fn next_quote(&self, at: usize) -> Option<usize> {
        self.quotes.get(self.quotes.partition_point(|quote| *quote < at)).copied()
    }

    /// Where text without quote tokens ends.
    fn end_of_text(&self, at: usize) -> usize {
        self.next_quote(at).unwrap_or(self.text.len())
    }

    fn descend<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, String> {
        self.depth = self.depth.checked_sub(1).ok_or_else(|| self.wrong("the call is nested too deep"))?;
        let value = read(self)?;
        self.depth += 1;
        Ok(value)
    }

    /// `{…}`, `(…)`, and either around another `{…}`.
    fn arguments(&mut self) -> Result<Map<String, Value>, String> {
        let bracket = if self.take('{') {
            Bracket::Brace
        } else {
            self.take('(');
            Bracket::Round
        };
        self.skip_space();
        if !self.take('{') {
            return self.descend(|reader| reader.members(bracket));
        }
        let members = self.descend(|reader| reader.members(Bracket::Brace))?;
        self.skip_space();
        if !self.take(bracket.close()) {
            return Err(self.wrong(&format!("expected `{}`", bracket.close())));
        }
        Ok(members)
    }

    /// The rest of an object, behind its opening bracket.
    fn members(&mut self, bracket: Bracket) -> Result<Map<String, Value>, String> {
        let mut members = Map::new();
        while !self.end_of_list(bracket)? {
            let key = self.key(bracket)?;
            self.skip_space();
            let value = self.value(bracket)?;
            members.insert(key, value);
            self.end_of_entry(bracket)?;
        }
        Ok(members)
    }

    /// The rest of an array, behind its opening bracket.
    fn items(&mut self) -> Result<Vec<Value>, String> {
        let mut items = Vec::new();
        while !self.end_of_list(Bracket::Square)? {
            items.push(self.value(Bracket::Square)?);
            self.end_of_entry(Bracket::Square)?;
        }
        Ok(items)
    }

    /// Steps over white space and spare commas; true behind the closing bracket.
    fn end_of_list(&mut self, bracket: Bracket) -> Result<bool, String> {
        self.skip_space();
        while self.take(',') {
            self.skip_space();
        }
        if self.at == self.text.len() {
            return Err(self.wrong(&format!("expected `{}`", bracket.close())));
        }
        Ok(self.take(bracket.close()))
    }

    /// Stops in front of the comma or bracket that must follow an entry.
    fn end_of_entry(&mut self, bracket: Bracket) -> Result<(), String> {
        self.skip_space();
        if self.next_is(',') || self.next_is(bracket.close()) {
            Ok(())
        } else {
            Err(self.wrong(&format!("expected `,` or `{}`", bracket.close())))
        }
    }

    /// A key and what assigns to it.
    fn key(&mut self, bracket: Bracket) -> Result<String, String> {
        let assign = |c: char| bracket.assigns(c);
        if let Some(key) = self.token_string()? {
            self.skip_space();
            if !self.rest().starts_with(assign) {
                return Err(self.wrong("expected `:` after a key"));
            }
            self.at += 1;
            return Ok(key);
        }
        if let Some((key, end)) = self.quoted_string(assign) {
            self.at = end + 1;
            return Ok(key);
        }
        let end = self.end_of_text(self.at);
        let text = &self.text[self.at..end];
        match text.find(|c| assign(c) || c == bracket.close()) {
            Some(end) if text[end..].starts_with(assign) && !text[..end].trim().is_empty() => {
                self.at += end + 1;
                Ok(text[..end].trim().to_owned())
            }
            _ => Err(self.wrong("expected a key and `:`")),
        }
    }

    fn value(&mut self, bracket: Bracket) -> Result<Value, String> {
        if let Some(text) = self.token_string()? {
            return Ok(Value::String(text));
        }
        if self.take('{') {
            return self.descend(|reader| reader.members(Bracket::Brace)).map(Value::Object);
        }
        if self.take('[') {
            return self.descend(Self::items).map(Value::Array);
        }
        if let Some((text, end)) = self.quoted_string(|c| c == ',' || c == bracket.close()) {
            self.at = end;
            return Ok(Value::String(text));
        }
        let text = &self.text[self.at..self.end_of_text(self.at)];
        let end = text.find([',', bracket.close()]).unwrap_or(text.len());
        let text = text[..end].trim_end();
        if text.is_empty() {
            return Err(self.wrong("expected a value"));
        }
        self.at += text.len();
        Ok(bare(text))
    }

    /// A string between quote tokens, if one starts here.
    fn token_string(&mut self) -> Result<Option<String>, String> {
        if self.next_quote(self.at) != Some(self.at) {
            return Ok(None);
        }
        let start = self.at + QUOTE.len();
        let Some(end) = self.next_quote(start) else {
            return Err(format!("the string at byte {} does not end", self.at));
        };
        self.at = end + QUOTE.len();
        Ok(Some(self.text[start..end].to_owned()))
    }

    /// A string in double or single quotes with JSON's escapes, if one starts here and `follows` comes after it and
    /// white space, and the offset of what follows.
    fn quoted_string(&self, follows: impl Fn(char) -> bool) -> Option<(String, usize)> {
        let rest = &self.text[self.at..self.end_of_text(self.at)];
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let mut out = String::new();
        let mut chars = rest.char_indices().skip(1);
        loop {
            let (place, c) = chars.next()?;
            if c == quote {
                let tail = rest[place + 1..].trim_start();
                return tail.starts_with(follows).then(|| (out, self.at + rest.len() - tail.len()));
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let (place, escaped) = chars.next()?;
            match escaped {
                'b' => out.push('\u{8}'),
                'f' => out.push('\u{c}'),
                'n' => out.push('\n'),
                'r' => out.push('\r'),
                't' => out.push('\t'),
                '"' | '\\' | '/' | '\'' => out.push(escaped),
                'u' => {
                    if let Some((c, digits)) = unicode_escape(&rest[place..]) {
                        out.push(c);
                        chars.nth(digits - 1);
                    } else {
                        out.push_str("\\u");
                    }
                }
                // No escape of JSON: a path or a regular expression.
                other => {
                    out.push('\\');
                    out.push(other);
                }
            }
        }
    }
}

/// `text` begins with a `u` and four hexadecimal digits, maybe the first half of a pair: the character, and the bytes behind the `u`.
fn unicode_escape(text: &str) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = text.get(at..at + 4).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(1)?;
    if let Some(c) = char::from_u32(first.into()) {
        return Some((c, 4));
    }
    let second = text.get(5..7).filter(|escape| *escape == "\\u").and_then(|_| unit(7))?;
    char::decode_utf16([first, second]).next()?.ok().map(|c| (c, 10))
}

/// A value without quotes.
fn bare(text: &str) -> Value {
    match text {
        "true" | "True" => Value::Bool(true),
        "false" | "False" => Value::Bool(false),
        "null" | "None" => Value::Null,
        _ => text.parse::<Number>().map_or_else(|_| Value::String(text.to_owned()), Value::Number),
    }
}
