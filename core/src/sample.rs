//! How a token is chosen from logits: the specification of the `sample` op.
//!
//! Order of the steps, as in transformers: penalties and bias, temperature, top-k, top-p, min-p, draw.
//! The draw adds Gumbel noise keyed by (seed, absolute position, token) and takes the maximum, which samples
//! from the softmax exactly. So the token at a position depends on the logits and the seed alone: not on how
//! many tokens were drawn before it, nor on whether it was drafted, batched or restarted.

/// How one request samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keeps the fewest most likely tokens whose probabilities sum to at least this; 1 keeps all.
    pub top_p: f32,
    /// Drops tokens less likely than this share of the most likely one; 0 drops none.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or answer; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted from a logit once for each time its token was generated.
    pub frequency_penalty: f32,
    /// Subtracted from the logits of tokens that were generated.
    pub presence_penalty: f32,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Key of the random numbers.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy, without penalties.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

/// A sampling parameter outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{name} is {value}, expected {expected}")]
pub struct BadSampling {
    /// Name of the parameter.
    pub name: &'static str,
    /// Its value.
    pub value: f32,
    /// Accepted range.
    pub expected: &'static str,
}

impl Sampling {
    /// Checks every parameter.
    ///
    /// # Errors
    ///
    /// Names the first parameter outside its range; NaN is outside every range.
    pub fn check(&self) -> Result<(), BadSampling> {
        let rules = [
            ("temperature", self.temperature, (0.0..=100.0).contains(&self.temperature), "0 to 100"),
            ("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0, at most 1"),
            ("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "0 to 1"),
            (
                "repetition penalty",
                self.repetition_penalty,
                self.repetition_penalty > 0.0 && self.repetition_penalty <= 100.0,
                "above 0, at most 100",
            ),
            (
                "frequency penalty",
                self.frequency_penalty,
                (-100.0..=100.0).contains(&self.frequency_penalty),
                "-100 to 100",
            ),
            (
                "presence penalty",
                self.presence_penalty,
                (-100.0..=100.0).contains(&self.presence_penalty),
                "-100 to 100",
            ),
        ];
        for (name, value, good, expected) in rules {
            if !good {
                return Err(BadSampling { name, value, expected });
            }
        }
        match self.logit_bias.iter().find(|(_, bias)| bias.is_nan()) {
            Some(&(_, value)) => Err(BadSampling { name: "logit bias", value, expected: "a number" }),
            None => Ok(()),
        }
    }

    /// Whether the tokens before matter.
    #[must_use]
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty.to_bits() != 1.0f32.to_bits()
            || self.frequency_penalty.abs() > 0.0
            || self.presence_penalty.abs() > 0.0
    }

    /// What penalties, bias and `suppress` do to single logits, after `prompt` and `generated`.
    #[must_use]
    pub fn edits(&self, prompt: &[u32], generated: &[u32], suppress: &[u32]) -> Vec<Edit> {
        let mut edits = std::collections::BTreeMap::<u32, Edit>::new();
        let mut edit = |token: u32, change: &mut dyn FnMut(&mut Edit)| {
            change(edits.entry(token).or_insert(Edit { token, repetition: 1.0, offset: 0.0 }));
        };
        if self.has_penalties() {
            for &token in prompt.iter().chain(generated) {
                edit(token, &mut |e| e.repetition = self.repetition_penalty);
            }
            let mut seen = std::collections::BTreeSet::new();
            for &token in generated {
                let first = seen.insert(token);
                let presence = if first { self.presence_penalty } else { 0.0 };
                edit(token, &mut |e| e.offset -= self.frequency_penalty + presence);
            }
        }
        for &(token, bias) in &self.logit_bias {
            edit(token, &mut |e| e.offset += bias);
        }
        for &token in suppress {
            edit(token, &mut |e| e.offset = f32::NEG_INFINITY);
        }
        edits.into_values().collect()
    }
}

/// A change to one logit, before the temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edit {
    /// The token.
    pub token: u32,
    /// Divides a positive logit, multiplies a negative one.
    pub repetition: f32,
    /// Added afterwards.
    pub offset: f32,
}

/// What one row needs to be sampled.
#[derive(Clone, Copy, Debug)]
pub struct Draw<'a> {
    /// The request's settings; penalties and bias are taken from `edits`.
    pub sampling: &'a Sampling,
    /// Absolute position that the token will have.
    pub position: u32,
    /// Changes to single logits.
    pub edits: &'a [Edit],
    /// Bit `t % 32` of word `t / 32` allows token `t`; `None` allows all.
    pub allowed: Option<&'a [u32]>,
}

