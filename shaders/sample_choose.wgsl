// sample__choose: the last part of `sample`, whose header tells how it works. Follows shaders/sample.wgsl.

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
  // Digits that were not looked at are 0: what lies behind `start` may lie before that.
  if !not_after(prefix, start) { return start; }
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
        chosen = better(chosen, Best(noisy(draw, value - best.value, token), token));
      }
    }
    best = workgroup_best(chosen, lane);
  }
  if lane == 0u {
    out[group.x] = best.token;
    sampled[draw.slot] = best.token;
  }
}
