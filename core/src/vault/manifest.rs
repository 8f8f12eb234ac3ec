//! What a kept conversation is made of, and how its parts are named.

use std::fmt;
use std::sync::Arc;

use crate::cache::{Contents, PAGE};
use crate::model::config::Span;
use crate::model::gemma4::{Gemma4, KvTypes};
use crate::program::WeightSpec;

/// A BLAKE3 hash: the name of a model, a page or a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Key {
    /// As 64 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Key {
    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.as_bytes();
        let mut key = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, digits) in key.iter_mut().zip(text.chunks_exact(2)) {
            let digits =
                std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(key))
    }
}

/// Weights up to this size are hashed whole.
const WHOLE: usize = 1 << 16;
/// Of larger ones, so many pieces of 4 KiB at even distances.
const PIECES: usize = 32;
const PIECE: usize = 4096;

/// Names what keys and values depend on beside the tokens: the model, the types that they are stored in, and whatever
/// else decides their bits, which the caller describes: the device, the program's version.
///
/// Of every weight, shape, type and pieces at even distances are hashed, of small ones everything: a file of many GB
/// is told from its fine-tunes and from other quantisations in a fraction of a second.
#[must_use]
pub fn fingerprint(model: &Gemma4, kv_local: KvTypes, kv_global: KvTypes, more: &str) -> Key {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    add(format!("page {PAGE}, local {kv_local}, global {kv_global}").as_bytes());
    add(more.as_bytes());
    add(format!("{:?}", model.config).as_bytes());
    for tensor in &model.tensors {
        add(format!("{:?}", WeightSpec::of(tensor)).as_bytes());
        let data = &tensor.data[..];
        if data.len() <= WHOLE {
            add(data);
            continue;
        }
        let last = data.len() - PIECE;
        for piece in 0..PIECES {
            let at = last / (PIECES - 1) * piece;
            let at = if piece + 1 == PIECES { last } else { at };
            add(&data[at..at + PIECE]);
        }
    }
    Key(*hasher.finalize().as_bytes())
}

/// A page of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRef {
    /// Its kind of layers.
    pub span: Span,
    /// Which tokens it has: those from `logical * PAGE` on.
    pub logical: usize,
    /// Its name.
    pub key: Key,
    /// Its length in bytes.
    pub bytes: usize,
}

/// What a kept conversation is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its tokens.
    pub tokens: Arc<[u32]>,
    /// How many of the leading ones were computed as a prompt; those behind were generated, or come after such.
    pub exact: usize,
    /// Lowest position whose local keys are in its pages.
    pub oldest: usize,
    /// Its pages: the global ones from the first token on, then the local ones from that of `oldest` on.
    pub pages: Vec<PageRef>,
}

