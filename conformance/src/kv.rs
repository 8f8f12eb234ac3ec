//! The cache seen through the ops: rings, pages, stored types and donors.
//!
//! Numbers such as F3 or T-g name the findings and test cases that these properties answer. Each returns how many
//! values were compared.

use gemma4_core::backend::Backend;
use gemma4_core::cache::PAGE;
use gemma4_core::kv_type::{KvType, tq3};
use gemma4_core::ops::Op;
use gemma4_core::program::{Class, Program, State};

use crate::Failure;
use crate::compare::{relative_error, same_bits};
use crate::device::{Edit, Stream, unchanged};
use crate::tiny::{Kv, Tiny, tokens};

/// Local pages in which `context` tokens never wrap.
fn unbounded(context: usize) -> usize {
    context.div_ceil(PAGE)
}

/// Logits of all tokens of `text` in one prefill step over a cache that never wraps.
fn whole<B: Backend>(
    new: &impl Fn() -> B,
    tiny: &Tiny,
    kv: Kv,
    text: &[u32],
    edit: &Edit,
) -> Result<Vec<f32>, Failure> {
    let mut stream = Stream::new(new(), tiny, kv, unbounded(text.len()), text.len(), edit)?;
    stream.step(Class::Prefill, text)
}

/// Whether prefill and decode take their sums in one order, so that their results have the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Classes {
    /// As on the reference.
    Alike,
    /// As on GPUs, whose kernels for prompts are others than those for single tokens.
    Apart,
}

/// Logits of `text[start..]` in order, where tokens at `decoded` positions are decoded one by one and the others
/// prefilled, over a cache that never wraps and holds nothing that must not be seen. Where both classes are alike, one
/// prefill step gives them.
fn history<B: Backend>(
    new: &impl Fn() -> B,
    tiny: &Tiny,
    kv: Kv,
    (text, start): (&[u32], usize),
    classes: Classes,
    decoded: impl Fn(usize) -> bool,
) -> Result<Vec<f32>, Failure> {
    if classes == Classes::Alike {
        let logits = whole(new, tiny, kv, text, &unchanged)?;
        return Ok(logits[logits.len() / text.len() * start..].to_vec());
    }
    let mut stream = Stream::new(new(), tiny, kv, unbounded(text.len()), text.len(), &unchanged)?;
    let mut logits = Vec::new();
    while stream.len() < text.len() {
        let at = stream.len();
        let end =
            if decoded(at) { at + 1 } else { (at..text.len()).find(|&i| decoded(i)).unwrap_or(text.len()) };
        // In steps of one size, so that few plans are made.
        let end = end.min(at + PAGE);
        let class = if decoded(at) { Class::Decode } else { Class::Prefill };
        logits.extend(stream.step(class, &text[at..end])?);
    }
    Ok(logits[logits.len() / text.len() * start..].to_vec())
}

/// F1, T-e: in a ring of `ring` pages, chunks of each of `sizes` give the logits of one step over a cache that
/// never wraps.
///
/// # Errors
///
/// [`Failure`].
pub fn chunks_in_a_ring<B: Backend>(
    new: &impl Fn() -> B,
    tiny: &Tiny,
    kv: Kv,
    (ring, len): (usize, usize),
    sizes: &[usize],
) -> Result<usize, Failure> {
    let text = tokens(len, 50);
    let want = whole(new, tiny, kv, &text, &unchanged)?;
    let mut compared = 0;
    for &size in sizes {
        let mut stream = Stream::new(new(), tiny, kv, ring, len, &unchanged)?;
        let got = stream.feed(Class::Prefill, &text, size)?;
        let what = format!("{}, {kv:?}: chunks of {size} in {ring} pages", tiny.name);
        compared += same_bits(&want, &got).map_err(Failure::differs(what))?;
    }
    Ok(compared)
}

