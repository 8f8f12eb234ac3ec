//! Arithmetic of a ring of local keys and values: which position a slot holds, and who may see it.
//!
//! A ring has `ring` slots; the token at position `p` lives in slot `p mod ring`. A query at position `q` sees the
//! last `window` positions, its own included: `q - window < a <= q`.
//!
//! A step writes positions `p..p + n` and then attends. The write of position `x` destroys position `x - ring`, and
//! the first query still needs `p - window + 1`, so **`ring >= window + n - 1`** is exactly what a step needs. Tokens
//! that a step wrote and a verifier then rejected change nothing: what they destroyed is out of every later window,
//! and the formula of [`slot_position`] maps their slots to positions that are out of it too.

#[cfg(test)]
mod tests;

use super::PAGE;

/// `tokens` rounded up to whole pages; the largest multiple of a page if that overflows.
#[must_use]
pub const fn padded(tokens: usize) -> usize {
    tokens.div_ceil(PAGE).saturating_mul(PAGE)
}

/// Slots of a ring for steps of at most `step` tokens, after each of which `slack` more tokens may be taken back.
///
/// `pad(window + step - 1 + slack)`, but never more than a cache of `context` tokens that does not wrap.
#[must_use]
pub const fn ring_slots(window: usize, step: usize, slack: usize, context: usize) -> usize {
    let wrapping = padded(window.saturating_add(step.saturating_sub(1)).saturating_add(slack));
    let whole = padded(context);
    if wrapping < whole { wrapping } else { whole }
}

/// Largest step that a ring which wraps may take, in tokens; 0 if the window does not fit.
#[must_use]
pub const fn max_step(ring: usize, window: usize) -> usize {
    (ring + 1).saturating_sub(window)
}

/// Where `n` rows from `position` on go: at most two runs `(first slot, rows)`, the second empty unless the first
/// ends at the seam.
///
/// # Panics
///
/// If the rows are more than the ring has slots: a step would overwrite itself.
#[must_use]
pub const fn write_pieces(position: usize, n: usize, ring: usize) -> [(usize, usize); 2] {
    assert!(n <= ring, "a step longer than the ring overwrites itself");
    if n == 0 {
        return [(0, 0), (0, 0)];
    }
    let slot = position % ring;
    let before = if n < ring - slot { n } else { ring - slot };
    [(slot, before), (0, n - before)]
}

/// The position that `slot` stands for once positions below `end` are written; `None` if none has reached it.
///
/// The newest position below `end` that falls into the slot. A slot that physically holds something newer, written
/// and then rejected, stands for a position one ring further back, which no query from `end - 1` on can see.
#[must_use]
pub const fn slot_position(slot: usize, end: usize, ring: usize) -> Option<usize> {
    if end == 0 {
        return None;
    }
    let latest = (end - 1) % ring;
    let back = (latest + ring - slot) % ring;
    (end - 1).checked_sub(back)
}

/// Whether the query at position `query` sees what `slot` stands for, once positions below `end` are written.
#[must_use]
pub const fn visible(slot: usize, query: usize, end: usize, ring: usize, window: usize) -> bool {
    match slot_position(slot, end, ring) {
        Some(position) => position <= query && query - position < window,
        None => false,
    }
}

/// Lowest position that a query at `position` sees besides its own, or `position` itself if it sees no other.
#[must_use]
pub const fn window_start(position: usize, window: usize) -> usize {
    let start = (position + 1).saturating_sub(window);
    // A window of 0 never happens in a ring; the bound keeps `start..position` a range all the same.
    if start < position { start } else { position }
}

/// Whether a sequence that ever wrote position `highest` may go on writing at `position`.
///
/// Once the ring has wrapped this is `highest - position <= ring - window`. Before, nothing is lost yet; and at
/// position 0 nothing is needed.
#[must_use]
pub const fn can_resume(highest: usize, position: usize, ring: usize, window: usize) -> bool {
    position == 0 || window_start(position, window) >= (highest + 1).saturating_sub(ring)
}
