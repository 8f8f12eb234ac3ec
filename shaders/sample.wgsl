// sample: out[r] = a token of row r: its edited logits, temperature, top-k, top-p, min-p, Gumbel noise, the largest
//
// Spec    core/src/ops/sample.rs, core/src/sample.rs
// Launch  sample__slices: x: slices of the vocabulary; y: picked rows. One best token a slice.
//         sample__choose: one workgroup for each picked row.
//
// 1. A slice's best is that of its edited logits; where no token is dropped, noise is already added to them.
// 2. Without top-k, top-p and min-p the best of the slices is the answer.
// 3. Else the k-th largest of the slices' bests bounds the k-th largest logit from below, and tokens above that bound
//    are the candidates; all tokens are, if there are too many or top-k is too large for this.
// 4. The last of the top-k and then of the top-p is found digit by digit: histograms of counts and of probability over
//    8 bits at a time, of the logit first and then of the token, so ties need nothing more.
//
// Differs from the spec in f32 arithmetic. Greedy choices and top-k do not: nothing is rounded but edits. Probabilities
// are summed as integers in units of 2^-44 and so exactly; each errs by its exp, 2^-22 * (2 + |x|) at x below the
// largest, so top-p may differ where the sum before a token is within 2^-17 of its limit, and min-p where a logit is
// within 2^-22 * |x| of its. Noisy logits err by 2^-22 * (|logit / temperature| + 16): two that are closer may swap.
// Edits name a token once, as `Sampling::edits` makes them.

@group(0) @binding(0) var<storage, read> logits: array<f32>;                // [picked, vocab]
@group(0) @binding(1) var<storage, read> draws: array<u32>;                 // [picked] of DrawInfo, edits, masks
@group(0) @binding(2) var<storage, read_write> edited: array<f32>;          // [picked, vocab], rows with edits or masks
@group(0) @binding(3) var<storage, read_write> bests: array<Best>;          // [picked, slices]
@group(0) @binding(4) var<storage, read_write> candidates: array<u32>;      // [picked, SAMPLE_CANDIDATES]
@group(0) @binding(5) var<storage, read_write> out: array<u32>;             // [picked]
@group(0) @binding(6) var<storage, read_write> sampled: array<u32>;         // [SLOTS]
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
  return DrawInfo(
    bitcast<f32>(draws[at]), draws[at + 1u], bitcast<f32>(draws[at + 2u]), bitcast<f32>(draws[at + 3u]),
    draws[at + 4u], draws[at + 5u], draws[at + 6u], draws[at + 7u],
    draws[at + 8u], draws[at + 9u], draws[at + 10u], draws[at + 11u],
  );
}

fn changes(draw: DrawInfo) -> bool {
  return draw.edits > 0u || draw.allowed > 0u;
}

// Whether tokens are dropped from a random choice.
fn filters(draw: DrawInfo) -> bool {
  return draw.temperature > 0.0 && (draw.top_k > 0u || draw.top_p < 1.0 || draw.min_p > 0.0);
}

