//! What a step uploads to a device.
//!
//! | section of the step buffer | content |
//! |---|---|
//! | state | [`StepState`] |
//! | rows | [`RowInfo`] for each row |
//! | picked | row numbers |
//! | draws | settings of the draws, if they are in this buffer |
//! | tables | [`TableInfo`] for each slot, then page numbers |
//!
//! Draws are a [`DrawInfo`] for each picked row, then its edits (token, repetition, offset: 3 words each) and its bit
//! mask of allowed tokens, at the offsets that the `DrawInfo` names.

use super::{DrawInfo, RowInfo, SLOTS, StepState, TableInfo};
use crate::backend::{Step, StepError};
use crate::cache::PAGE;
use crate::model::config::Span;
use crate::program::Program;

/// Byte offsets of the sections of the step buffer.
#[derive(Clone, Copy, Debug)]
pub struct Sections {
    /// Rows.
    pub rows: u64,
    /// Picked rows.
    pub picked: u64,
    /// Settings of draws.
    pub draws: u64,
    /// Page tables.
    pub tables: u64,
    /// End of everything.
    pub end: u64,
}

/// Offsets of storage bindings are multiples of this on every device.
const ALIGN: u64 = 256;

impl Sections {
    /// The sections of any step of `program`, with room for `draw_bytes` of draws.
    #[must_use]
    pub fn of(program: &Program, draw_bytes: u64) -> Self {
        let pages = |span| {
            program
                .states
                .iter()
                .filter(|state| state.span == span)
                .map(|state| state.pages)
                .max()
                .unwrap_or(0)
        };
        let slots = program.rows.min(SLOTS as usize);
        let entries = slots * (pages(Span::Global) + pages(Span::Local)).max(1);
        let rows = ALIGN;
        let picked = (rows + program.rows as u64 * 16).next_multiple_of(ALIGN);
        let draws = (picked + program.picked.max(1) as u64 * 4).next_multiple_of(ALIGN);
        let tables = (draws + draw_bytes).next_multiple_of(ALIGN);
        let header = u64::from(SLOTS) * 16;
        Self {
            rows,
            picked,
            draws,
            tables,
            end: (tables + header + entries as u64 * 4).next_multiple_of(ALIGN),
        }
    }

    /// Fills `bytes` with the sections of `step`, as far as it needs them. Draws are left to the caller.
    ///
    /// # Errors
    ///
    /// If the step has more slots or pages than the program has room for.
    ///
    /// # Panics
    ///
    /// If the buffer does not fit the address space, whose size is that of the program's own tables.
    pub fn write(&self, step: &Step<'_>, bytes: &mut Vec<u8>) -> Result<(), StepError> {
        bytes.clear();
        let at = |offset: u64| usize::try_from(offset).expect("a step buffer is small");
        let state = StepState { rows: narrow(step.rows.len()), picked: narrow(step.picked.len()) };
        bytes.extend_from_slice(bytemuck::bytes_of(&state));
        bytes.resize(at(self.rows), 0);
        for (row, ahead) in step.rows.iter().zip(step.ahead()) {
            let place = row.place();
            let token = if place.is_some() { 0 } else { row.token };
            let flags = place.map_or(0, |place| 1 | place << 1) | ahead << 8;
            let info = RowInfo { token, position: row.position, slot: row.slot, flags };
            bytes.extend_from_slice(bytemuck::bytes_of(&info));
        }
        bytes.resize(at(self.picked), 0);
        bytes.extend_from_slice(bytemuck::cast_slice(step.picked));
        bytes.resize(at(self.tables), 0);

        let slots = step.tables.len().min(SLOTS as usize);
        let mut infos = vec![TableInfo::default(); SLOTS as usize];
        let mut entries: Vec<u32> = Vec::new();
        let mut last = vec![None::<u32>; slots];
        for row in step.rows {
            let Some(last) = last.get_mut(row.slot as usize) else {
                let want = format!("below {SLOTS}");
                return Err(StepError { what: "slot", want, got: u64::from(row.slot) });
            };
            *last = Some(last.map_or(row.position, |position| position.max(row.position)));
        }
        let header = narrow(infos.len() * 4);
        for ((info, table), last) in infos.iter_mut().zip(step.tables).zip(&last) {
            let Some(last) = last else { continue };
            let mut add = |pages: &[u32]| {
                let start = header + narrow(entries.len());
                entries.extend_from_slice(pages);
                (start, narrow(pages.len()))
            };
            let seen = (*last as usize / PAGE + 1).min(table.global.len());
            (info.global_start, info.global_len) = add(&table.global[..seen]);
            (info.local_start, info.local_len) = add(table.local);
        }
        bytes.extend_from_slice(bytemuck::cast_slice(&infos));
        bytes.extend_from_slice(bytemuck::cast_slice(&entries));
        if bytes.len() as u64 > self.end {
            let want = format!("at most {}", self.end);
            return Err(StepError { what: "bytes of rows and page tables", want, got: bytes.len() as u64 });
        }
        Ok(())
    }
}

/// Settings of the draws of a step of `program`.
#[must_use]
pub fn draws(program: &Program, step: &Step<'_>) -> Vec<u32> {
    let mut words = vec![0u32; step.draws.len() * size_of::<DrawInfo>() / 4];
    let mut infos = Vec::new();
    for ((draw, &row), place) in step.draws.iter().zip(step.picked).zip(step.places(program)) {
        let edits_start = narrow(words.len());
        for edit in draw.edits {
            words.extend([edit.token, edit.repetition.to_bits(), edit.offset.to_bits()]);
        }
        let allowed_start = narrow(words.len());
        words.extend(draw.allowed.unwrap_or_default());
        let sampling = draw.sampling;
        infos.push(DrawInfo {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: sampling.top_p,
            min_p: sampling.min_p,
            seed_low: (sampling.seed & 0xFFFF_FFFF) as u32,
            seed_high: (sampling.seed >> 32) as u32,
            position: draw.position,
            slot: step.rows[row as usize].slot + SLOTS * place,
            edits_start,
            edits: narrow(draw.edits.len()),
            allowed_start,
            allowed: narrow(draw.allowed.map_or(0, <[u32]>::len)),
        });
    }
    let head: &[u32] = bytemuck::cast_slice(&infos);
    words[..head.len()].copy_from_slice(head);
    words
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).expect("rows, pages and words of a step are counted in 32 bits")
}
