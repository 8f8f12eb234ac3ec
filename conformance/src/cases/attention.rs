//! Cases of `attention`: P11 to P13, F5, F6, F8, F12 and the masks.

use gemma4_core::cache::PAGE;
use gemma4_core::kv_type::{KvType, tq3};
use gemma4_core::model::config::Span;
use gemma4_core::model::gemma4::KvTypes;
use gemma4_core::ops::attention::{Mask, Reach};
use gemma4_core::ops::attn_prepare::Heads;
use gemma4_core::program::{Class, StateSpec};

use super::{Case, Make, U, later, op, pages, plain, sum_error, together, wide};

pub(super) fn cases() -> Vec<Case> {
    let both = [Class::Prefill, Class::Decode].into_iter().flat_map(|class| all(Products::F32, class));
    together(both.chain(drafted().into_iter().map(|shape| made(shape, Products::F32, Class::Decode))))
}

/// What a case is about: queries from position `start` on.
#[derive(Clone, Copy)]
struct Shape {
    heads: Heads,
    types: KvTypes,
    mask: Mask,
    reach: Reach,
    start: usize,
    rows: usize,
}

impl Shape {
    fn new([heads, kv_heads, head_dim]: [usize; 3], mask: Mask, start: usize, rows: usize) -> Self {
        let types = KvTypes { k: KvType::F16, v: KvType::F16 };
        Self { heads: Heads { heads, kv_heads, head_dim }, types, mask, reach: Reach::Own, start, rows }
    }
}

/// F8: rows of drafters, with heads of 512 that see all keys before them too, whose keys end elsewhere than at themselves: around borders of splits, pages and windows.
fn drafted() -> Vec<Shape> {
    let of = |reach, heads, mask, start, rows| Shape { reach, ..Shape::new(heads, mask, start, rows) };
    let types = KvTypes { k: KvType::TQ3_0, v: KvType::TQ3_0 };
    vec![
        of(Reach::Before, [4, 2, 64], Mask::Causal, 130, 1),
        of(Reach::Before, [4, 1, 512], Mask::Causal, 256, 1),
        Shape { types, ..of(Reach::Before, [4, 2, 256], Mask::Window(32), 100, 1) },
        of(Reach::Before, [4, 2, 64], Mask::Window(64), 64, 1),
        of(Reach::Block, [8, 2, 128], Mask::Causal, 120, 16),
        of(Reach::Block, [4, 2, 128], Mask::Causal, 250, 8),
        Shape { types, ..of(Reach::Block, [4, 2, 128], Mask::Causal, 5, 3) },
        of(Reach::Block, [4, 2, 64], Mask::Window(40), 300, 8),
        of(Reach::Block, [2, 2, 32], Mask::Window(4), 62, 7),
    ]
}

/// Prompts whose operands may be rounded to 16-bit floats, in the order of the prompts of the other cases.
#[must_use]
pub fn halves_cases() -> Vec<Case> {
    together(all(Products::Halves, Class::Prefill))
}

/// What products a case's bounds are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Products {
    /// Operands are used as they are.
    F32,
    /// Every operand is rounded to a 16-bit float once.
    Halves,
}

/// Unit roundoff of 16-bit floats.
const HALF: f64 = 4.882_812_5e-4;

impl Products {
    /// What a share of the keys may lose relative to itself, and a sum of values relative to the sum of magnitudes, beyond
    /// what they lose in `f32`.
    ///
    /// A logit errs by the rounding of the query and of the key, relative to its sum of magnitudes `sizes`, and a share
    /// by that in the exponent of its own weight and of all weights. A weight and a value are rounded once each. 16-bit
    /// keys and values are what they are; others are products of scale and code, rounded, and the centroids of a rotated
    /// type are rounded too. Tensor cores cut off sums of 16 products, by twice what rounding loses.
    fn lost(self, types: KvTypes, dim: usize, keys: usize, sizes: f64) -> (f64, f64) {
        if self == Products::F32 {
            return (0.0, 0.0);
        }
        let roundings = |kind: KvType| match kind {
            KvType::F32 | KvType::F16 => 0.0,
            KvType::Q8_0 | KvType::Q4_0 => HALF,
            KvType::TQ3_0 => 2.0 * HALF,
        };
        let cut = |terms: usize| terms.div_ceil(16) as f64 * 2.0 * U;
        let logit = (HALF + roundings(types.k) + cut(dim)) * sizes;
        ((2.0 * logit).exp_m1(), HALF + roundings(types.v) + cut(keys))
    }
}

