//! The tokens that give the model's output its structure.

/// A structural token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Marker {
    /// `<|channel>`: a thought begins.
    Channel,
    /// `<channel|>`: a thought ends.
    ChannelEnd,
    /// `<|tool_call>`: a call begins.
    Call,
    /// `<tool_call|>`: a call ends.
    CallEnd,
    /// `<|tool_response>`: the model waits for a tool; generation stops here.
    Response,
    /// `<tool_response|>`: the tool's answer ends.
    ResponseEnd,
    /// `<|"|>`: a string begins or ends.
    Quote,
    /// `<|turn>`: a turn begins.
    Turn,
    /// `<turn|>`: a turn ends; generation stops here.
    TurnEnd,
}

impl Marker {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Channel,
        Self::ChannelEnd,
        Self::Call,
        Self::CallEnd,
        Self::Response,
        Self::ResponseEnd,
        Self::Quote,
        Self::Turn,
        Self::TurnEnd,
    ];

    /// How the vocabulary spells it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Channel => "<|channel>",
            Self::ChannelEnd => "<channel|>",
            Self::Call => "<|tool_call>",
            Self::CallEnd => "<tool_call|>",
            Self::Response => "<|tool_response>",
            Self::ResponseEnd => "<tool_response|>",
            Self::Quote => "<|\"|>",
            Self::Turn => "<|turn>",
            Self::TurnEnd => "<turn|>",
        }
    }
}

/// Which token is which marker in a vocabulary. A marker that is no token of its own is looked for in the text;
/// one that is a token is never looked for there, so that a model can write about its own format.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Markers {
    /// In the order of [`Marker::ALL`].
    ids: [Option<u32>; Marker::ALL.len()],
}

impl Markers {
    /// Asks for the id of every marker's text.
    pub fn find(id_of: impl Fn(&str) -> Option<u32>) -> Self {
        Self { ids: Marker::ALL.map(|marker| id_of(marker.text())) }
    }

    /// For models that spell all markers as ordinary text.
    #[must_use]
    pub fn spelled() -> Self {
        Self::default()
    }

    /// Id of a marker's token.
    #[must_use]
    pub fn id(&self, marker: Marker) -> Option<u32> {
        self.ids[marker as usize]
    }

    /// The marker that a token is.
    #[must_use]
    pub fn marker(&self, id: u32) -> Option<Marker> {
        Marker::ALL.into_iter().find(|marker| self.id(*marker) == Some(id))
    }
}

/// What the model wrote, one symbol after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Symbol<'a> {
    Text(&'a str),
    Marker(Marker),
}

/// Finds markers in text that arrives in pieces.
#[derive(Clone, Debug)]
pub(super) struct Scanner {
    /// The markers looked for.
    spelled: Vec<Marker>,
    /// The end of the text so far, if it may be the beginning of a marker.
    held: String,
}

impl Scanner {
    pub(super) fn new(markers: &Markers) -> Self {
        let spelled = Marker::ALL.into_iter().filter(|marker| markers.id(*marker).is_none()).collect();
        Self { spelled, held: String::new() }
    }

    /// Hands on all symbols that are certain after `text`.
    pub(super) fn push(&mut self, text: &str, mut symbol: impl FnMut(Symbol)) {
        let mut buffer = std::mem::take(&mut self.held);
        let mut rest = if buffer.is_empty() {
            text
        } else {
            buffer.push_str(text);
            &buffer
        };
        // Text up to here is known to hold no marker.
        let mut clear = 0;
        while let Some(place) = rest[clear..].find('<').map(|place| place + clear) {
            let tail = &rest[place..];
            if let Some(marker) = self.spelled.iter().find(|marker| tail.starts_with(marker.text())) {
                if place > 0 {
                    symbol(Symbol::Text(&rest[..place]));
                }
                symbol(Symbol::Marker(*marker));
                rest = &tail[marker.text().len()..];
                clear = 0;
            } else if self.spelled.iter().any(|marker| marker.text().starts_with(tail)) {
                tail.clone_into(&mut self.held);
                rest = &rest[..place];
                break;
            } else {
                clear = place + 1;
            }
        }
        if !rest.is_empty() {
            symbol(Symbol::Text(rest));
        }
    }

    /// What was held back, now that nothing completes it.
    pub(super) fn take_held(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_listed_in_the_order_of_their_discriminants() {
        for (index, marker) in Marker::ALL.into_iter().enumerate() {
            assert_eq!(marker as usize, index);
        }
    }

    #[test]
    fn ids_come_from_the_vocabulary() {
        let markers = Markers::find(|text| (text == "<|turn>").then_some(5));
        assert_eq!(markers.id(Marker::Turn), Some(5));
        assert_eq!(markers.marker(5), Some(Marker::Turn));
        assert_eq!(markers.marker(6), None);
        assert_eq!(Scanner::new(&markers).spelled.len(), 8);
    }

    #[test]
    fn what_could_become_a_marker_is_held_back() {
        let mut scanner = Scanner::new(&Markers::spelled());
        let mut seen = Vec::new();
        for piece in ["a<", "|", "tool", "_cal", "l>b<|x<<|\"", "|><turn"] {
            scanner.push(piece, |symbol| match symbol {
                Symbol::Text(text) => seen.push(text.to_owned()),
                Symbol::Marker(marker) => seen.push(format!("[{marker:?}]")),
            });
        }
        assert_eq!(seen, ["a", "[Call]", "b<|x<", "[Quote]"]);
        assert_eq!(scanner.take_held(), "<turn");
    }
}
