//! Responses that later requests may continue: in memory, the last few.

use std::collections::VecDeque;

use gemma4_core::chat::Message;
use serde_json::Value;

/// Most responses that are kept.
const MOST: usize = 256;
/// Most bytes of text in all of them.
const BYTES: usize = 64 << 20;

/// A response and the dialogue that it ends.
#[derive(Clone, Debug)]
pub(in super::super) struct Kept {
    /// The dialogue, instructions left out, the response included.
    pub(in super::super) messages: Vec<Message>,
    /// What was answered.
    pub(in super::super) response: Value,
}

impl Kept {
    fn id(&self) -> &str {
        self.response["id"].as_str().unwrap_or_default()
    }

    fn bytes(&self) -> usize {
        let messages = serde_json::to_string(&self.messages).map_or(0, |text| text.len());
        messages + self.response.to_string().len()
    }
}

/// Kept responses, the oldest first.
#[derive(Debug, Default)]
pub(in super::super) struct Store {
    kept: VecDeque<(usize, Kept)>,
    bytes: usize,
}

impl Store {
    /// A response by its name.
    pub(in super::super) fn get(&self, id: &str) -> Option<Kept> {
        self.kept.iter().find(|(_, kept)| kept.id() == id).map(|(_, kept)| kept.clone())
    }

    /// Keeps a response, and forgets the oldest where there is no room.
    pub(in super::super) fn put(&mut self, kept: Kept) {
        let bytes = kept.bytes();
        self.bytes += bytes;
        self.kept.push_back((bytes, kept));
        while self.kept.len() > MOST || self.bytes > BYTES {
            let Some((bytes, _)) = self.kept.pop_front() else { break };
            self.bytes -= bytes;
        }
    }

    /// Forgets a response.
    pub(in super::super) fn forget(&mut self, id: &str) {
        self.kept.retain(|(_, kept)| kept.id() != id);
        self.bytes = self.kept.iter().map(|(bytes, _)| bytes).sum();
    }
}

#[cfg(test)]
mod tests {
    use gemma4_core::chat::Role;
    use serde_json::json;

    use super::*;

    fn kept(id: usize, bytes: usize) -> Kept {
        Kept {
            messages: vec![Message::new(Role::User, "x".repeat(bytes))],
            response: json!({ "id": id.to_string() }),
        }
    }

    #[test]
    fn the_oldest_go_first() {
        let mut store = Store::default();
        (0..MOST + 2).for_each(|id| store.put(kept(id, 10)));
        assert!(store.get("1").is_none() && store.get("2").is_some());
        store.forget("2");
        assert!(store.get("2").is_none());
        store.put(kept(9000, BYTES - 1000));
        assert!(store.kept.len() < 20 && store.get("9000").is_some());
        store.put(kept(9001, BYTES + 1));
        assert_eq!((store.kept.len(), store.bytes), (0, 0), "what is too large for all is not kept");
    }
}
