//! Cases of `sample`.

use gemma4_core::sample::{Edit, Sampling};

use super::{Case, Settings, plain};

pub(super) fn cases() -> Vec<Case> {
    vec![greedy(), edited(), nothing(), drawn(), shared(), behind_both(), crowded(), whole_vocabulary()]
}

/// Greedy: the largest logit, the lower token among equals, only what is allowed.
fn greedy() -> Case {
    let vocab = 1000;
    let mut case = Case::new("sample", 4, "greedy");
    let mut logits = plain(4 * vocab, 29);
    // Row 1: all equal. Row 2: two largest. Row 3: the largest is not allowed.
    logits[vocab..2 * vocab].fill(-3.0);
    logits[2 * vocab + 70] = 9.0;
    logits[2 * vocab + 700] = 9.0;
    logits[3 * vocab + 5] = 9.0;
    logits[3 * vocab + 600] = 8.0;
    logits[321] = 8.0;
    let input = case.input(&logits);
    let mut allowed = vec![u32::MAX; vocab.div_ceil(32)];
    allowed[0] &= !(1 << 5);
    case.settings[3].allowed = Some(allowed);
    finish(case, input, &[321, 0, 70, 600])
        .mutant("the last of equals", move |case| case.change(0, |l| l[2 * vocab + 700] = 9.01))
        .mutant("what is allowed is ignored", |case| case.settings[3].allowed = None)
}

/// Penalties and bias: `logit / repetition + offset` for positive logits, `logit · repetition + offset` for others.
fn edited() -> Case {
    let vocab = 40;
    let mut case = Case::new("sample", 2, "edited logits");
    let mut logits = vec![-1.0f32; 2 * vocab];
    (logits[7], logits[8]) = (4.0, 3.0);
    // Row 1: all negative; a penalty moves the largest further down.
    (logits[vocab + 1], logits[vocab + 2]) = (-0.5, -0.6);
    let input = case.input(&logits);
    // 4 / 2 is below 3, and 3 - 2 is below 2.
    case.settings[0].edits = vec![
        Edit { token: 7, repetition: 2.0, offset: 0.0 },
        Edit { token: 8, repetition: 1.0, offset: -2.0 },
    ];
    case.settings[1].edits = vec![Edit { token: 1, repetition: 1.5, offset: 0.0 }];
    finish(case, input, &[7, 2])
        .mutant("edits ignored", |case| case.settings[1].edits.clear())
        .mutant("a penalty divides negative logits", |case| case.settings[1].edits[0].repetition = 1.0 / 1.5)
        .mutant("offsets ignored", |case| case.settings[0].edits[1].offset = 0.0)
}

/// Rows in which something is missing: numbers, allowed tokens, or both.
fn nothing() -> Case {
    let vocab = 70;
    let mut case = Case::new("sample", 7, "no numbers, no allowed tokens");
    let mut logits = plain(7 * vocab, 31);
    for row in logits.chunks_mut(vocab) {
        row[33] = 9.0;
        row[69] = 10.0;
    }
    // Rows 0 and 1: NaN everywhere, or where the largest was. Row 2: no token is possible.
    logits[..vocab].fill(f32::NAN);
    logits[vocab + 69] = f32::NAN;
    logits[vocab] = f32::NAN;
    logits[2 * vocab..3 * vocab].fill(f32::NEG_INFINITY);
    let input = case.input(&logits);
    // Row 3: nothing is allowed, so everything is. Row 4: a mask that ends early. Row 5: bits past the vocabulary.
    case.settings[3].allowed = Some(vec![0; 3]);
    case.settings[4].allowed = Some(vec![0, 0xFFFF_FFFF]);
    case.settings[5].allowed = Some(vec![0, 0, 0xFFFF_FFC0]);
    // Row 6: what is allowed is not possible.
    case.settings[6].allowed = Some(vec![0, 0, 1 << 5]);
    case.settings[6].edits = vec![Edit { token: 69, repetition: 1.0, offset: f32::NEG_INFINITY }];
    for row in [0, 1, 2, 6] {
        case.settings[row].sampling =
            Sampling { temperature: 0.01, top_k: 5, top_p: 0.5, min_p: 0.1, ..Sampling::default() };
    }
    finish(case, input, &[0, 33, 0, 69, 33, 69, 0])
        .mutant("a mask without allowed tokens allows none", |case| {
            case.settings[3].allowed = Some(vec![1, 0, 0]);
        })
        .mutant("tokens past the mask are allowed", |case| case.settings[4].allowed = Some(vec![u32::MAX; 3]))
}

