//! Pools of KV pages in memory.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rayon::prelude::*;

use super::{Distortion, ReferenceError};
use crate::backend::{PageTable, Step};
use crate::cache::PAGE;
use crate::model::config::Span;
use crate::ops::attention::Visible;
use crate::program::StateSpec;

/// All pages of one half of a layer's cache, `[pages, kv_heads, PAGE, row bytes]`.
#[derive(Clone, Debug)]
pub struct Pool {
    spec: Arc<StateSpec>,
    bytes: Arc<RwLock<Vec<u8>>>,
    distortion: Option<Distortion>,
}

impl Pool {
    pub(super) fn new(spec: StateSpec, distortion: Option<Distortion>) -> Self {
        let bytes = vec![0; spec.page_bytes() * spec.pages];
        Self { spec: Arc::new(spec), bytes: Arc::new(RwLock::new(bytes)), distortion }
    }

    pub(super) fn rotated(&self) -> bool {
        self.spec.kv_type.rotated()
    }

    fn lock(&self) -> RwLockReadGuard<'_, Vec<u8>> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn page_of(&self, table: &PageTable<'_>, position: u32) -> usize {
        let table = match self.spec.span {
            Span::Global => table.global,
            Span::Local => table.local,
        };
        table[position as usize / PAGE % table.len()] as usize
    }

    /// First byte of one head of one position.
    fn offset(&self, page: usize, head: usize, position: u32) -> usize {
        ((page * self.spec.kv_heads + head) * PAGE + position as usize % PAGE) * self.spec.row_bytes()
    }

    /// Encodes one entry, `[kv_heads, head_dim]`, for each row of the step.
    pub(super) fn append(&self, step: &Step<'_>, entries: &[Vec<f32>]) -> Result<(), ReferenceError> {
        let spec = &*self.spec;
        let encode = |(entry, row): (&Vec<f32>, &crate::backend::Row)| {
            let mut bytes = vec![0; spec.kv_heads * spec.row_bytes()];
            let mut entry = std::borrow::Cow::Borrowed(entry);
            if let Some(Distortion(distort)) = &self.distortion {
                distort(spec, row.position, entry.to_mut());
            }
            spec.kv_type
                .encode(&entry, &mut bytes)
                .map(|()| bytes)
                .map_err(|_| ReferenceError::NotFinite { state: spec.name.clone(), position: row.position })
        };
        let encoded: Vec<Vec<u8>> =
            entries.par_iter().zip(step.rows).map(encode).collect::<Result<_, _>>()?;
        let mut pool = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        for (row, bytes) in step.rows.iter().zip(&encoded) {
            let page = self.page_of(&step.tables[row.slot as usize], row.position);
            for (head, bytes) in bytes.chunks_exact(spec.row_bytes()).enumerate() {
                let at = self.offset(page, head, row.position);
                pool[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
        Ok(())
    }

    /// Decodes one head of the positions `first..end` of a sequence.
    fn decode(&self, table: &PageTable<'_>, head: usize, first: u32, end: u32) -> Vec<f32> {
        let (dim, row) = (self.spec.head_dim, self.spec.row_bytes());
        let bytes = self.lock();
        let mut out = vec![0.0; (end - first) as usize * dim];
        let mut rest = out.as_mut_slice();
        let mut pieces = Vec::new();
        let mut position = first;
        while position < end {
            let len = (PAGE - position as usize % PAGE).min((end - position) as usize);
            let (piece, after) = rest.split_at_mut(len * dim);
            let at = self.offset(self.page_of(table, position), head, position);
            pieces.push((piece, &bytes[at..at + len * row]));
            rest = after;
            position += u32::try_from(len).expect("at most a page");
        }
        pieces.into_par_iter().for_each(|(out, bytes)| {
            self.spec.kv_type.decode(bytes, out);
        });
        out
    }

    /// First byte of a row of a ring: rows of all pages follow one another.
    fn ring_row(&self, row: usize) -> usize {
        row * self.spec.row_bytes()
    }

    /// Overwrites the columns from `column` on of a row of a ring.
    pub(super) fn keep(&self, row: usize, column: usize, x: &[f32]) {
        let at = self.ring_row(row) + column * 4;
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        for (to, x) in bytes[at..at + x.len() * 4].as_chunks_mut::<4>().0.iter_mut().zip(x) {
            *to = x.to_le_bytes();
        }
    }

    /// Copies a row of a ring.
    pub(super) fn recall(&self, row: usize, out: &mut [f32]) {
        let at = self.ring_row(row);
        let bytes = self.lock();
        let from = &bytes[at..at + out.len() * 4];
        for (out, from) in out.iter_mut().zip(from.as_chunks::<4>().0) {
            *out = f32::from_le_bytes(*from);
        }
    }

    pub(super) fn read_page(&self, page: u32, into: &mut [u8]) {
        let at = page as usize * self.spec.page_bytes();
        into.copy_from_slice(&self.lock()[at..at + self.spec.page_bytes()]);
    }

    pub(super) fn write_page(&self, page: u32, from: &[u8]) {
        let at = page as usize * self.spec.page_bytes();
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        bytes[at..at + self.spec.page_bytes()].copy_from_slice(from);
    }
}

/// What the rows of a step see of one layer: decoded once for each sequence and key head.
pub(super) struct Seen(BTreeMap<(u32, usize), Visible>);

impl Seen {
    /// `sees` are the positions that each row sees.
    pub(super) fn decode(k: &Pool, v: &Pool, sees: &[Range<u32>], step: &Step<'_>) -> Self {
        let mut spans = BTreeMap::<u32, (u32, u32)>::new();
        for (row, sees) in step.rows.iter().zip(sees) {
            let span = spans.entry(row.slot).or_insert((u32::MAX, 0));
            *span = (span.0.min(sees.start), span.1.max(sees.end));
        }
        let wanted: Vec<(u32, usize, (u32, u32))> = spans
            .iter()
            .flat_map(|(&slot, &span)| (0..k.spec.kv_heads).map(move |head| (slot, head, span)))
            .collect();
        let decode = |(slot, head, (first, end))| {
            let table = &step.tables[slot as usize];
            let [keys, values] = [k, v].map(|pool: &Pool| pool.decode(table, head, first, end));
            ((slot, head), Visible { first, keys, values })
        };
        Self(wanted.into_par_iter().map(decode).collect())
    }

    pub(super) fn of(&self, slot: u32, head: usize) -> &Visible {
        &self.0[&(slot, head)]
    }
}