/// F2, F9, T-f, T-i, T-j: tokens decoded one by one at `spots` have the logits that they have over a cache that never
/// wraps (where `classes` are alike: those of one prefill step), although everything that they must not see is NaN.
///
/// # Errors
///
/// [`Failure`].
pub fn decoding_in_poison<B: Backend>(
    new: &impl Fn() -> B,
    tiny: &Tiny,
    kv: Kv,
    (ring, classes): (usize, Classes),
    spots: &[usize],
) -> Result<usize, Failure> {
    let len = spots.iter().max().map_or(0, |&spot| spot + 1);
    let text = tokens(len, 51);
    let want = history(new, tiny, kv, (&text, 0), classes, |at| spots.contains(&at))?;
    let vocab = want.len() / len;
    let mut stream = Stream::new(new(), tiny, kv, ring, len, &unchanged)?;
    let step = ring * PAGE + 1 - tiny.config().window;
    let mut compared = 0;
    stream.poison()?;
    for &spot in spots {
        let before = text[stream.len()..spot].to_vec();
        stream.feed(Class::Prefill, &before, step.min(PAGE))?;
        stream.poison()?;
        let got = stream.step(Class::Decode, &text[spot..=spot])?;
        let what = format!("{}, {kv:?}: position {spot} in {ring} pages", tiny.name);
        let want = &want[spot * vocab..(spot + 1) * vocab];
        compared += same_bits(want, &got).map_err(Failure::differs(what))?;
    }
    Ok(compared)
}

/// T-g, S7, F10: drafts, of as many rows as each of `drafts` says, across the seam of the ring, of which any number is
/// rejected, have the logits of the same tokens one by one and leave those of the next as they are without drafts.
///
/// # Errors
///
/// [`Failure`].
pub fn rejections_across_the_seam<B: Backend>(
    new: &impl Fn() -> B,
    tiny: &Tiny,
    kv: Kv,
    (ring, classes): (usize, Classes),
    drafts: &[usize],
) -> Result<usize, Failure> {
    let seam = ring * PAGE;
    let (text, wrong) = (tokens(seam + 24, 52), tokens(16, 53));
    let mut compared = 0;
    for &rows in drafts {
        let start = seam - rows / 2;
        let text = &text[..start + rows + 3];
        let want = history(new, tiny, kv, (text, start), classes, |at| at >= start)?;
        let vocab = want.len() / (rows + 3);
        let mut stream = Stream::new(new(), tiny, kv, ring, text.len(), &unchanged)?;
        stream.feed(Class::Prefill, &text[..start], PAGE)?;
        for kept in 0..=rows {
            // What was decoded before lies where the window does not reach, or is rejected too.
            stream.truncate(start);
            let drafts = [&text[start..start + kept], &wrong[kept..rows]].concat();
            let mut got = stream.step(Class::Decode, &drafts)?;
            got.truncate(kept * vocab);
            stream.truncate(start + kept);
            for token in &text[start + kept..start + kept + 3] {
                got.extend(stream.step(Class::Decode, &[*token])?);
            }
            let want = &want[..(kept + 3) * vocab];
            let what = format!("{}, {kv:?}: {kept} of {rows} drafts kept at {start}", tiny.name);
            compared += same_bits(want, &got).map_err(Failure::differs(what))?;
        }
    }
    Ok(compared)
}

/// F4: with types on the layers of one kind and nothing lost elsewhere, what these layers store errs as their
/// types do and what comes before is untouched.
///
/// # Errors
///
/// [`Failure`].
pub fn every_group_stores_in_its_own_types<B: Backend>(
    new: &impl Fn() -> B,
    tiny: &Tiny,
) -> Result<usize, Failure> {
    let text = tokens(300, 54);
    let exact = Kv::all(KvType::F32);
    let entries = |kv: Kv| -> Result<Vec<(Vec<f32>, KvType)>, Failure> {
        let mut stream = Stream::new(new(), tiny, kv, 2, text.len(), &unchanged)?;
        stream.feed(Class::Prefill, &text, PAGE)?;
        let pools = 0..stream.specs().len();
        pools.map(|pool| Ok((stream.entries(pool)?, stream.specs()[pool].kv_type))).collect()
    };
    let want = entries(exact)?;
    let mut compared = 0;
    for kv in [Kv { global: exact.global, ..Kv::MIXED }, Kv { local: exact.local, ..Kv::MIXED }] {
        // Later layers see other inputs, so only the first layer that loses something is compared.
        let mut first = None;
        for (pool, ((want, _), (got, kind))) in want.iter().zip(&entries(kv)?).enumerate() {
            let what = format!("{}, {kv:?}: pool {pool}", tiny.name);
            if *kind == KvType::F32 && first.is_none() {
                compared += same_bits(want, got).map_err(Failure::differs(what))?;
            } else if *kind != KvType::F32 && *first.get_or_insert(pool / 2) == pool / 2 {
                let mut got = got.clone();
                if kind.rotated() {
                    tq3::unrotate(&mut got);
                }
                let (error, known) = (relative_error(want, &got), storage_error(*kind));
                // Two heads of 300 tokens are many samples of the error: its mean is known to a few percent, but
                // data that are not Gaussian move it, for `q4_0` by up to 40 %.
                if !(error > 0.5 * known && error < 1.5 * known) {
                    return Err(Failure::False(format!("{what} errs by {error:.2e}, {kind} by {known:.2e}")));
                }
                compared += got.len();
            }
        }
        if first.is_none() {
            return Err(Failure::False(format!("{}: no pool stores {kv:?}", tiny.name)));
        }
    }
    Ok(compared)
}