/// Chooses a token. `logits` holds one row over the vocabulary and is changed in place.
///
/// Ties go to the lower token. If nothing is allowed, the result is the most likely token.
///
/// # Panics
///
/// If `logits` is empty.
#[must_use]
pub fn sample(logits: &mut [f32], draw: &Draw<'_>) -> u32 {
    for edit in draw.edits {
        if let Some(logit) = logits.get_mut(edit.token as usize) {
            let scaled = if *logit > 0.0 { *logit / edit.repetition } else { *logit * edit.repetition };
            *logit = scaled + edit.offset;
        }
    }
    if let Some(allowed) = draw.allowed {
        let open = |t: usize| allowed.get(t / 32).is_some_and(|word| word >> (t % 32) & 1 == 1);
        if (0..logits.len()).any(open) {
            for (t, logit) in logits.iter_mut().enumerate().filter(|&(t, _)| !open(t)) {
                let _ = t;
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    let settings = draw.sampling;
    if settings.temperature <= 0.0 {
        return token(best(logits.iter().map(|&l| f64::from(l))));
    }
    let kept = keep(logits, settings);
    let noisy = kept.iter().map(|&(t, scaled)| scaled + gumbel(settings.seed, draw.position, token(t)));
    token(kept[best(noisy)].0)
}

/// Tokens that survive temperature, top-k, top-p and min-p, with their scaled logits, by rising token.
fn keep(logits: &[f32], settings: &Sampling) -> Vec<(usize, f64)> {
    let scale = 1.0 / f64::from(settings.temperature);
    let mut kept: Vec<(usize, f64)> = logits
        .iter()
        .enumerate()
        .map(|(t, &l)| (t, f64::from(l) * scale))
        .filter(|&(_, l)| l > f64::NEG_INFINITY)
        .collect();
    if kept.is_empty() {
        return vec![(best(logits.iter().map(|&l| f64::from(l))), 0.0)];
    }
    let falling = |a: &(usize, f64), b: &(usize, f64)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let top_k = settings.top_k as usize;
    if top_k > 0 && top_k < kept.len() {
        kept.select_nth_unstable_by(top_k - 1, falling);
        kept.truncate(top_k);
    }
    if settings.top_p < 1.0 || settings.min_p > 0.0 {
        kept.sort_unstable_by(falling);
        let top = kept[0].1;
        let total: f64 = kept.iter().map(|&(_, l)| (l - top).exp()).sum();
        let mut mass = 0.0;
        let limit = f64::from(settings.top_p);
        let in_mass = kept.iter().take_while(|&&(_, l)| {
            let before = mass;
            mass += (l - top).exp() / total;
            before < limit
        });
        let count = if settings.top_p < 1.0 { in_mass.count().max(1) } else { kept.len() };
        kept.truncate(count);
        kept.retain(|&(_, l)| (l - top).exp() >= f64::from(settings.min_p));
    }
    kept.sort_unstable_by_key(|&(t, _)| t);
    kept
}

/// Index of the first largest value; NaN is never largest.
fn best(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, value) in values.enumerate() {
        if value > best.1 {
            best = (i, value);
        }
    }
    best.0
}

fn token(index: usize) -> u32 {
    u32::try_from(index).expect("a vocabulary has fewer than 2^32 tokens")
}

/// Standard Gumbel noise of one token at one position.
fn gumbel(seed: u64, position: u32, token: u32) -> f64 {
    let words = philox([token >> 2, position, 0, 0], seed);
    // 24 bits and a half, so that a GPU's f32 holds it exactly and it is never 0 or 1.
    let u = (f64::from(words[(token & 3) as usize] >> 8) + 0.5) / f64::from(1u32 << 24);
    -(-u.ln()).ln()
}

/// Philox4x32-10, a counter-based generator. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
#[must_use]
pub fn philox(mut counter: [u32; 4], seed: u64) -> [u32; 4] {
    let halves = |x: u64| ((x >> 32) as u32, (x & 0xFFFF_FFFF) as u32);
    let (mut key_high, mut key_low) = halves(seed);
    for _ in 0..10 {
        let (high0, low0) = halves(0xD251_1F53 * u64::from(counter[0]));
        let (high1, low1) = halves(0xCD9E_8D57 * u64::from(counter[2]));
        counter = [high1 ^ counter[1] ^ key_low, low1, high0 ^ counter[3] ^ key_high, low0];
        key_low = key_low.wrapping_add(0x9E37_79B9);
        key_high = key_high.wrapping_add(0xBB67_AE85);
    }
    counter
}

#[cfg(test)]
mod tests;
