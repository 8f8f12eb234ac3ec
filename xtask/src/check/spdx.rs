//! SPDX licence expressions, as far as package manifests use them.
//!
//! Grammar (SPDX specification 2.3, annex D): `or = and {OR and}`, `and = one {AND one}`,
//! `one = "(" or ")" | id [WITH id]`. Old manifests write `/` for OR, which the registry still accepts.

/// Parentheses deeper than this are refused rather than followed.
const MAX_DEPTH: usize = 32;

#[derive(Debug, PartialEq)]
pub(crate) enum Expression {
    /// A licence, with its exception in the same text: `Apache-2.0 WITH LLVM-exception`.
    Licence(String),
    And(Vec<Expression>),
    Or(Vec<Expression>),
}

impl Expression {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let spaced = text.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut parser = Parser { words: &words, depth: 0 };
        let expression = parser.or()?;
        match parser.words.first() {
            None => Ok(expression),
            Some(word) => Err(format!("`{word}` is left over in `{text}`")),
        }
    }

    /// Whether terms can be chosen such that every one of them is `allowed`.
    pub(crate) fn satisfied_by(&self, allowed: &impl Fn(&str) -> bool) -> bool {
        match self {
            Expression::Licence(licence) => allowed(licence),
            Expression::And(terms) => terms.iter().all(|term| term.satisfied_by(allowed)),
            Expression::Or(terms) => terms.iter().any(|term| term.satisfied_by(allowed)),
        }
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    depth: usize,
}

impl Parser<'_> {
    /// Takes `word` if it is next.
    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }

    fn or(&mut self) -> Result<Expression, String> {
        let mut terms = vec![self.and()?];
        while self.take("OR") {
            terms.push(self.and()?);
        }
        Ok(single_or(terms, Expression::Or))
    }

    fn and(&mut self) -> Result<Expression, String> {
        let mut terms = vec![self.one()?];
        while self.take("AND") {
            terms.push(self.one()?);
        }
        Ok(single_or(terms, Expression::And))
    }

    fn one(&mut self) -> Result<Expression, String> {
        if !self.take("(") {
            let licence = self.id()?;
            return Ok(Expression::Licence(if self.take("WITH") {
                format!("{licence} WITH {}", self.id()?)
            } else {
                licence
            }));
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} nested parentheses"));
        }
        let inner = self.or()?;
        self.depth -= 1;
        if self.take(")") { Ok(inner) } else { Err("`)` is missing".to_owned()) }
    }

    fn id(&mut self) -> Result<String, String> {
        let word = *self.words.first().ok_or("a licence is missing at the end")?;
        let is_id = word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.+:".contains(&byte));
        if !is_id || ["AND", "OR", "WITH"].contains(&word) {
            return Err(format!("`{word}` stands where a licence should"));
        }
        self.words = &self.words[1..];
        Ok(word.to_owned())
    }
}

fn single_or(mut terms: Vec<Expression>, many: impl Fn(Vec<Expression>) -> Expression) -> Expression {
    if terms.len() == 1 { terms.remove(0) } else { many(terms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn satisfied(text: &str, licences: &[&str]) -> bool {
        Expression::parse(text).unwrap().satisfied_by(&|licence| licences.contains(&licence))
    }

    #[test]
    fn one_arm_of_or_is_enough() {
        assert!(satisfied("LGPL-2.1-or-later OR MIT", &["MIT"]));
        assert!(satisfied("MIT/Apache-2.0", &["Apache-2.0"]));
        assert!(!satisfied("LGPL-2.1-or-later OR GPL-3.0", &["MIT"]));
    }

    #[test]
    fn every_arm_of_and_is_needed() {
        assert!(satisfied("MIT AND Unicode-3.0", &["MIT", "Unicode-3.0"]));
        assert!(!satisfied("MIT AND Unicode-3.0", &["MIT"]));
        assert!(!satisfied("MIT AND GPL-3.0 AND MIT", &["MIT"]));
    }

    #[test]
    fn and_binds_tighter_than_or() {
        assert!(satisfied("MIT OR GPL-3.0 AND LGPL-3.0", &["MIT"]));
        assert!(satisfied("GPL-3.0 AND LGPL-3.0 OR MIT", &["MIT"]));
        assert!(!satisfied("(MIT OR GPL-3.0) AND LGPL-3.0", &["MIT"]));
        assert!(satisfied("(MIT OR GPL-3.0) AND Unicode-3.0", &["MIT", "Unicode-3.0"]));
    }

    #[test]
    fn an_exception_is_part_of_its_licence() {
        let text = "Apache-2.0 WITH LLVM-exception";
        assert!(satisfied(text, &["Apache-2.0 WITH LLVM-exception"]));
        assert!(!satisfied(text, &["Apache-2.0"]));
        assert!(satisfied("GPL-3.0 WITH Classpath-exception-2.0 OR Apache-2.0 OR MIT", &["MIT"]));
        assert!(!satisfied("GPL-3.0 WITH MIT", &["MIT", "GPL-3.0"]));
    }

    #[test]
    fn licences_are_compared_whole_and_by_case() {
        assert!(!satisfied("Apache-2.0+", &["Apache-2.0"]));
        assert!(!satisfied("mit", &["MIT"]));
    }

    #[test]
    fn malformed_expressions_are_refused() {
        for text in [
            "",
            "MIT OR",
            "AND MIT",
            "(MIT",
            "MIT)",
            "MIT Apache-2.0",
            "MIT WITH",
            "()",
            "MIT, ISC",
            "MIT or ISC",
        ] {
            assert!(Expression::parse(text).is_err(), "`{text}` was accepted");
        }
        assert!(Expression::parse(&"(".repeat(100_000)).is_err());
    }
}
