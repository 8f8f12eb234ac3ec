//! Cases of `sample`.

use gemma4_core::sample::{Edit, Sampling};

use super::{Case, Settings, plain};

pub(super) fn cases() -> Vec<Case> {
    vec![greedy(), edited(), drawn()]
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

/// Drawn: the largest of `logit / temperature + gumbel(seed, position, token)` among the `top_k` largest logits.
fn drawn() -> Case {
    let (rows, vocab, top_k) = (24, 50, 20);
    let mut case = Case::new("sample", rows, "drawn");
    let logits = plain(rows * vocab, 30);
    let input = case.input(&logits);
    let mut want = Vec::new();
    for (r, logits) in logits.chunks(vocab).enumerate() {
        let seed = 1_000_000_007 * (r as u64 + 1);
        let sampling = Sampling { temperature: 0.7, top_k: 20, seed, ..Sampling::default() };
        case.settings[r] = Settings { sampling, ..Settings::default() };
        let mut order: Vec<usize> = (0..vocab).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let position = super::narrow(r + 1);
        let score = |&t: &usize| {
            let token = super::narrow(t);
            let words = gemma4_core::sample::philox([token / 4, position, 0, 0], seed);
            let uniform = (f64::from(words[t % 4] >> 8) + 0.5) / 16_777_216.0;
            f64::from(logits[t]) / f64::from(0.7f32) - (-uniform.ln()).ln()
        };
        let best = order[..top_k].iter().max_by(|a, b| score(a).total_cmp(&score(b)));
        want.push(super::narrow(*best.expect("some tokens are kept")));
    }
    finish(case, input, &want)
        .mutant("another seed", |case| case.settings.iter_mut().for_each(|s| s.sampling.seed += 1))
        .mutant("another position", |case| case.rows.iter_mut().for_each(|row| row.position += 1))
        .mutant("top-k ignored", |case| case.settings.iter_mut().for_each(|s| s.sampling.top_k = 0))
        .mutant("greedy", |case| case.settings.iter_mut().for_each(|s| s.sampling.temperature = 0.0))
}

fn finish(mut case: Case, input: gemma4_core::program::Act, want: &[u32]) -> Case {
    let picked = case.program.gather_rows(input);
    let out = case.program.sample(picked);
    // Tokens are equal or wrong.
    case.expect(out, want.iter().map(|&token| token.into()).collect(), vec![0.0; want.len()])
}
