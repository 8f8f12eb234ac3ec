// attention, decode class, first half: a row, up to HEADS query heads of one key head, SPLIT keys.
//   partial = largest logit, sum of weights, weighted values
//
// Spec    core/src/ops/attention.rs
// Launch  x: rows, y: key heads * tiles of their query heads, z: splits; ROW_THREADS a workgroup
//
// Splits are at absolute multiples of SPLIT, so a row's sums depend on its position alone. A dispatch takes the splits
// from params.first on, counted from the first that the row sees.
// The entry points are in attention_split_core.wgsl and attention_split_subgroups.wgsl, which differ in how invocations
// add up what they have of a logit.

override SPLIT: u32 = 256u;   // keys
override HEADS: u32 = 8u;     // query heads at once: 1, 2, 4 or 8, and no more than LANES
override LANES: u32 = 16u;    // invocations of a key while logits are made
override V_LANES: u32 = 64u;  // invocations of a value: DIM / 8, at least

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;              // [rows, heads, DIM]
@group(0) @binding(3) var<storage, read> rows: array<RowInfo>;             // [rows]
@group(0) @binding(4) var<storage, read> tables: array<u32>;
@group(0) @binding(5) var<storage, read_write> partial: array<vec4<f32>>;  // [rows, heads, splits, 1 + DIM / 4]
@group(1) @binding(0) var<uniform> params: AttentionParams;

override QUADS: u32 = SPLIT / 4u;  // of keys
override SHARED_LEN: u32 = max(HEADS * DIM / 4u, 2u * ROW_THREADS);
override SCORES_LEN: u32 = HEADS * QUADS;

var<workgroup> shared_quads: array<vec4<f32>, SHARED_LEN>;  // queries [HEADS, 2, DIM / 8]; later what is added up
var<workgroup> scores: array<vec4<f32>, SCORES_LEN>;        // [HEADS, SPLIT]: logits, then weights
var<workgroup> across: array<f32, ROW_THREADS>;

const LOWEST: f32 = -3.0e38;

// Logits of four keys for each head, or an invocation's share of them.
struct Logits {
  h0: vec4<f32>, h1: vec4<f32>, h2: vec4<f32>, h3: vec4<f32>,
  h4: vec4<f32>, h5: vec4<f32>, h6: vec4<f32>, h7: vec4<f32>,
}

// The same column of four keys times that column of head `h`.
fn more(h: u32, c: u32, k0: Eight, k1: Eight, k2: Eight, k3: Eight, sum: vec4<f32>) -> vec4<f32> {
  let a = shared_quads[h * (DIM / 4u) + c];
  let b = shared_quads[h * (DIM / 4u) + DIM / 8u + c];
  var s = fma(vec4<f32>(a.x), vec4<f32>(k0.a.x, k1.a.x, k2.a.x, k3.a.x), sum);
  s = fma(vec4<f32>(a.y), vec4<f32>(k0.a.y, k1.a.y, k2.a.y, k3.a.y), s);
  s = fma(vec4<f32>(a.z), vec4<f32>(k0.a.z, k1.a.z, k2.a.z, k3.a.z), s);
  s = fma(vec4<f32>(a.w), vec4<f32>(k0.a.w, k1.a.w, k2.a.w, k3.a.w), s);
  s = fma(vec4<f32>(b.x), vec4<f32>(k0.b.x, k1.b.x, k2.b.x, k3.b.x), s);
  s = fma(vec4<f32>(b.y), vec4<f32>(k0.b.y, k1.b.y, k2.b.y, k3.b.y), s);
  s = fma(vec4<f32>(b.z), vec4<f32>(k0.b.z, k1.b.z, k2.b.z, k3.b.z), s);
  return fma(vec4<f32>(b.w), vec4<f32>(k0.b.w, k1.b.w, k2.b.w, k3.b.w), s);
}

// Keys of the split that the row sees, counted from the start of the split.
struct Range { first: u32, last: u32 }

