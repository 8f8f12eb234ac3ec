//! Texts that end an answer.

/// Looks for stop strings in text that comes in pieces, and holds back what may become one.
#[derive(Clone, Debug, Default)]
pub(super) struct Stops {
    words: Vec<String>,
    held: String,
    /// Bytes handed on.
    passed: usize,
}

/// What has become certain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// Text before any stop string.
    pub(super) text: String,
    /// The stop string that follows it.
    pub(super) stop: Option<String>,
}

impl Stops {
    /// Looks for `words`.
    pub(super) fn new(words: Vec<String>) -> Self {
        Self {
            words: words.into_iter().filter(|word| !word.is_empty()).collect(),
            held: String::new(),
            passed: 0,
        }
    }

    /// Bytes that came in so far, those held back included.
    pub(super) fn seen(&self) -> usize {
        self.passed + self.held.len()
    }

    /// Bytes handed on so far.
    pub(super) fn passed(&self) -> usize {
        self.passed
    }

    /// Takes more text. Behind a stop string there is nothing to be pushed.
    pub(super) fn push(&mut self, text: &str) -> Passed {
        self.held.push_str(text);
        let found = self.words.iter().filter_map(|word| Some((self.held.find(word.as_str())?, word)));
        // The earliest; of those that begin together the longest.
        let first = found.min_by_key(|(at, word)| (*at, usize::MAX - word.len()));
        let (end, stop) = match first {
            Some((at, word)) => (at, Some(word.clone())),
            None => (self.held.len() - self.open(), None),
        };
        let rest = self.held.split_off(end);
        let text = std::mem::replace(&mut self.held, if stop.is_some() { String::new() } else { rest });
        self.passed += text.len();
        Passed { text, stop }
    }

    /// Bytes at the end of what is held that a stop string could begin with.
    fn open(&self) -> usize {
        let longest = self.words.iter().map(|word| word.len().saturating_sub(1)).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest);
        let starts = (from..self.held.len()).filter(|&at| self.held.is_char_boundary(at));
        let tail = |at: usize| &self.held[at..];
        starts.map(tail).find(|tail| self.words.iter().any(|word| word.starts_with(tail))).map_or(0, str::len)
    }

    /// What was held back, now that nothing follows.
    pub(super) fn finish(&mut self) -> String {
        let text = std::mem::take(&mut self.held);
        self.passed += text.len();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut stops = Stops::new(words.iter().map(|word| (*word).to_owned()).collect());
        let mut text = String::new();
        for piece in pieces {
            let passed = stops.push(piece);
            text += &passed.text;
            if passed.stop.is_some() {
                assert_eq!(stops.passed(), text.len());
                return (text, passed.stop);
            }
        }
        text += &stops.finish();
        assert_eq!(stops.passed(), text.len());
        (text, None)
    }

    #[test]
    fn x4_a_stop_string_ends_the_text_wherever_it_is_cut() {
        let text = "one STOP two";
        for at in 0..=text.len() {
            for to in at..=text.len() {
                let pieces = [&text[..at], &text[at..to], &text[to..]];
                assert_eq!(
                    run(&["STOP"], &pieces),
                    ("one ".to_owned(), Some("STOP".to_owned())),
                    "{pieces:?}"
                );
                assert_eq!(run(&["STOPP", "x"], &pieces), (text.to_owned(), None), "{pieces:?}");
            }
        }
    }

    #[test]
    fn the_first_of_several_counts() {
        assert_eq!(run(&["b", "ab"], &["xab"]), ("x".to_owned(), Some("ab".to_owned())));
        assert_eq!(run(&["\n\n", "\n"], &["x\n", "\ny"]), ("x".to_owned(), Some("\n".to_owned())));
        assert_eq!(run(&["", "é"], &["caf", "é"]), ("caf".to_owned(), Some("é".to_owned())));
        assert_eq!(run(&[], &["all", " of it"]), ("all of it".to_owned(), None));
    }

    #[test]
    fn only_what_may_become_a_stop_string_is_held_back() {
        let mut stops = Stops::new(vec!["END".to_owned()]);
        assert_eq!(stops.push("abc E").text, "abc ");
        assert_eq!(stops.push("x").text, "Ex");
        assert_eq!((stops.push("EN").text, stops.seen()), (String::new(), 8));
    }
}
