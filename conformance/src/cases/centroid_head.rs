//! Cases of `centroid_head`.

use gemma4_core::quant;
use gemma4_core::tensor::DType;

use super::{Case, inputs, op, plain, sum_error, wide};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case(1, 32, (8, 8), 2, DType::F32),
        case(3, 256, (32, 32), 4, DType::Q8_0),
        case(2, 64, (300, 4), 32, DType::F16),
    ]
}

/// `clusters` of `each` tokens, of which a row looks into `top_k`. Two clusters have equal scores.
fn case(rows: usize, hidden: usize, (clusters, each): (usize, usize), top_k: usize, dtype: DType) -> Case {
    let vocab = clusters * each;
    let mut case =
        Case::new("centroid_head", rows, format!("{top_k} of {clusters} clusters of {each}, {dtype}"));
    let x = inputs(rows, hidden, 70);
    let mut scores = plain(rows * clusters, 71);
    for row in scores.chunks_mut(clusters) {
        // The last place that is chosen goes to the lower of two equals.
        let mut order: Vec<usize> = (0..clusters).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        row[order[top_k]] = row[order[top_k - 1]];
    }
    let x_act = case.input(&x);
    let s_act = case.input(&scores);
    let values = plain(vocab * hidden, 72);
    let row_bytes = dtype.row_bytes(hidden).expect("whole blocks");
    let (mut encoded, mut table) = (vec![0u8; vocab * row_bytes], vec![0.0f32; vocab * hidden]);
    for ((values, encoded), table) in
        values.chunks(hidden).zip(encoded.chunks_mut(row_bytes)).zip(table.chunks_mut(hidden))
    {
        quant::encode(dtype, values, encoded).expect("a type that is written");
        quant::decode(dtype, encoded, table);
    }
    let table_weight = case.raw_weight(dtype, [1, vocab, hidden], encoded);
    // A permutation: 7 divides no vocabulary of the cases.
    let ordering: Vec<usize> = (0..vocab).map(|i| i * 7 % vocab).collect();
    let as_floats: Vec<f32> = ordering.iter().map(|&token| token as f32).collect();
    let o_weight = case.weight([1, 1, vocab], &as_floats);
    let out = case.program.centroid_head((x_act, s_act), (table_weight, o_weight), top_k).expect("it fits");
    let (mut want, mut allowed) = (Vec::new(), Vec::new());
    for (x, scores) in wide(&x).chunks(hidden).zip(scores.chunks(clusters)) {
        let mut order: Vec<usize> = (0..clusters).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
        let mut row = vec![None; vocab];
        for cluster in &order[..top_k] {
            for &token in &ordering[cluster * each..(cluster + 1) * each] {
                let w = wide(&table[token * hidden..(token + 1) * hidden]);
                let sum: f64 = w.iter().zip(x).map(|(w, x)| w * x).sum();
                let size: f64 = w.iter().zip(x).map(|(w, x)| (w * x).abs()).sum();
                row[token] = Some((sum, sum_error(hidden) * size));
            }
        }
        let least =
            row.iter().flatten().copied().fold((f64::INFINITY, 0.0), |a, b| if b.0 < a.0 { b } else { a });
        // What is least may be another one, if two are close; the largest error bounds them all.
        let worst = row.iter().flatten().map(|(_, error)| *error).fold(0.0, f64::max);
        for found in row {
            let (value, error) = found.unwrap_or((least.0 - 1.0, worst + super::U * (least.0.abs() + 1.0)));
            want.push(value);
            allowed.push(error);
        }
    }
    case.expect(out, want, allowed)
        .mutant("a cluster too many", |case| op!(case, CentroidHead).top_k += 1)
        .mutant("a cluster too few", |case| op!(case, CentroidHead).top_k -= 1)
        .mutant("tokens in their own order", move |case| {
            case.change(3, |o| (0..).zip(o).for_each(|(i, o): (u16, _)| *o = f32::from(i)));
        })
        .mutant("the worst clusters", |case| case.change(1, |s| s.iter_mut().for_each(|s| *s = -*s)))
        .mutant("the higher of two equals", move |case| {
            case.change(1, |s| {
                for row in s.chunks_mut(clusters) {
                    let mut order: Vec<usize> = (0..clusters).collect();
                    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
                    row[order[top_k - 1]] -= 1e-3;
                }
            });
        })
}