// This lane's share of the logits of keys 4 * quad .. + 3. Keys that are not seen are replaced by one that is: what
// they are stored as may be anything.
fn share(stored: u32, quad: u32, lane: u32, seen: Range) -> Logits {
  let r0 = (stored + clamp(4u * quad, seen.first, seen.last)) * params.k_stride;
  let r1 = (stored + clamp(4u * quad + 1u, seen.first, seen.last)) * params.k_stride;
  let r2 = (stored + clamp(4u * quad + 2u, seen.first, seen.last)) * params.k_stride;
  let r3 = (stored + clamp(4u * quad + 3u, seen.first, seen.last)) * params.k_stride;
  let none = vec4<f32>(0.0);
  var s = Logits(none, none, none, none, none, none, none, none);
  for (var c = lane; c < DIM / 8u; c += LANES) {
    let k0 = k_eight(r0, c);
    let k1 = k_eight(r1, c);
    let k2 = k_eight(r2, c);
    let k3 = k_eight(r3, c);
    s.h0 = more(0u, c, k0, k1, k2, k3, s.h0);
    if HEADS > 1u { s.h1 = more(1u, c, k0, k1, k2, k3, s.h1); }
    if HEADS > 2u {
      s.h2 = more(2u, c, k0, k1, k2, k3, s.h2);
      s.h3 = more(3u, c, k0, k1, k2, k3, s.h3);
    }
    if HEADS > 4u {
      s.h4 = more(4u, c, k0, k1, k2, k3, s.h4);
      s.h5 = more(5u, c, k0, k1, k2, k3, s.h5);
      s.h6 = more(6u, c, k0, k1, k2, k3, s.h6);
      s.h7 = more(7u, c, k0, k1, k2, k3, s.h7);
    }
  }
  return s;
}

// A value, or where it is not seen one that is.
fn v_of(stored: u32, key: u32, column: u32, seen: Range) -> Eight {
  return v_eight((stored + clamp(key, seen.first, seen.last)) * params.v_stride, column);
}

// Turns the logits of a head into weights; returns the largest logit and the sum of the weights. Head `index / each`.
fn weigh(index: u32, seen: Range) -> vec2<f32> {
  let each = ROW_THREADS / HEADS;
  let head = index / each;
  let j = index % each;
  var top = LOWEST;
  for (var key = j; key < SPLIT; key += each) {
    let logit = scores[head * QUADS + key / 4u][key % 4u];
    top = max(top, select(LOWEST, logit, key >= seen.first && key <= seen.last));
  }
  across[index] = top;
  for (var half = each / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if j < half { across[index] = max(across[index], across[index + half]); }
  }
  workgroupBarrier();
  top = across[head * each];
  var sum = 0.0;
  for (var key = j; key < SPLIT; key += each) {
    let logit = scores[head * QUADS + key / 4u][key % 4u];
    let weight = select(0.0, exp(logit - top), key >= seen.first && key <= seen.last);
    scores[head * QUADS + key / 4u][key % 4u] = weight;
    sum += weight;
  }
  workgroupBarrier();
  across[index] = sum;
  for (var half = each / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if j < half { across[index] += across[index + half]; }
  }
  workgroupBarrier();
  return vec2<f32>(top, across[head * each]);
}

// Sums of eight columns of the values, for one head.
struct Sums { a: vec4<f32>, b: vec4<f32> }

fn add_values(h: u32, quad: u32, v0: Eight, v1: Eight, v2: Eight, v3: Eight, sums: Sums) -> Sums {
  let w = scores[h * QUADS + quad];
  var a = fma(vec4<f32>(w.x), v0.a, sums.a);
  var b = fma(vec4<f32>(w.x), v0.b, sums.b);
  a = fma(vec4<f32>(w.y), v1.a, a); b = fma(vec4<f32>(w.y), v1.b, b);
  a = fma(vec4<f32>(w.z), v2.a, a); b = fma(vec4<f32>(w.z), v2.b, b);
  a = fma(vec4<f32>(w.w), v3.a, a); b = fma(vec4<f32>(w.w), v3.b, b);
  return Sums(a, b);
}

// Adds the sums of all groups of keys and stores head `h`.
fn store(h: u32, index: u32, sums: Sums, to: u32, heads_here: u32) {
  workgroupBarrier();
  shared_quads[index] = sums.a;
  shared_quads[ROW_THREADS + index] = sums.b;
  workgroupBarrier();
  if index < DIM / 4u && h < heads_here {
    let half = (index & 1u) * ROW_THREADS;
    var total = shared_quads[half + index / 2u];
    for (var i = index / 2u + V_LANES; i < ROW_THREADS; i += V_LANES) { total += shared_quads[half + i]; }
    partial[to + h * params.splits * (1u + DIM / 4u) + 1u + index] = total;
  }
}

// Last position that a row sees.
fn last_seen(info: RowInfo) -> u32 {
  if params.reach == 1u { return info.position - 1u; }
  if params.reach == 2u { return info.position + min(info.flags >> 8u, params.window - 1u); }
  return info.position;
}