fn made(shape: Shape, products: Products, class: Class) -> Make {
    later(move || case(shape, products).in_class(class))
}

fn all(products: Products, class: Class) -> Vec<Make> {
    let shapes = shapes().into_iter().map(|shape| made(shape, products, class));
    let shapes = shapes.chain([later(move || broadcast().in_class(class))]);
    shapes.chain(rotations(products, class)).collect()
}

fn shapes() -> Vec<Shape> {
    let of = |heads, kv_heads, head_dim, mask, start, rows| {
        Shape::new([heads, kv_heads, head_dim], mask, start, rows)
    };
    vec![
        // Positions around a page, a window and the wrap of a ring of two pages.
        of(2, 1, 32, Mask::Causal, 0, 1),
        of(4, 2, 64, Mask::Causal, 254, 5),
        of(8, 1, 512, Mask::Causal, 300, 2),
        of(16, 1, 128, Mask::Causal, 30, 2),
        of(4, 2, 64, Mask::Window(8), 5, 4),
        of(4, 4, 32, Mask::Window(20), 505, 14),
        of(4, 2, 256, Mask::Window(1), 1000, 3),
        of(4, 2, 128, Mask::Window(256), 700, 3),
        // Groups that are no power of two, a row past a tile of rows, and borders of splits of 64 and 128 keys.
        of(6, 2, 128, Mask::Causal, 120, 11),
        of(12, 1, 64, Mask::Causal, 127, 2),
        of(4, 2, 256, Mask::Window(70), 190, 9),
        // More splits than partial results are added up at once, and than a workgroup adds up.
        of(2, 1, 64, Mask::Causal, 4300, 2),
        of(8, 1, 512, Mask::Causal, 2100, 2),
    ]
}

/// F12, P13: every type of keys with every type of values.
fn rotations(products: Products, class: Class) -> impl Iterator<Item = Make> {
    let types = KvType::ALL.into_iter().flat_map(|k| KvType::ALL.map(|v| KvTypes { k, v }));
    // Devices that share them have a pair in one class each.
    types.zip(usize::from(class == Class::Decode)..).map(move |(types, n)| {
        let shape = Shape { types, ..Shape::new([4, 2, 256], Mask::Causal, 60, 3) };
        later(move || case(shape, products).in_class(class).shared(n))
    })
}

/// The same as cases, of both classes: a device has other kernels for prompts than for single tokens.
#[must_use]
pub fn rotation_cases() -> Vec<Case> {
    together([Class::Prefill, Class::Decode].into_iter().flat_map(|class| rotations(Products::F32, class)))
}

/// `R` of [`tq3`] as a matrix, row by row, from its definition.
fn rotation() -> Vec<f64> {
    let sign = |signs: [u32; 4], i: usize| if signs[i / 32] >> (i % 32) & 1 == 1 { -1.0 } else { 1.0 };
    let entry = |at: usize| {
        let (i, j) = (at / 128, at % 128);
        let hadamard = if (i & j).count_ones() % 2 == 1 { -1.0 } else { 1.0 };
        sign(tq3::SIGNS2, i) * hadamard * sign(tq3::SIGNS1, j) / 128f64.sqrt()
    };
    (0..128 * 128).map(entry).collect()
}

