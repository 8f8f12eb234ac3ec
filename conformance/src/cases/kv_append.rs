//! Cases of `kv_append`: what goes to the cache is read back by an attention over one key, whose output is that key's
//! value; a pool of keys stands in for the values to see the keys.

use gemma4_core::kv_type::KvType;
use gemma4_core::model::config::Span;
use gemma4_core::ops::attention::Mask;
use gemma4_core::ops::attn_prepare::{Heads, OwnKeys, Values};
use gemma4_core::program::StateSpec;

use super::{Case, around_one, inputs, inverse_rms, op, plain, sum_error, wide};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kv_heads, head_dim, values) in
        [(2, 128, Values::Plain), (1, 32, Values::Projected), (2, 64, Values::RawKeys)]
    {
        cases.extend([true, false].map(|keys| case(kv_heads, head_dim, values, keys)));
    }
    cases
}

/// Of `keys`, or of values.
fn case(kv_heads: usize, dim: usize, values: Values, keys: bool) -> Case {
    let rows = 3;
    let mut case =
        Case::new("kv_append", rows, format!("{kv_heads} heads of {dim}, {values:?}, keys: {keys}"));
    // Across a page border.
    (254..).zip(&mut case.rows).for_each(|(position, row)| row.position = position);
    (case.global, case.local) = (vec![1, 0], vec![1, 0]);
    let stored = if values == Values::RawKeys { 1 } else { 2 };
    let width = kv_heads * stored * dim;
    let x = inputs(rows, width, 65);
    let k_norm = around_one(dim, 66);
    let frequency: Vec<f32> = (0..dim / 2).map(|i| 100f32.powf(-2.0 * i as f32 / dim as f32)).collect();
    let kv = case.input(&x);
    let q = case.input(&plain(rows * kv_heads * dim, 67));
    let k_weight = case.weight([1, 1, dim], &k_norm);
    let f_weight = case.weight([1, 1, dim / 2], &frequency);
    let spec = |name: &str| StateSpec {
        name: name.to_owned(),
        span: Span::Global,
        kv_type: KvType::F32,
        kv_heads,
        head_dim: dim,
        pages: 2,
    };
    let bytes = spec("k").page_bytes() * 2;
    let k = case.state(spec("k"), vec![0xFF; bytes]);
    let v = case.state(spec("v"), vec![0xFF; bytes]);
    let own = OwnKeys { k_norm: k_weight, values, k, v };
    case.program.kv_append(kv, (kv_heads, dim), f_weight, own, 1e-6).expect("widths agree");
    let heads = Heads { heads: kv_heads, kv_heads, head_dim: dim };
    let pools = if keys { (k, k) } else { (k, v) };
    let out = case.program.attention(q, heads, pools, Mask::Window(1)).expect("widths agree");
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for (row, x) in case.rows.iter().zip(wide(&x).chunks(width)) {
        for head in 0..kv_heads {
            let at = if keys || values == Values::RawKeys { head } else { kv_heads + head };
            let x = &x[at * dim..(at + 1) * dim];
            let scale =
                if keys || values != Values::Plain { inverse_rms(x, f64::from(1e-6f32)) } else { 1.0 };
            let n = |i: usize| x[i] * scale * if keys { f64::from(k_norm[i]) } else { 1.0 };
            for i in 0..dim {
                let pair = i % (dim / 2);
                let (a, b) = (n(pair), n(pair + dim / 2));
                let (sin, cos) = f64::from(row.position as f32 * frequency[pair]).sin_cos();
                let turned = if i < dim / 2 { a * cos - b * sin } else { b * cos + a * sin };
                want.push(if keys { turned } else { n(i) });
                allowed.push(sum_error(dim) * 2.0 * (a.abs() + b.abs()));
            }
        }
    }
    let case = case
        .expect(out, want, allowed)
        .mutant("keys and values swapped", |case| {
            let own = &mut op!(case, KvAppend).own;
            (own.k, own.v) = (own.v, own.k);
        })
        .mutant("norm of the keys ignored", |case| case.change(2, |w| w.fill(1.0)))
        .mutant("nothing turns", |case| case.change(3, |f| f.fill(0.0)))
        .mutant("positions off by one", |case| case.rows.iter_mut().for_each(|row| row.position += 1));
    match values {
        Values::Plain => {
            case.mutant("values are normed", |case| op!(case, KvAppend).own.values = Values::Projected)
        }
        Values::Projected => {
            case.mutant("values are not normed", |case| op!(case, KvAppend).own.values = Values::Plain)
        }
        Values::RawKeys => case,
    }
}