/// Drawn: the largest of `logit / temperature + gumbel(seed, position, token)` among the `top_k` largest logits.
fn drawn() -> Case {
    let sampling = |r: u64| Sampling {
        temperature: 0.7,
        top_k: 20,
        seed: 1_000_000_007 * (r + 1),
        ..Sampling::default()
    };
    random("drawn", 24, &plain(24 * 50, 30), sampling)
        .mutant("another seed", |case| case.settings.iter_mut().for_each(|s| s.sampling.seed += 1))
        .mutant("another position", |case| case.rows.iter_mut().for_each(|row| row.position += 1))
        .mutant("top-k ignored", |case| case.settings.iter_mut().for_each(|s| s.sampling.top_k = 0))
        .mutant("greedy", |case| case.settings.iter_mut().for_each(|s| s.sampling.temperature = 0.0))
}

/// Every filter alone and with others, where many logits are equal: the lower tokens stay.
fn shared() -> Case {
    let (rows, vocab) = (48, 90);
    let logits: Vec<f32> = plain(rows * vocab, 32).iter().map(|l| (l * 2.0).round() / 2.0).collect();
    let sampling = |r: u64| Sampling {
        temperature: 1.5,
        top_k: if r & 1 > 0 { 30 } else { 0 },
        top_p: if r & 2 > 0 { 0.6 } else { 1.0 },
        min_p: if r & 4 > 0 { 0.17 } else { 0.0 },
        seed: u64::MAX / (r + 1),
        ..Sampling::default()
    };
    random("equal logits, all filters", rows, &logits, sampling)
        .mutant("top-k of one more", |case| {
            case.settings.iter_mut().filter(|s| s.sampling.top_k > 0).for_each(|s| s.sampling.top_k += 8);
        })
        .mutant("top-p ignored", |case| case.settings.iter_mut().for_each(|s| s.sampling.top_p = 1.0))
        .mutant("min-p ignored", |case| case.settings.iter_mut().for_each(|s| s.sampling.min_p = 0.0))
}

/// Top-k and top-p that end at the same token, where those behind it differ from it in the last digits of their logits: they
/// must not come back.
fn behind_both() -> Case {
    let (rows, vocab) = (24, 90);
    let mut logits: Vec<f32> = plain(rows * vocab, 41).iter().map(|l| 2.5 + l.abs() / 16.0).collect();
    for row in logits.chunks_mut(vocab) {
        (row[7], row[11]) = (8.0, 3.0);
    }
    let sampling = |r: u64| Sampling {
        temperature: 5.0,
        top_k: 2,
        top_p: 0.9,
        seed: 77 * (r + 1),
        ..Sampling::default()
    };
    random("top-k and top-p end together", rows, &logits, sampling)
        .mutant("top-k ignored", |case| case.settings.iter_mut().for_each(|s| s.sampling.top_k = 0))
        .mutant("top-k of one more", |case| case.settings.iter_mut().for_each(|s| s.sampling.top_k = 8))
}