/// `Rᵀ · x`, group by group.
fn turned_back(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    let group = |x: &[f64]| {
        (0..128).map(|j| (0..128).map(|i| matrix[i * 128 + j] * x[i]).sum()).collect::<Vec<f64>>()
    };
    x.chunks(128).flat_map(group).collect()
}

/// A pool that holds `values`, `[positions, kv_heads, head_dim]`, and what they decode to, in their own domain.
fn pool(
    values: &[f32],
    heads: Heads,
    kv_type: KvType,
    (span, count): (Span, usize),
) -> (StateSpec, Vec<u8>, Vec<f32>) {
    let Heads { kv_heads, head_dim, .. } = heads;
    let spec = StateSpec { name: "pool".to_owned(), span, kv_type, kv_heads, head_dim, pages: count };
    let mut bytes = vec![0xFF; spec.page_bytes() * count];
    let mut decoded = vec![0.0f32; values.len()];
    let entries = values.chunks_exact(head_dim).zip(decoded.chunks_exact_mut(head_dim)).enumerate();
    for (i, (entry, decoded)) in entries {
        let (position, head) = (i / kv_heads, i % kv_heads);
        // Page numbers run backwards through the table.
        let page = count - 1 - position / PAGE % count;
        let at = ((page * kv_heads + head) * PAGE + position % PAGE) * spec.row_bytes();
        let row = &mut bytes[at..at + spec.row_bytes()];
        kv_type.encode(entry, row).expect("finite values");
        kv_type.decode(row, decoded);
    }
    (spec, bytes, decoded)
}

