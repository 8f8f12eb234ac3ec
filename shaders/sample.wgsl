// sample: out[r] = a token of row r: its edited logits, temperature, top-k, top-p, min-p, Gumbel noise, the largest
//
// Spec    core/src/ops/sample.rs, core/src/sample.rs
// Launch  sample__slices: x: slices of the vocabulary; y: picked rows. One best token a slice.
//         sample__choose: one workgroup for each picked row.
//
// 1. A slice's best is that of its edited logits; where no token is dropped, noise is already added to them.
// 2. Without top-k, top-p and min-p the best of the slices is the answer, unless the temperature is very low.
// 3. Else the k-th largest of the slices' bests bounds the k-th largest logit from below, and tokens above that bound
//    are the candidates; all tokens are, if there are too many or top-k is too large for this.
// 4. The last of the top-k and then of the top-p is found digit by digit: histograms of counts and of probability over
//    8 bits at a time, of the logit first and then of the token, so ties need nothing more.
//
// Differs from the spec in f32 arithmetic. Greedy choices and top-k do not: nothing is rounded but edits. Probabilities
// are summed as integers in units of 2^-44 and so exactly; each errs by its exp, 2^-22 * (2 + |x|) at x below the
// largest, so top-p may differ where the sum before a token is within 2^-17 of its limit, and min-p where a logit is
// within 2^-22 * |x| of its. Noisy logits err by 2^-22 * (|x| + 16), with x counted from 0 if no token is dropped: two that are
// closer may swap.
// Edits name a token once, as `Sampling::edits` makes them.

@group(0) @binding(0) var<storage, read> logits: array<f32>;                // [picked, vocab]
@group(0) @binding(1) var<storage, read> draws: array<u32>;                 // [picked] of DrawInfo, edits, masks
@group(0) @binding(2) var<storage, read_write> edited: array<f32>;          // [picked, vocab], rows with edits or masks
@group(0) @binding(3) var<storage, read_write> bests: array<Best>;          // [picked, slices]
@group(0) @binding(4) var<storage, read_write> candidates: array<u32>;      // [picked, SAMPLE_CANDIDATES]
@group(0) @binding(5) var<storage, read_write> out: array<u32>;             // [picked]
@group(0) @binding(6) var<storage, read_write> sampled: array<u32>;         // [PLACES, SLOTS]
@group(1) @binding(0) var<uniform> params: SampleParams;

// A token and what it is judged by; nothing is -infinity and token 0.
struct Best {
  value: f32,
  token: u32,
}

var<workgroup> tree: array<Best, ROW_THREADS>;
var<workgroup> chunk: array<f32, SAMPLE_CHUNK>;
var<workgroup> any_open: atomic<u32>;

fn draw_of(row: u32) -> DrawInfo {
  let at = row * 12u;
  // Positive temperatures are kept from where a quotient by them is not a number.
  let temperature = bitcast<f32>(draws[at]);
  return DrawInfo(
    select(0.0, max(temperature, 1e-30), temperature > 0.0), draws[at + 1u], bitcast<f32>(draws[at + 2u]), bitcast<f32>(draws[at + 3u]),
    draws[at + 4u], draws[at + 5u], draws[at + 6u], draws[at + 7u],
    draws[at + 8u], draws[at + 9u], draws[at + 10u], draws[at + 11u],
  );
}

fn changes(draw: DrawInfo) -> bool {
  return draw.edits > 0u || draw.allowed > 0u;
}

// Whether tokens are dropped from a random choice, or quotients may be so large that they need the largest logit first.
fn filters(draw: DrawInfo) -> bool {
  return draw.temperature > 0.0
    && (draw.top_k > 0u || draw.top_p < 1.0 || draw.min_p > 0.0 || draw.temperature < 0.05);
}

fn noisy(draw: DrawInfo, logit: f32, token: u32) -> f32 {
  let noise = gumbel(vec2(draw.seed_low, draw.seed_high), draw.position, token);
  return logit / draw.temperature + noise;
}

// The better of two: the larger, the lower token among equals. NaN is in neither.
fn better(a: Best, b: Best) -> Best {
  if b.value > a.value || (b.value == a.value && b.token < a.token) { return b; }
  return a;
}

// The best of all lanes, in every lane.
fn workgroup_best(mine: Best, lane: u32) -> Best {
  tree[lane] = mine;
  for (var half = ROW_THREADS / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if lane < half { tree[lane] = better(tree[lane], tree[lane + half]); }
  }
  workgroupBarrier();
  let best = tree[0];
  workgroupBarrier();
  return best;
}

// Whether a mask allows anything; one that does not is ignored.
fn opens(draw: DrawInfo, lane: u32) -> bool {
  if lane == 0u { atomicStore(&any_open, 0u); }
  workgroupBarrier();
  let words = min(draw.allowed, (params.vocab + 31u) / 32u);
  var bits = 0u;
  for (var i = lane; i < words; i += ROW_THREADS) {
    let past = params.vocab - i * 32u;
    bits |= draws[draw.allowed_start + i] & select(0xffffffffu, (1u << (past & 31u)) - 1u, past < 32u);
  }
  if bits != 0u { atomicOr(&any_open, bits); }
  workgroupBarrier();
  return atomicLoad(&any_open) != 0u;
}

@compute @workgroup_size(ROW_THREADS)
fn sample__slices(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let draw = draw_of(group.y);
  let row = group.y * params.vocab;
  let start = group.x * params.slice;
  let end = min(start + params.slice, params.vocab);
  let masked = opens(draw, lane);
  let noise = draw.temperature > 0.0 && !filters(draw);
  var best = Best(bitcast<f32>(params.nothing), 0u);
  for (var first = start; first < end; first += SAMPLE_CHUNK) {
    for (var i = lane; i < SAMPLE_CHUNK && first + i < end; i += ROW_THREADS) {
      chunk[i] = logits[row + first + i];
    }
    workgroupBarrier();
    for (var i = lane; i < draw.edits; i += ROW_THREADS) {
      let at = draw.edits_start + 3u * i;
      let token = draws[at];
      if token >= first && token < min(first + SAMPLE_CHUNK, end) {
        let logit = chunk[token - first];
        let repetition = bitcast<f32>(draws[at + 1u]);
        chunk[token - first] = select(logit * repetition, logit / repetition, logit > 0.0) + bitcast<f32>(draws[at + 2u]);
      }
    }
    workgroupBarrier();
    for (var i = lane; i < SAMPLE_CHUNK && first + i < end; i += ROW_THREADS) {
      let token = first + i;
      var value = chunk[i];
      if masked {
        let word = token / 32u;
        // Beyond the mask nothing is allowed.
        if word >= draw.allowed || ((draws[draw.allowed_start + word] >> (token & 31u)) & 1u) == 0u {
          value = bitcast<f32>(params.nothing);
        }
      }
      if changes(draw) { edited[row + token] = value; }
      if noise && value > bitcast<f32>(params.nothing) { value = noisy(draw, value, token); }
      if value > best.value { best = Best(value, token); }
    }
    workgroupBarrier();
  }
  best = workgroup_best(best, lane);
  if lane == 0u { bests[group.y * params.slices + group.x] = best; }
}