/// More equal logits than a kernel may keep apart as candidates, and filters that cut through them.
fn crowded() -> Case {
    let (rows, vocab) = (4, 1 << 18);
    let mut logits = vec![1.0f32; rows * vocab];
    // The lower tokens are the less likely ones.
    for row in logits.chunks_mut(vocab) {
        row[..vocab / 8].fill(0.0);
    }
    let filters = [(64, 1.0), (0, 0.25), (100_000, 0.5), (3, 0.5)];
    let sampling = |r: u64| {
        let (top_k, top_p) = filters[usize::try_from(r).expect("few rows")];
        Sampling { temperature: 0.5, top_k, top_p, seed: r, ..Sampling::default() }
    };
    random("crowds of equal logits", rows, &logits, sampling)
        .mutant("higher tokens first", |case| case.change(0, <[f32]>::reverse))
}

/// As many tokens as Gemma has: the best is far behind, edits and masks reach there, and filters choose few of many.
fn whole_vocabulary() -> Case {
    let (rows, vocab) = (4, 1 << 18);
    let mut logits: Vec<f32> = plain(vocab, 33).repeat(rows);
    logits[200_000] = 21.0;
    logits[262_143] = 21.0;
    let sampling = |r: u64| match r {
        0 => Sampling::default(),
        1 => Sampling { temperature: 0.9, top_k: 64, top_p: 0.95, seed: 1, ..Sampling::default() },
        2 => Sampling { temperature: 0.3, top_k: 5000, top_p: 0.9, seed: 2, ..Sampling::default() },
        _ => Sampling { temperature: 1.0, seed: 3, ..Sampling::default() },
    };
    random("a whole vocabulary", rows, &logits, sampling)
        .mutant("the last of equals", |case| case.change(0, |l| l[262_143] = 21.5))
        .mutant("another seed", |case| case.settings.iter_mut().for_each(|s| s.sampling.seed += 1))
}

/// Rows of logits with a setting each, and what must be drawn by the definition.
fn random(shape: &str, rows: usize, logits: &[f32], sampling: impl Fn(u64) -> Sampling) -> Case {
    let vocab = logits.len() / rows;
    let mut case = Case::new("sample", rows, shape);
    let input = case.input(logits);
    let mut want = Vec::new();
    for (r, logits) in logits.chunks(vocab).enumerate() {
        let sampling = sampling(r as u64);
        want.push(choose(logits, &sampling, super::narrow(r + 1)));
        case.settings[r] = Settings { sampling, ..Settings::default() };
    }
    finish(case, input, &want)
}

fn choose(logits: &[f32], sampling: &Sampling, position: u32) -> u32 {
    let temperature = f64::from(sampling.temperature);
    let mut kept: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&l| f64::from(l))).collect();
    // A stable sort: lower tokens come first among equals.
    kept.sort_by(|a, b| b.1.total_cmp(&a.1));
    if temperature <= 0.0 {
        return kept[0].0;
    }
    if sampling.top_k > 0 {
        kept.truncate(sampling.top_k as usize);
    }
    let top = kept[0].1;
    let chance = |logit: f64| ((logit - top) / temperature).exp();
    let total: f64 = kept.iter().map(|kept| chance(kept.1)).sum();
    let mut mass = 0.0;
    let enough = kept.iter().position(|kept| {
        mass += chance(kept.1) / total;
        mass >= f64::from(sampling.top_p)
    });
    if let Some(last) = enough.filter(|_| sampling.top_p < 1.0) {
        kept.truncate(last + 1);
    }
    kept.retain(|kept| chance(kept.1) >= f64::from(sampling.min_p));
    let score = |&(token, logit): &(u32, f64)| {
        let words = gemma4_core::sample::philox([token / 4, position, 0, 0], sampling.seed);
        let uniform = (f64::from(words[token as usize % 4] >> 8) + 0.5) / 16_777_216.0;
        logit / temperature - (-uniform.ln()).ln()
    };
    let best = kept.iter().max_by(|a, b| score(a).total_cmp(&score(b)));
    best.expect("some tokens are kept").0
}

fn finish(mut case: Case, input: gemma4_core::program::Act, want: &[u32]) -> Case {
    let picked = case.program.gather_rows(input);
    let out = case.program.sample(picked);
    // Tokens are equal or wrong.
    case.expect(out, want.iter().map(|&token| token.into()).collect(), vec![0.0; want.len()])
}