/// `rows` queries from position `start` on over keys and values of these types, as far as `reach`; whatever a query must
/// not see is NaN, except what lies in the window of another row.
fn case(shape: Shape, products: Products) -> Case {
    let Shape { heads, types, mask, reach, start, rows } = shape;
    let Heads { heads: q_heads, kv_heads, head_dim: dim } = heads;
    let mut case = Case::new(
        "attention",
        rows,
        format!("{heads:?}, {mask:?}, {reach:?} at {start}, {} and {}", types.k, types.v),
    )
    .in_class(Class::Decode);
    let last_seen = move |row: usize| match (reach, mask) {
        (Reach::Own, _) => start + row,
        (Reach::Before, _) => start + row - 1,
        (Reach::Block, Mask::Causal) => start + rows - 1,
        (Reach::Block, Mask::Window(n)) => (start + rows - 1).min(start + row + n - 1),
    };
    (0..).zip(&mut case.rows).for_each(|(i, row)| row.position = super::narrow(start) + i);
    let end = last_seen(rows - 1) + 1;
    let (span, count) = match mask {
        Mask::Causal => (Span::Global, pages(start + rows)),
        Mask::Window(_) => (Span::Local, 2),
    };
    let table: Vec<u32> = (0..super::narrow(count)).rev().collect();
    (case.global, case.local) = (table.clone(), table);
    // Logits of a few units: keys and queries of length about sqrt(dim) / 2 each.
    let shrink = |x: Vec<f32>| x.into_iter().map(|x| x * 2.0 / (dim as f32).powf(0.25)).collect::<Vec<_>>();
    let q = shrink(plain(rows * q_heads * dim, 34));
    let (k, v) = (shrink(plain(end * kv_heads * dim, 35)), plain(end * kv_heads * dim, 36));
    let (k_spec, k_bytes, k_decoded) = pool(&k, heads, types.k, (span, count));
    let (v_spec, v_bytes, v_decoded) = pool(&v, heads, types.v, (span, count));
    let input = case.input(&q);
    let (k_state, v_state) = (case.state(k_spec, k_bytes), case.state(v_spec, v_bytes));
    let out = case.program.attention_reaching(input, heads, (k_state, v_state), mask, reach);
    let out = out.expect("the widths agree");

    // P11: in f64 over the cache as it is stored, turned back where it is rotated.
    let matrix = rotation();
    let back = |decoded: &[f32], kind: KvType| {
        if kind.rotated() { turned_back(&matrix, &wide(decoded)) } else { wide(decoded) }
    };
    let (keys, values) = (back(&k_decoded, types.k), back(&v_decoded, types.v));
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for (row, q) in wide(&q).chunks(q_heads * dim).enumerate() {
        for (head, q) in q.chunks(dim).enumerate() {
            let last = last_seen(row);
            let first = match mask {
                Mask::Causal => 0,
                Mask::Window(n) => (start + row + 1).saturating_sub(n),
            };
            let at = |j: usize| {
                let at = (j * kv_heads + head / (q_heads / kv_heads)) * dim;
                at..at + dim
            };
            let dot = |j: usize, size: fn(f64) -> f64| -> f64 {
                q.iter().zip(&keys[at(j)]).map(|(q, k)| size(q * k)).sum()
            };
            let logits: Vec<f64> = (first..=last).map(|j| dot(j, |x| x)).collect();
            let sizes = (first..=last).map(|j| dot(j, f64::abs)).fold(0.0, f64::max);
            let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = logits.iter().map(|l| (l - top).exp()).sum();
            let (mut out, mut size) = (vec![0.0; dim], vec![0.0; dim]);
            for (l, j) in logits.iter().zip(first..) {
                let p = (l - top).exp() / total;
                for ((out, size), v) in out.iter_mut().zip(&mut size).zip(&values[at(j)]) {
                    *out += p * v;
                    *size += p * v.abs();
                }
            }
            // A logit errs by its sum, twice as much if the query was turned; a share by twice that and by the sum
            // of shares; an output by that and its own sum. Turning back mixes the errors of a group.
            let rotated = types.v.rotated();
            let (share_lost, sum_lost) = products.lost(types, dim, logits.len(), sizes);
            let share = 4.0 * sum_error(dim) * sizes + 2.0 * sum_error(logits.len()) + share_lost;
            let sum = sum_error(logits.len()) + sum_lost;
            let largest =
                if rotated { size.iter().copied().fold(0.0, f64::max) * 128f64.sqrt() } else { 0.0 };
            want.extend(out);
            allowed.extend(size.iter().map(|size| (share + sum) * size.max(largest)));
        }
    }
    let case = case
        .expect(out, want, allowed)
        .mutant("keys and values swapped", |case| {
            let op = op!(case, Attention);
            (op.k, op.v) = (op.v, op.k);
        })
        .mutant("scaled by 1 / sqrt(head_dim)", move |case| {
            let scale = 1.0 / (dim as f32).sqrt();
            case.change(0, |q| q.iter_mut().for_each(|q| *q *= scale));
        })
        .mutant("the newest key is not seen", |case| {
            case.rows.iter_mut().for_each(|row| row.position = row.position.saturating_sub(1));
        })
        .mutant("key heads in turns", move |case| {
            // Query head h reads the keys of the head that h would have with `h mod kv_heads`.
            let group = q_heads / kv_heads;
            case.change(0, |q| {
                for q in q.chunks_mut(q_heads * dim) {
                    let old = q.to_vec();
                    for h in 0..q_heads {
                        let from = h % kv_heads * group + h / kv_heads;
                        q[from * dim..(from + 1) * dim].copy_from_slice(&old[h * dim..(h + 1) * dim]);
                    }
                }
            });
        });
    let case = match reach {
        Reach::Own => case,
        Reach::Before => {
            case.mutant("a query sees its own place", |case| op!(case, Attention).reach = Reach::Own)
        }
        Reach::Block => case.mutant("rows look back only", |case| op!(case, Attention).reach = Reach::Own),
    };
    let case = match mask {
        Mask::Causal => case,
        Mask::Window(n) => case
            .mutant("a key too many in the window", move |case| {
                op!(case, Attention).mask = Mask::Window(n + 1);
            })
            .mutant("a key too few in the window", move |case| {
                op!(case, Attention).mask = Mask::Window(n.max(2) - 1);
            }),
    };
    let case = rotation_mutant(case, "queries are not rotated", (0, types.k), k_decoded, heads);
    rotation_mutant(case, "outputs are not turned back", (1, types.v), v_decoded, heads)
}

