//! Cases of `attn_prepare`.
//!
//! What goes to the cache is read back by an attention over one key, whose output is that key's value; a pool of
//! keys stands in for the values to see the keys.

use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::Span;
use gemma4_core::ops::attention::Mask;
use gemma4_core::ops::attn_prepare::{Heads, OwnKeys, Values};
use gemma4_core::program::{Act, Class, StateSpec};
use gemma4_core::tensor::DType;

use super::{Case, around_one, inputs, inverse_rms, op, sum_error, wide};

/// Half of the last bit of a half, and of the smallest half.
const HALF: f64 = 1.0 / 2048.0;
const SMALLEST_HALF: f64 = 1.0 / (1u64 << 25) as f64;

/// What is compared.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Out {
    /// Queries of a layer that reads the keys of another.
    Alone,
    Queries,
    Keys,
    Values,
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (heads, kv_heads, head_dim, live, values) in [
        (1, 1, 32, 16, Values::Projected),
        (4, 2, 128, 64, Values::Projected),
        (8, 1, 512, 64, Values::RawKeys),
        (4, 2, 64, 32, Values::Plain),
    ] {
        let heads = Heads { heads, kv_heads, head_dim };
        for out in [Out::Alone, Out::Queries, Out::Keys, Out::Values] {
            cases.push(case(heads, live, values, out, Raw::Input, KvType::F32));
        }
    }
    // Widths and a type that a backend may have kernels of its own for, where a step has a few rows.
    for (heads, kv_heads, head_dim, live, values) in [
        (4, 2, 128, 64, Values::Projected),
        (4, 1, 256, 128, Values::Plain),
        (8, 1, 512, 64, Values::RawKeys),
    ] {
        let heads = Heads { heads, kv_heads, head_dim };
        let outs = [Out::Queries, Out::Keys, Out::Values];
        cases.extend(outs.map(|out| case(heads, live, values, out, Raw::Input, KvType::F16)));
    }
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 128 };
    let apart = |out| case(heads, 64, Values::Projected, out, Raw::Projected, KvType::F32);
    cases.extend([Out::Keys, Out::Values].map(apart));
    cases
}

/// Where the raw heads come from.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Raw {
    Input,
    /// A product with ones on the diagonal, whose values have a type of their own: a backend may project them apart.
    Projected,
}

/// The same columns once more: queries and keys by weights of one type, values by one of another.
fn projected(case: &mut Case, input: Act, [queries, keys]: [usize; 2]) -> Act {
    case.program.class = Class::Decode;
    let cols = queries + 2 * keys;
    let ones = |first: usize, rows: usize| {
        (0..rows * cols).map(move |i| if i % cols == first + i / cols { 1.0f32 } else { 0.0 })
    };
    let q = case.weight([1, queries, cols], &ones(0, queries).collect::<Vec<_>>());
    let k = case.weight([1, keys, cols], &ones(queries, keys).collect::<Vec<_>>());
    // One in 16 bits.
    let bytes =
        ones(queries + keys, keys).flat_map(|one| if one == 1.0 { [0, 0x3C] } else { [0; 2] }).collect();
    let v = case.raw_weight(DType::F16, [1, keys, cols], bytes);
    case.program.linear(input, &[q, k, v]).expect("the widths agree")
}