fn noisy(draw: DrawInfo, logit: f32, token: u32) -> f32 {
  let noise = gumbel(vec2(draw.seed_low, draw.seed_high), draw.position, token);
  return fma(logit, 1.0 / draw.temperature, noise);
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

// --- the choice among the slices' bests ---

var<workgroup> counts: array<atomic<u32>, 256>;
var<workgroup> mass_low: array<atomic<u32>, 256>;
var<workgroup> mass_high: array<atomic<u32>, 256>;
var<workgroup> sums: array<vec2<u32>, 256>;
var<workgroup> found: vec4<u32>;       // bin, its count, sum before it
var<workgroup> gathered: atomic<u32>;
var<workgroup> bound_slice: u32;

// A place in the falling order of tokens: key of the logit, complement of the token. Larger ones come first.
struct Place {
  key: u32,
  inverse: u32,
}

fn place_of(value: f32, token: u32) -> Place {
  let bits = bitcast<u32>(value);
  return Place(select(bits | 0x80000000u, ~bits, bits >= 0x80000000u), ~token);
}

fn not_after(a: Place, last: Place) -> bool {
  return a.key > last.key || (a.key == last.key && a.inverse >= last.inverse);
}

// What the choice looks at: so many candidates, or tokens of the row.
struct Domain {
  row: u32,
  len: u32,
  all: bool,
  edited: bool,
}

fn token_at(domain: Domain, i: u32) -> u32 {
  if domain.all { return i; }
  return candidates[domain.row * SAMPLE_CANDIDATES + i];
}

fn value_of(domain: Domain, token: u32) -> f32 {
  if domain.edited { return edited[domain.row * params.vocab + token]; }
  return logits[domain.row * params.vocab + token];
}

fn add_wide(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let low = a.x + b.x;
  return vec2(low, a.y + b.y + select(0u, 1u, low < a.x));
}

fn less_wide(a: vec2<u32>, b: vec2<u32>) -> bool {
  return a.y < b.y || (a.y == b.y && a.x < b.x);
}

// exp(x) for x <= 0 in units of 2^-44.
fn mass_of(x: f32) -> vec2<u32> {
  let e = min(exp(x), 1.0) * 4096.0;
  let whole = floor(e);
  return vec2(u32((e - whole) * 4294967296.0), u32(whole));
}

// The last place that is kept of those not after `start`: the `top_k`th, or where probability reaches `top_p`.
fn cut(domain: Domain, start: Place, top: f32, draw: DrawInfo, by_mass: bool, lane: u32) -> Place {
  var prefix = Place(0u, 0u);
  var want = vec2(draw.top_k, 0u);
  for (var digit = 0u; digit < 8u; digit++) {
    atomicStore(&counts[lane], 0u);
    atomicStore(&mass_low[lane], 0u);
    atomicStore(&mass_high[lane], 0u);
    if lane == 0u { found = vec4(256u, 0u, 0u, 0u); }
    workgroupBarrier();
    let shift = 24u - 8u * (digit & 3u);
    let above = select(0u, 0xffffff00u << shift, (digit & 3u) > 0u);
    let key_mask = select(above, 0xffffffffu, digit >= 4u);
    let inverse_mask = select(0u, above, digit >= 4u);
    for (var i = lane; i < domain.len; i += ROW_THREADS) {
      let token = token_at(domain, i);
      let value = value_of(domain, token);
      let place = place_of(value, token);
      let inside = value > bitcast<f32>(params.nothing) && not_after(place, start)
        && (place.key & key_mask) == prefix.key && (place.inverse & inverse_mask) == prefix.inverse;
      if inside {
        let bin = (select(place.key, place.inverse, digit >= 4u) >> shift) & 255u;
        atomicAdd(&counts[bin], 1u);
        if by_mass {
          let mass = mass_of((value - top) / draw.temperature);
          let before = atomicAdd(&mass_low[bin], mass.x);
          atomicAdd(&mass_high[bin], mass.y + select(0u, 1u, before + mass.x < before));
        }
      }
    }
    workgroupBarrier();
    // Sums from the highest bin down, this one included; the lane holds bin 255 - lane.
    let bin = 255u - lane;
    let count = atomicLoad(&counts[bin]);
    let own = select(vec2(count, 0u), vec2(atomicLoad(&mass_low[bin]), atomicLoad(&mass_high[bin])), by_mass);
    var sum = own;
    sums[lane] = sum;
    for (var reach = 1u; reach < 256u; reach *= 2u) {
      workgroupBarrier();
      if lane >= reach { sum = add_wide(sum, sums[lane - reach]); }
      workgroupBarrier();
      sums[lane] = sum;
    }
    workgroupBarrier();
    if by_mass && digit == 0u {
      let total = sums[255];
      let share = u32(draw.top_p * 4294967296.0);
      want = add_wide(vec2(mul_wide(total.x, share).y, 0u), mul_wide(total.y, share));
      want = select(want, vec2(1u, 0u), want.x == 0u && want.y == 0u);
    }
    var before = vec2(0u);
    if lane > 0u { before = sums[lane - 1u]; }
    if less_wide(before, want) && !less_wide(sum, want) && count > 0u {
      found = vec4(bin, count, before);
    }
    workgroupBarrier();
    let hit = found;
    workgroupBarrier();
    // Fewer than wanted: all are kept.
    if hit.x > 255u { return start; }
    prefix.key |= select(hit.x << shift, 0u, digit >= 4u);
    prefix.inverse |= select(0u, hit.x << shift, digit >= 4u);
    // want - before, by the complement.
    want = add_wide(want, add_wide(~hit.zw, vec2(1u, 0u)));
    if hit.y == 1u || (!by_mass && hit.y == want.x) { break; }
  }
  return prefix;
}

// Tokens of slices whose best reaches that of the `top_k`th slice: the top-k are among them.
fn gather(row: u32, draw: DrawInfo, lane: u32) -> Domain {
  var domain = Domain(row, params.vocab, true, changes(draw));
  if draw.top_k == 0u || draw.top_k > params.slices { return domain; }
  // `tree` holds the slices' bests. Equal ones are told apart by their tokens or, if nothing, by their numbers.
  let mine = tree[lane];
  var rank = 0u;
  for (var i = 0u; i < params.slices; i++) {
    let other = tree[i];
    let first = other.value > mine.value || (other.value == mine.value
      && (other.token < mine.token || (other.token == mine.token && i < lane)));
    rank += select(0u, 1u, first);
  }
  if lane < params.slices && rank + 1u == draw.top_k { bound_slice = lane; }
  if lane == 0u { atomicStore(&gathered, 0u); }
  workgroupBarrier();
  let bound = tree[bound_slice].value;
  for (var slice = 0u; slice < params.slices; slice++) {
    if tree[slice].value >= bound {
      let end = min((slice + 1u) * params.slice, params.vocab);
      for (var first = slice * params.slice + lane; first < end; first += 4u * ROW_THREADS) {
        // Four loads in flight; past the end the last token is read again and not taken.
        let tokens = vec4(first) + ROW_THREADS * vec4(0u, 1u, 2u, 3u);
        let safe = min(tokens, vec4(end - 1u));
        let values = vec4(value_of(domain, safe.x), value_of(domain, safe.y),
          value_of(domain, safe.z), value_of(domain, safe.w));
        for (var i = 0u; i < 4u; i++) {
          if tokens[i] < end && values[i] >= bound {
            let at = atomicAdd(&gathered, 1u);
            if at < SAMPLE_CANDIDATES { candidates[row * SAMPLE_CANDIDATES + at] = tokens[i]; }
          }
        }
      }
    }
  }
  storageBarrier();
  workgroupBarrier();
  let len = atomicLoad(&gathered);
  if len <= SAMPLE_CANDIDATES { domain.len = len; domain.all = false; }
  return domain;
}

@compute @workgroup_size(ROW_THREADS)
fn sample__choose(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let draw = draw_of(group.x);
  let nothing = Best(bitcast<f32>(params.nothing), 0u);
  var mine = nothing;
  if lane < params.slices { mine = bests[group.x * params.slices + lane]; }
  var best = workgroup_best(mine, lane);
  if filters(draw) && best.value > nothing.value {
    tree[lane] = mine;
    workgroupBarrier();
    let domain = gather(group.x, draw, lane);
    var last = Place(0u, 0u);
    if draw.top_k > 0u { last = cut(domain, last, best.value, draw, false, lane); }
    if draw.top_p < 1.0 { last = cut(domain, last, best.value, draw, true, lane); }
    // Every logarithm of a probability is at least that of nothing.
    var least = nothing.value;
    if draw.min_p > 0.0 { least = log_of(draw.min_p); }
    var chosen = nothing;
    for (var i = lane; i < domain.len; i += ROW_THREADS) {
      let token = token_at(domain, i);
      let value = value_of(domain, token);
      if value > nothing.value && not_after(place_of(value, token), last)
        && (value - best.value) / draw.temperature >= least {
        chosen = better(chosen, Best(noisy(draw, value, token), token));
      }
    }
    best = workgroup_best(chosen, lane);
  }
  if lane == 0u {
    out[group.x] = best.token;
    sampled[draw.slot] = best.token;
  }
}