impl Manifest {
    /// Describes what a snapshot of `tokens` holds; `page_bytes` is the length of a page of a kind of layers.
    #[must_use]
    pub fn new(
        fingerprint: &Key,
        tokens: Arc<[u32]>,
        exact: usize,
        contents: &Contents,
        page_bytes: impl Fn(Span) -> usize,
    ) -> Self {
        let ends: Vec<usize> =
            (1..=tokens.len().div_ceil(PAGE)).map(|l| (l * PAGE).min(tokens.len())).collect();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&fingerprint.0);
        let mut done = 0;
        let names: Vec<blake3::Hasher> = ends
            .iter()
            .map(|&end| {
                for token in &tokens[done..end] {
                    hasher.update(&token.to_le_bytes());
                }
                done = end;
                let mut name = hasher.clone();
                name.update(&(end as u64).to_le_bytes());
                name.update(&(exact.min(end) as u64).to_le_bytes());
                name
            })
            .collect();
        let pages = contents.pages.iter().filter_map(|held| {
            let mut name = names.get(held.logical)?.clone();
            name.update(&[span_code(held.span)]);
            let key = Key(*name.finalize().as_bytes());
            Some(PageRef { span: held.span, logical: held.logical, key, bytes: page_bytes(held.span) })
        });
        let pages = pages.collect();
        Self { exact: exact.min(tokens.len()), tokens, oldest: contents.oldest, pages }
    }

    /// Its name, which follows from its pages and tokens.
    #[must_use]
    pub fn key(&self) -> Key {
        Key(*blake3::hash(&self.encode()).as_bytes())
    }

    /// Bytes of its pages.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.pages.iter().map(|page| page.bytes as u64).sum()
    }

    /// The page of a kind of layers and a logical number.
    #[must_use]
    pub fn page(&self, span: Span, logical: usize) -> Option<&PageRef> {
        self.pages.iter().find(|page| page.span == span && page.logical == logical)
    }

    /// Little-endian: u64 exact, u64 oldest, u32 number of tokens, the tokens as u32, u32 number of pages, and of each
    /// u8 kind of layers, u32 logical number, u64 bytes, 32 bytes of name.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(28 + 4 * self.tokens.len() + 45 * self.pages.len());
        out.extend_from_slice(&(self.exact as u64).to_le_bytes());
        out.extend_from_slice(&(self.oldest as u64).to_le_bytes());
        out.extend_from_slice(&narrow(self.tokens.len()).to_le_bytes());
        self.tokens.iter().for_each(|token| out.extend_from_slice(&token.to_le_bytes()));
        out.extend_from_slice(&narrow(self.pages.len()).to_le_bytes());
        for page in &self.pages {
            out.push(span_code(page.span));
            out.extend_from_slice(&narrow(page.logical).to_le_bytes());
            out.extend_from_slice(&(page.bytes as u64).to_le_bytes());
            out.extend_from_slice(&page.key.0);
        }
        out
    }

    /// Reads what [`Manifest::encode`] wrote.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut rest = bytes;
        let exact = size(take(&mut rest)?)?;
        let oldest = size(take(&mut rest)?)?;
        let tokens = u32::from_le_bytes(take(&mut rest)?) as usize;
        let (words, after) =
            rest.split_at_checked(tokens.saturating_mul(4)).ok_or("it has fewer tokens than it says")?;
        rest = after;
        let tokens: Arc<[u32]> =
            words.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let count = u32::from_le_bytes(take(&mut rest)?) as usize;
        if count.checked_mul(45) != Some(rest.len()) {
            return Err("it has another number of pages than it says");
        }
        if tokens.is_empty() || exact > tokens.len() || oldest > tokens.len() {
            return Err("its lengths contradict each other");
        }
        let mut pages: Vec<PageRef> = Vec::with_capacity(count);
        for _ in 0..count {
            let span = match take::<1>(&mut rest)? {
                [0] => Span::Global,
                [1] => Span::Local,
                _ => return Err("it has a page of an unknown kind of layers"),
            };
            let logical = u32::from_le_bytes(take(&mut rest)?) as usize;
            let bytes = size(take(&mut rest)?)?;
            let key = Key(take(&mut rest)?);
            if logical >= tokens.len().div_ceil(PAGE) {
                return Err("it has a page beyond its tokens");
            }
            let rising = pages
                .last()
                .is_none_or(|last| (span_code(last.span), last.logical) < (span_code(span), logical));
            if !rising {
                return Err("its pages are out of order");
            }
            pages.push(PageRef { span, logical, key, bytes });
        }
        Ok(Self { tokens, exact, oldest, pages })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], &'static str> {
    let (head, tail) = rest.split_first_chunk().ok_or("it ends too early")?;
    *rest = tail;
    Ok(*head)
}

fn size(bytes: [u8; 8]) -> Result<usize, &'static str> {
    usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| "a size is too large")
}

fn span_code(span: Span) -> u8 {
    match span {
        Span::Global => 0,
        Span::Local => 1,
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("tokens and pages are counted in 32 bits")
}