fn case(heads: Heads, live: usize, values: Values, which: Out, raw: Raw, kv_type: KvType) -> Case {
    let (rows, first) = (3, 200);
    let Heads { heads: q_heads, kv_heads, head_dim: dim } = heads;
    let mut case =
        Case::new("attn_prepare", rows, format!("{heads:?}, {values:?}, {which:?}, {raw:?}, {kv_type}"));
    if kv_type == KvType::F16 {
        case.program.class = Class::Decode;
    }
    // Across a page border, where angles are large.
    let start = 256 * first - 1;
    (0..).zip(&mut case.rows).for_each(|(i, row)| row.position = start + i);
    case.local = vec![0, 1];
    let stored = match (which, values) {
        (Out::Alone, _) => 0,
        (_, Values::RawKeys) => 1,
        (_, Values::Projected | Values::Plain) => 2,
    };
    let columns = q_heads + kv_heads * stored;
    let x = inputs(rows, columns * dim, 31);
    let (q_norm, k_norm) = (around_one(dim, 32), around_one(dim, 33));
    let frequency: Vec<f32> = (0..dim / 2)
        .map(|i| if i < live { 10_000f32.powf(-2.0 * i as f32 / dim as f32) } else { 0.0 })
        .collect();
    let input = case.input(&x);
    let q_weight = case.weight([1, 1, dim], &q_norm);
    let k_weight = case.weight([1, 1, dim], &k_norm);
    let f_weight = case.weight([1, 1, dim / 2], &frequency);
    let spec = |name: &str| StateSpec {
        name: name.to_owned(),
        span: Span::Local,
        kv_type,
        kv_heads,
        head_dim: dim,
        pages: 2,
    };
    let bytes = spec("k").page_bytes() * 2;
    let k = case.state(spec("k"), vec![0xFF; bytes]);
    let v = case.state(spec("v"), vec![0xFF; bytes]);
    let own = (which != Out::Alone).then_some(OwnKeys { k_norm: k_weight, values, k, v });
    let input =
        if raw == Raw::Input { input } else { projected(&mut case, input, [q_heads * dim, kv_heads * dim]) };
    let q = case.program.attn_prepare(input, heads, (q_weight, f_weight), own, 1e-6).expect("widths agree");
    let out = match which {
        Out::Alone | Out::Queries => q,
        Out::Keys => case.program.attention(q, heads, (k, k), Mask::Window(1)).expect("widths agree"),
        Out::Values => case.program.attention(q, heads, (k, v), Mask::Window(1)).expect("widths agree"),
    };

    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for (row, x) in case.rows.iter().zip(wide(&x).chunks(columns * dim)) {
        for head in 0..q_heads {
            let kv = head / (q_heads / kv_heads);
            let (at, norm) = match (which, values) {
                (Out::Alone | Out::Queries, _) => (head, Some(&q_norm)),
                (Out::Keys, _) => (q_heads + kv, Some(&k_norm)),
                (Out::Values, Values::RawKeys) => (q_heads + kv, None),
                (Out::Values, Values::Projected | Values::Plain) => (q_heads + kv_heads + kv, None),
            };
            let x = &x[at * dim..(at + 1) * dim];
            let as_they_are = which == Out::Values && values == Values::Plain;
            let scale = if as_they_are { 1.0 } else { inverse_rms(x, f64::from(1e-6f32)) };
            let n = |i: usize| x[i] * scale * norm.map_or(1.0, |norm| norm[i].into());
            for i in 0..dim {
                let pair = i % (dim / 2);
                let angle = f64::from(row.position as f32 * frequency[pair]);
                let (a, b) = (n(pair), n(pair + dim / 2));
                let turned = if i < dim / 2 {
                    a * angle.cos() - b * angle.sin()
                } else {
                    b * angle.cos() + a * angle.sin()
                };
                want.push(if norm.is_some() { turned } else { n(i) });
                // The norm's error, and four roundings of sine, cosine, products and their sum.
                let error = sum_error(dim) * 2.0 * (a.abs() + b.abs());
                // Halves are stored rounded: by half of the last of 11 bits, or of what the smallest number is.
                let stored = kv_type == KvType::F16 && matches!(which, Out::Keys | Out::Values);
                let rounding = if stored { want[want.len() - 1].abs() * HALF + SMALLEST_HALF } else { 0.0 };
                allowed.push(error * (1.0 + if stored { HALF } else { 0.0 }) + rounding);
            }
        }
    }
    let case = case
        .expect(out, want, allowed)
        .mutant("norm of the queries ignored", |case| case.change(1, |w| w.fill(1.0)))
        .mutant("norm of the keys ignored", |case| case.change(2, |w| w.fill(1.0)))
        .mutant("positions off by one", |case| case.rows.iter_mut().for_each(|row| row.position += 1))
        .mutant("eps a million times larger", |case| op!(case, AttnPrepare).eps = 1.0)
        .mutant("neighbours are pairs", move |case| {
            // Element 2i of a head where i was, element 2i + 1 where i + dim / 2 was.
            case.change(0, |x| {
                for x in x.chunks_mut(dim) {
                    let old = x.to_vec();
                    for i in 0..dim / 2 {
                        (x[i], x[i + dim / 2]) = (old[2 * i], old[2 * i + 1]);
                    }
                }
            });
        })
        .mutant("every pair turns", move |case| {
            case.change(3, |f| f.iter_mut().for_each(|f| *f = f.max(1e-3)));
        })
        .mutant("keys and values swapped", |case| {
            if let Some(own) = &mut op!(case, AttnPrepare).own {
                (own.k, own.v) = (own.v, own.k);
            }
        });
    if which != Out::Values {
        return case;
    }
    let case = case.mutant("values are the normed keys", |case| {
        let op = op!(case, Attention);
        op.v = op.k;
    });
    match values {
        Values::RawKeys => case,
        Values::Projected | Values::Plain => case.mutant("values normed or not", |case| {
            if let Some(own) = &mut op!(case, AttnPrepare).own {
                own.values = if own.values == Values::Plain { Values::Projected } else { Values::Plain };
            }
        }),
    }
}