/// Error of a stored head relative to the head, root mean square: the square root of the normalised mean square
/// error of the type on Gaussian vectors (f16: a uniform rounding error of 2^-12 to 2^-11 of each value).
#[must_use]
pub const fn storage_error(kv: KvType) -> f64 {
    match kv {
        KvType::F32 => 3e-8,
        KvType::F16 => 2.1e-4,
        KvType::Q8_0 => 0.0054,
        KvType::Q4_0 => 0.086,
        KvType::TQ3_0 => 0.184,
    }
}

/// Reads the cache of the layer that wrote last, whatever its kind: what a loader without the rule of donors does.
pub fn most_recent_donor(program: &mut Program) {
    let mut last = None;
    for op in &mut program.ops {
        match op {
            Op::AttnPrepare(prepare) => last = prepare.own.map(|own| (own.k, own.v)).or(last),
            Op::Attention(attention) => {
                (attention.k, attention.v) = last.unwrap_or((attention.k, attention.v));
            }
            _ => {}
        }
    }
}

/// T-k: layers that share read the donor of their own kind. The program whose layers read the cache that was
/// written last gives other logits.
///
/// # Errors
///
/// [`Failure`].
pub fn donors_are_of_the_layers_own_kind<B: Backend>(
    new: &impl Fn() -> B,
    tiny: &Tiny,
    kv: Kv,
) -> Result<usize, Failure> {
    let text = tokens(40, 55);
    let stream = Stream::new(new(), tiny, kv, 1, text.len(), &unchanged)?;
    let owners = tiny.config().layers.iter().filter(|layer| layer.donor.is_none()).count();
    let shares = owners < tiny.config().layers.len();
    if stream.specs().len() != 2 * owners || !shares {
        return Err(Failure::False(format!("{}: {} pools", tiny.name, stream.specs().len())));
    }
    let want = whole(new, tiny, kv, &text, &unchanged)?;
    let explicit = donors_by_rule(tiny);
    let by_rule = move |program: &mut Program| {
        let mut layer = 0;
        for op in &mut program.ops {
            if let Op::Attention(attention) = op {
                (attention.k, attention.v) = explicit[layer];
                layer += 1;
            }
        }
    };
    let got = whole(new, tiny, kv, &text, &by_rule)?;
    let what = format!("{}, {kv:?}: donors by the rule", tiny.name);
    let compared = same_bits(&want, &got).map_err(Failure::differs(what))?;
    let mutant = whole(new, tiny, kv, &text, &most_recent_donor)?;
    if relative_error(&want, &mutant) > 0.05 {
        Ok(compared)
    } else {
        Err(Failure::False(format!("{}: the donor makes no difference", tiny.name)))
    }
}

/// The pools that each layer reads, by the rule alone: its own, or those of the last owner of its kind.
fn donors_by_rule(tiny: &Tiny) -> Vec<(State, State)> {
    let layers = &tiny.config().layers;
    let (mut pools, mut last) = (0, std::collections::HashMap::new());
    layers
        .iter()
        .map(|layer| {
            if layer.donor.is_none() {
                last.insert(layer.span, (State::new(pools), State::new(pools + 1)));
                pools += 2;
            }
            last[&layer.span]
        })
        .collect()
}
