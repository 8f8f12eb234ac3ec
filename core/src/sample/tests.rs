use super::*;

fn draw(logits: &[f32], sampling: &Sampling, position: u32) -> u32 {
    sample(&mut logits.to_vec(), &Draw { sampling, position, edits: &[], allowed: None })
}

fn warm() -> Sampling {
    Sampling { temperature: 1.0, seed: 7, ..Sampling::default() }
}

/// How often each token was drawn over `n` positions.
fn histogram(logits: &[f32], sampling: &Sampling, n: u32) -> Vec<f64> {
    let mut counts = vec![0.0; logits.len()];
    for position in 0..n {
        counts[draw(logits, sampling, position) as usize] += 1.0 / f64::from(n);
    }
    counts
}

#[test]
fn philox_gives_the_published_vectors() {
    // Random123's kat_vectors for philox4x32-10.
    assert_eq!(philox([0; 4], 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
    assert_eq!(philox([u32::MAX; 4], u64::MAX), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
    let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
    let expected = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
    assert_eq!(philox(counter, 0x299f_31d0_a409_3822), expected);
}

#[test]
fn s9_greedy_takes_the_first_largest_and_never_nan() {
    let greedy = Sampling::default();
    assert_eq!(draw(&[1.0, 3.0, 3.0, f32::NAN], &greedy, 0), 1);
    assert_eq!(draw(&[f32::NAN, -5.0], &greedy, 0), 1);
}

#[test]
fn draws_follow_the_softmax() {
    let logits = [0.0, 1.0, 2.0, -1.0, 0.5];
    let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    let n = 40_000;
    for (got, &logit) in histogram(&logits, &warm(), n).iter().zip(&logits) {
        let want = f64::from(logit).exp() / total;
        // Five standard deviations of a binomial share.
        assert!(
            (got - want).abs() <= 5.0 * (want * (1.0 - want) / f64::from(n)).sqrt(),
            "{got} against {want}"
        );
    }
}

#[test]
fn temperature_sharpens_before_top_p_looks() {
    let logits = [0.0, 1.0];
    let cold = Sampling { temperature: 0.1, top_p: 0.9, ..warm() };
    assert_eq!(histogram(&logits, &cold, 500)[0], 0.0, "at 0.1 the second token has all but 5e-5");
    let hot = Sampling { temperature: 1.0, top_p: 0.9, ..warm() };
    assert!(histogram(&logits, &hot, 500)[0] > 0.1);
}

#[test]
fn top_k_top_p_and_min_p_keep_what_they_say() {
    let logits = [2.0, 1.0, 1.0, 0.0, -4.0];
    let kept = |s: &Sampling| keep(&logits, s).iter().map(|&(t, _)| t).collect::<Vec<_>>();
    assert_eq!(kept(&Sampling { top_k: 2, ..warm() }), [0, 1], "the lower token among equals");
    assert_eq!(kept(&Sampling { top_k: 9, ..warm() }), [0, 1, 2, 3, 4]);
    // Shares: 0.534, 0.196, 0.196, 0.072, 0.001.
    assert_eq!(kept(&Sampling { top_p: 0.5, ..warm() }), [0]);
    assert_eq!(kept(&Sampling { top_p: 0.6, ..warm() }), [0, 1]);
    assert_eq!(kept(&Sampling { top_p: 0.95, ..warm() }), [0, 1, 2, 3]);
    assert_eq!(kept(&Sampling { top_p: 1e-9, ..warm() }), [0]);
    assert_eq!(kept(&Sampling { min_p: 0.3, ..warm() }), [0, 1, 2], "exp(-1) is 0.37 of the best");
    assert_eq!(kept(&Sampling { min_p: 1.0, ..warm() }), [0]);
}

#[test]
fn a_token_depends_on_seed_and_position_alone() {
    let logits: Vec<f32> = (0..50).map(|i| (i % 7) as f32 * 0.3).collect();
    let text = |s: &Sampling| (0..64).map(|p| draw(&logits, s, p)).collect::<Vec<_>>();
    assert_eq!(text(&warm()), text(&warm()));
    assert_ne!(text(&warm()), text(&Sampling { seed: 8, ..warm() }));
    let late: Vec<u32> = (32..64).map(|p| draw(&logits, &warm(), p)).collect();
    assert_eq!(text(&warm())[32..], late);
}

#[test]
fn penalties_count_prompt_and_answer_as_documented() {
    let s = Sampling {
        repetition_penalty: 2.0,
        frequency_penalty: 0.5,
        presence_penalty: 0.25,
        logit_bias: vec![(3, 1.5)],
        ..Sampling::default()
    };
    let edits = s.edits(&[0, 1], &[1, 1], &[4]);
    let mut logits = [4.0, -4.0, 1.0, 1.0, 9.0];
    let draw = Draw { sampling: &s, position: 0, edits: &edits, allowed: None };
    assert_eq!(sample(&mut logits, &draw), 3);
    assert_eq!(logits, [2.0, -8.0 - 1.25, 1.0, 2.5, f32::NEG_INFINITY]);
}

#[test]
fn a_mask_allows_only_its_tokens_unless_it_allows_none() {
    let s = Sampling::default();
    let one = |mask: u32| {
        let draw = Draw { sampling: &s, position: 0, edits: &[], allowed: Some(&[mask]) };
        sample(&mut [1.0, 5.0, 3.0], &draw)
    };
    assert_eq!(one(0b101), 2);
    assert_eq!(one(0b000), 1);
}

#[test]
fn settings_outside_their_range_are_named() {
    for (bad, name) in [
        (Sampling { temperature: -1.0, ..warm() }, "temperature"),
        (Sampling { temperature: f32::NAN, ..warm() }, "temperature"),
        (Sampling { top_p: 0.0, ..warm() }, "top-p"),
        (Sampling { min_p: 1.1, ..warm() }, "min-p"),
        (Sampling { repetition_penalty: 0.0, ..warm() }, "repetition penalty"),
        (Sampling { logit_bias: vec![(1, f32::NAN)], ..warm() }, "logit bias"),
    ] {
        assert_eq!(bad.check().expect_err("out of range").name, name);
    }
    assert!(warm().check().is_ok());
}

#[test]
fn x2_what_sample_and_compare_commits_follows_the_target() {
    // Eight tokens; a drafter that likes others, drawn by the same noise and by noise of its own.
    let target = [0.5, 2.0, -1.0, 1.0, 0.0, -2.0, 1.5, 0.25];
    let drafter = [1.5, 0.0, 1.0, 1.0, -1.0, 0.5, 0.0, 2.0];
    let total: f64 = target.iter().map(|&l: &f32| f64::from(l).exp()).sum();
    for seed in [7, 8] {
        let (mut counts, mut position, mut drafted) = ([0.0; 8], 0, 0);
        while position < 200_000 {
            // A round of five drafts.
            let at = |row: u32| position + row;
            let drafts: Vec<u32> =
                (0..5).map(|row| draw(&drafter, &Sampling { seed, ..warm() }, at(row))).collect();
            let chosen: Vec<u32> = (0..6).map(|row| draw(&target, &warm(), at(row))).collect();
            let accepted = crate::speculate::accepted(&drafts, &chosen);
            drafted += accepted;
            for &token in &chosen[..=accepted] {
                counts[token as usize] += 1.0;
                position += 1;
            }
        }
        let n = f64::from(position);
        let chi: f64 = (0..8)
            .map(|t| {
                let want = n * f64::from(target[t]).exp() / total;
                (counts[t] - want) * (counts[t] - want) / want
            })
            .sum();
        // Seven degrees of freedom: one in a hundred thousand is beyond this.
        assert!(chi < 35.0, "chi-square {chi}");
        assert!(drafted > 10_000, "{drafted} drafts were accepted");
    }
}