/// F5, P12: the decoded values of a rotated pool in a pool of plain numbers, which nobody turns.
fn rotation_mutant(
    case: Case,
    name: &'static str,
    (state, kind): (usize, KvType),
    decoded: Vec<f32>,
    heads: Heads,
) -> Case {
    if !kind.rotated() {
        return case;
    }
    case.mutant(name, move |case| {
        let mut states = case.program.states.to_vec();
        let place = (states[state].span, states[state].pages);
        let (spec, bytes, _) = pool(&decoded, heads, KvType::F32, place);
        states[state] = spec;
        case.pages[state] = bytes;
        case.program.states = states.into();
    })
}

/// F6: four query heads over two key heads with constant values: 0 and 1 return the first, 2 and 3 the second.
fn broadcast() -> Case {
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 32 };
    let (rows, keys) = (2, 40);
    let mut case = Case::new("attention", rows, "constant values");
    (38..).zip(&mut case.rows).for_each(|(position, row)| row.position = position);
    let input = case.input(&plain(rows * 4 * 32, 37));
    let values: Vec<f32> = (0..keys).flat_map(|_| [[0.5f32; 32], [-2.0; 32]].concat()).collect();
    let (spec, bytes, _) = pool(&plain(keys * 64, 38), heads, KvType::F16, (Span::Global, 1));
    let k = case.state(spec, bytes);
    let (spec, bytes, _) = pool(&values, heads, KvType::F16, (Span::Global, 1));
    let v = case.state(spec, bytes);
    let out = case.program.attention(input, heads, (k, v), Mask::Causal).expect("the widths agree");
    let row = [[0.5; 64], [-2.0; 64]].concat();
    let want: Vec<f64> = (0..rows).flat_map(|_| row.clone()).collect();
    // Shares sum to 1 but for the error of a sum.
    let allowed = want.iter().map(|want: &f64| 2.0 * sum_error(keys) * want.abs()).collect();
    case.expect(out, want, allowed)
}

/// Values of the cache that are no numbers, which only the last row of a step sees: the others must not notice. The
/// reference stores no such values, and is not asked.
#[must_use]
pub fn broken_cases() -> Vec<Case> {
    [Class::Prefill, Class::Decode].map(|class| broken().in_class(class)).into()
}

fn broken() -> Case {
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 64 };
    let (rows, start) = (3, 38);
    let mut case = Case::new("attention", rows, "values of the last row are no numbers");
    (start..).zip(&mut case.rows).for_each(|(position, row)| row.position = position);
    let keys = start as usize + rows;
    let input = case.input(&plain(rows * 4 * 64, 39));
    let values: Vec<f32> = (0..keys).flat_map(|_| [[0.5f32; 64], [-2.0; 64]].concat()).collect();
    let (spec, bytes, _) = pool(&plain(keys * 128, 40), heads, KvType::F16, (Span::Global, 1));
    let k = case.state(spec, bytes);
    let (spec, mut bytes, _) = pool(&values, heads, KvType::F16, (Span::Global, 1));
    for head in 0..2 {
        let at = (head * PAGE + keys - 1) * spec.row_bytes();
        bytes[at..at + spec.row_bytes()].fill(0xFF);
    }
    let v = case.state(spec, bytes);
    let out = case.program.attention(input, heads, (k, v), Mask::Causal).expect("the widths agree");
    let out = case.program.gather_rows(out);
    case.picked = vec![0, 1];
    let row = [[0.5; 128], [-2.0; 128]].concat();
    let want: Vec<f64> = case.picked.iter().flat_map(|_| row.clone()).collect();
    // Shares sum to 1 but for the error of a sum.
    let allowed = want.iter().map(|want: &f64| 2.0 * sum_error(keys) * want.abs()).collect();
    case.expect(out, want, allowed)
}