fn split_of_row(workgroup: vec3<u32>, index: u32) {
  let info = rows[workgroup.x];
  let first = select(0u, info.position + 1u - params.window, info.position + 1u > params.window);
  let split = first / SPLIT + params.first + workgroup.z;
  let last = last_seen(info);
  if split > last / SPLIT { return; }
  let start = split * SPLIT;
  let seen = Range(max(first, start) - start, min(last, start + SPLIT - 1u) - start);
  let tiles = (params.group + HEADS - 1u) / HEADS;
  let kv_head = workgroup.y / tiles;
  let first_head = kv_head * params.group + (workgroup.y % tiles) * HEADS;
  let heads_here = min(HEADS, (kv_head + 1u) * params.group - first_head);
  let page = page_of(info.slot, start, params.local);
  let stored = first_row(page, kv_head, params.kv_heads) + start % PAGE;

  let from_q = (workgroup.x * params.heads + first_head) * (DIM / 4u);
  for (var i = index; i < HEADS * DIM / 4u; i += ROW_THREADS) {
    var x = vec4<f32>(0.0);
    if i < heads_here * (DIM / 4u) { x = q[from_q + i]; }
    // Halves of each eight columns apart: what neighbours read at once lies side by side.
    shared_quads[i / (DIM / 4u) * (DIM / 4u) + (i & 1u) * (DIM / 8u) + (i % (DIM / 4u)) / 2u] = x;
  }
  // The first values are under way while logits are made.
  let column = min(index % V_LANES, DIM / 8u - 1u);
  let groups = ROW_THREADS / V_LANES;
  let first_quad = seen.first / 4u / groups * groups + index / V_LANES;
  var v0 = v_of(stored, 4u * first_quad, column, seen);
  var v1 = v_of(stored, 4u * first_quad + 1u, column, seen);
  var v2 = v_of(stored, 4u * first_quad + 2u, column, seen);
  var v3 = v_of(stored, 4u * first_quad + 3u, column, seen);
  workgroupBarrier();
  let lane = index % LANES;
  let key_groups = ROW_THREADS / LANES;
  for (var i = seen.first / 4u / key_groups; i <= seen.last / 4u / key_groups; i++) {
    let quad = i * key_groups + index / LANES;
    add_up(share(stored, quad, lane, seen), quad, lane, index);
  }
  workgroupBarrier();
  let stat = weigh(index, seen);
  let to = ((workgroup.x * params.heads + first_head) * params.splits + workgroup.z) * (1u + DIM / 4u);
  let head = index / (ROW_THREADS / HEADS);
  if index % (ROW_THREADS / HEADS) == 0u && head < heads_here {
    partial[to + head * params.splits * (1u + DIM / 4u)] = vec4<f32>(stat, 0.0, 0.0);
  }

  let none = Sums(vec4<f32>(0.0), vec4<f32>(0.0));
  var s0 = none; var s1 = none; var s2 = none; var s3 = none; var s4 = none; var s5 = none; var s6 = none; var s7 = none;
  for (var quad = first_quad; quad <= seen.last / 4u; quad += groups) {
    if quad != first_quad {
      v0 = v_of(stored, 4u * quad, column, seen);
      v1 = v_of(stored, 4u * quad + 1u, column, seen);
      v2 = v_of(stored, 4u * quad + 2u, column, seen);
      v3 = v_of(stored, 4u * quad + 3u, column, seen);
    }
    s0 = add_values(0u, quad, v0, v1, v2, v3, s0);
    if HEADS > 1u { s1 = add_values(1u, quad, v0, v1, v2, v3, s1); }
    if HEADS > 2u {
      s2 = add_values(2u, quad, v0, v1, v2, v3, s2);
      s3 = add_values(3u, quad, v0, v1, v2, v3, s3);
    }
    if HEADS > 4u {
      s4 = add_values(4u, quad, v0, v1, v2, v3, s4);
      s5 = add_values(5u, quad, v0, v1, v2, v3, s5);
      s6 = add_values(6u, quad, v0, v1, v2, v3, s6);
      s7 = add_values(7u, quad, v0, v1, v2, v3, s7);
    }
  }
  store(0u, index, s0, to, heads_here);
  if HEADS > 1u { store(1u, index, s1, to, heads_here); }
  if HEADS > 2u {
    store(2u, index, s2, to, heads_here);
    store(3u, index, s3, to, heads_here);
  }
  if HEADS > 4u {
    store(4u, index, s4, to, heads_here);
    store(5u, index, s5, to, heads_here);
    store(6u, index, s6, to, heads_here);
    store(7u, index, s7, to, heads_here);
  }
}
