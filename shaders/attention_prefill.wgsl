// attention, prefill class: out[r, h] = sum over visible j of softmax_j(q[r, h] . key[j]) * value[j]
//
// Spec    core/src/ops/attention.rs
// Launch  x: tiles of rows, y: key heads * tiles of their query heads; THREADS = GROUPS * LANES invocations
//
// A workgroup takes 8 * GROUPS queries, rows times query heads of one key head, and goes through the keys in tiles of
// KEYS_EACH * LANES. Tiles start at absolute multiples of their size, and a row's sums go through them in ascending
// order: to a row that sees nothing of a tile it changes no bit, so it does not matter which rows share a workgroup.
// An invocation (group, lane) holds the logits of queries 8 * group .. + 7 for keys `lane` and `lane + LANES`, then
// their sums over values for columns 8 * lane .. + 7.
// Rows of several sequences may share a tile: then it is gone through once for each sequence.

override THREADS: u32 = 256u;
override LANES: u32 = 64u;     // columns of a head / 8
override KEYS_EACH: u32 = 2u;  // keys of an invocation, 1 or 2

const SLICE: u32 = 4u;  // vec4s of the columns that are in workgroup memory at once

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;          // [rows, heads, DIM]
@group(0) @binding(3) var<storage, read> rows: array<RowInfo>;         // [rows]
@group(0) @binding(4) var<storage, read> tables: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<vec4<f32>>;  // [rows, heads, DIM]
@group(1) @binding(0) var<uniform> params: AttentionParams;
@group(1) @binding(1) var<uniform> step: StepState;

override GROUPS: u32 = THREADS / LANES;
override QUADS: u32 = 2u * GROUPS;      // of queries of the workgroup
override KEYS: u32 = KEYS_EACH * LANES;
override KEY_STRIDE: u32 = KEYS + 1u;   // odd, against bank conflicts
override Q_LEN: u32 = 4u * SLICE * QUADS;
override K_LEN: u32 = SLICE * KEY_STRIDE;
override P_LEN: u32 = KEYS * QUADS;

var<workgroup> qs: array<vec4<f32>, Q_LEN>;  // [column of the slice, quad of queries]
var<workgroup> ks: array<vec4<f32>, K_LEN>;  // [quad of columns, key]
var<workgroup> ps: array<vec4<f32>, P_LEN>;  // [key, quad of queries]: weights; before, what lanes have in common
var<workgroup> tile_rows: array<vec2<u32>, 128>;  // slot and position of the rows of the tile

const LOWEST: f32 = -3.0e38;
const NOTHING: u32 = 0xffffffffu;

// Rows of one slot among the tile's.
struct Turn { slot: u32, first: u32, last: u32 }

// The lowest slot of the tile from `from` on, with the keys that its rows see.
fn next_turn(from_slot: u32, count: u32) -> Turn {
  var turn = Turn(NOTHING, NOTHING, 0u);
  for (var r = 0u; r < count; r++) {
    let row = tile_rows[r];
    if row.x < from_slot || row.x > turn.slot { continue; }
    if row.x < turn.slot { turn = Turn(row.x, NOTHING, 0u); }
    turn.first = min(turn.first, first_seen(row.y));
    turn.last = max(turn.last, row.y);
  }
  return turn;
}

fn first_seen(position: u32) -> u32 {
  return select(0u, position + 1u - params.window, position + 1u > params.window);
}

// The queries of a workgroup: number `i` is head `i % tile_heads` of row `i / tile_heads`, if that is there.
struct Tile { first_row: u32, rows: u32, first_head: u32, heads: u32 }

// First vec4 of query `i`, or NOTHING.
fn place(tile: Tile, i: u32) -> u32 {
  let row = i / params.tile_heads;
  let head = i % params.tile_heads;
  let at = ((tile.first_row + row) * params.heads + tile.first_head + head) * (DIM / 4u);
  return select(NOTHING, at, row < tile.rows && head < tile.heads);
}

// What invocation `i` brings of a slice of the queries: four columns of number `i / 4`.
fn part(tile: Tile, i: u32, slice: u32) -> vec4<f32> {
  let at = place(tile, i >> 2u);
  if at == NOTHING { return vec4<f32>(0.0); }
  return q[at + SLICE * slice + (i & 3u)];
}

fn put(i: u32, x: vec4<f32>) {
  if i >= 32u * GROUPS { return; }
  let to = 4u * (i & 3u) * QUADS + (i >> 4u);
  let j = (i >> 2u) & 3u;
  qs[to][j] = x.x;
  qs[to + QUADS][j] = x.y;
  qs[to + 2u * QUADS][j] = x.z;
  qs[to + 3u * QUADS][j] = x.w;
}

// Stores eight columns of a query, if there is one.
fn store(tile: Tile, i: u32, lane: u32, a: vec4<f32>, b: vec4<f32>) {
  let at = place(tile, i);
  if at == NOTHING { return; }
  out[at + 2u * lane] = a;
  out[at + 2u * lane + 1u] = b;
}

// exp(a - b), exactly 1 where they are equal.
fn factor(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> {
  return select(exp(a - b), vec4<f32>(1.0), a == b);
}

@compute @workgroup_size(THREADS)
fn attention__prefill(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) index: u32,
) {
  let group = index / LANES;
  let lane = index % LANES;
  let head_tiles = workgroups.y / params.kv_heads;
  let kv_head = workgroup.y / head_tiles;
  let first_head = kv_head * params.group + (workgroup.y % head_tiles) * params.tile_heads;
  let heads_here = min(params.tile_heads, (kv_head + 1u) * params.group - first_head);
  // The last rows see the most: they start first.
  let first_row_here = (workgroups.x - 1u - workgroup.x) * params.tile_rows;
  let rows_here = min(params.tile_rows, step.rows - first_row_here);
  for (var r = index; r < rows_here; r += THREADS) {
    let info = rows[first_row_here + r];
    tile_rows[r] = vec2<u32>(info.slot, info.position);
  }
  workgroupBarrier();
  let tile_q = Tile(first_row_here, rows_here, first_head, heads_here);

  let zero = vec4<f32>(0.0);
  var sum_lo = zero;
  var sum_hi = zero;
  var sums = Sums();
  // A second time, if values were not finite: see attention_prefill_sums.wgsl.
  var careful = false;
  loop {
    var max_lo = vec4<f32>(LOWEST);
    var max_hi = vec4<f32>(LOWEST);
    sum_lo = zero;
    sum_hi = zero;
    sums = Sums();
    var turn = next_turn(0u, rows_here);
    while turn.slot != NOTHING {
      var first_lo = vec4<u32>(NOTHING); var first_hi = first_lo;
      var last_lo = vec4<u32>(0u); var last_hi = last_lo;
      for (var i = 0u; i < 4u; i++) {
        let lo = (8u * group + i) / params.tile_heads;
        let hi = (8u * group + 4u + i) / params.tile_heads;
        if lo < rows_here && tile_rows[min(lo, 127u)].x == turn.slot {
          first_lo[i] = first_seen(tile_rows[lo].y);
          last_lo[i] = tile_rows[lo].y;
        }
        if hi < rows_here && tile_rows[min(hi, 127u)].x == turn.slot {
          first_hi[i] = first_seen(tile_rows[hi].y);
          last_hi[i] = tile_rows[hi].y;
        }
      }
      for (var tile = turn.first / KEYS; tile <= turn.last / KEYS; tile++) {
        let start = tile * KEYS;
        let page = page_of(turn.slot, start, params.local);
        let stored = first_row(page, kv_head, params.kv_heads) + start % PAGE;

        // Logits.
        var sa_lo = vec4<f32>(0.0); var sa_hi = sa_lo; var sb_lo = sa_lo; var sb_hi = sa_lo;
        // The next slice is under way while this one is worked on.
        let key = stored + (index >> 1u);
        var query = part(tile_q, index, 0u);
        var eight = Eight(zero, zero);
        if index < 2u * KEYS { eight = k_eight(key * params.k_stride, index & 1u); }
        for (var slice = 0u; slice < DIM / (4u * SLICE); slice++) {
          put(index, query);
          for (var i = index + THREADS; i < 32u * GROUPS; i += THREADS) { put(i, part(tile_q, i, slice)); }
          if index < 2u * KEYS {
            ks[2u * (index & 1u) * KEY_STRIDE + (index >> 1u)] = eight.a;
            ks[(2u * (index & 1u) + 1u) * KEY_STRIDE + (index >> 1u)] = eight.b;
          }
          workgroupBarrier();
          if slice + 1u < DIM / (4u * SLICE) {
            query = part(tile_q, index, slice + 1u);
            if index < 2u * KEYS { eight = k_eight(key * params.k_stride, SLICE / 2u * (slice + 1u) + (index & 1u)); }
          }
          for (var c = 0u; c < SLICE; c++) {
            let x = ks[c * KEY_STRIDE + lane];
            var y = vec4<f32>(0.0);
            if KEYS_EACH == 2u { y = ks[c * KEY_STRIDE + lane + LANES]; }
            let at = 4u * c * QUADS + 2u * group;
            var lo = qs[at];
            var hi = qs[at + 1u];
            sa_lo = fma4(x.x, lo, sa_lo); sa_hi = fma4(x.x, hi, sa_hi);
            if KEYS_EACH == 2u { sb_lo = fma4(y.x, lo, sb_lo); sb_hi = fma4(y.x, hi, sb_hi); }
            lo = qs[at + QUADS];
            hi = qs[at + QUADS + 1u];
            sa_lo = fma4(x.y, lo, sa_lo); sa_hi = fma4(x.y, hi, sa_hi);
            if KEYS_EACH == 2u { sb_lo = fma4(y.y, lo, sb_lo); sb_hi = fma4(y.y, hi, sb_hi); }
            lo = qs[at + 2u * QUADS];
            hi = qs[at + 2u * QUADS + 1u];
            sa_lo = fma4(x.z, lo, sa_lo); sa_hi = fma4(x.z, hi, sa_hi);
            if KEYS_EACH == 2u { sb_lo = fma4(y.z, lo, sb_lo); sb_hi = fma4(y.z, hi, sb_hi); }
            lo = qs[at + 3u * QUADS];
            hi = qs[at + 3u * QUADS + 1u];
            sa_lo = fma4(x.w, lo, sa_lo); sa_hi = fma4(x.w, hi, sa_hi);
            if KEYS_EACH == 2u { sb_lo = fma4(y.w, lo, sb_lo); sb_hi = fma4(y.w, hi, sb_hi); }
          }
          workgroupBarrier();
        }

        // Weights: exp of the logits less the largest so far.
        let key_a = vec4<u32>(start + lane);
        let key_b = vec4<u32>(start + lane + LANES);
        let sees_a_lo = (key_a >= first_lo) & (key_a <= last_lo);
        let sees_a_hi = (key_a >= first_hi) & (key_a <= last_hi);
        let sees_b_lo = (key_b >= first_lo) & (key_b <= last_lo) & vec4<bool>(KEYS_EACH == 2u);
        let sees_b_hi = (key_b >= first_hi) & (key_b <= last_hi) & vec4<bool>(KEYS_EACH == 2u);
        let lowest = vec4<f32>(LOWEST);
        sa_lo = select(lowest, sa_lo, sees_a_lo); sa_hi = select(lowest, sa_hi, sees_a_hi);
        sb_lo = select(lowest, sb_lo, sees_b_lo); sb_hi = select(lowest, sb_hi, sees_b_hi);
        ps[2u * index] = max(sa_lo, sb_lo);
        ps[2u * index + 1u] = max(sa_hi, sb_hi);
        workgroupBarrier();
        var top_lo = max_lo;
        var top_hi = max_hi;
        for (var l = 0u; l < LANES; l += 4u) {
          let at = 2u * (group * LANES + l);
          top_lo = max(max(max(top_lo, ps[at]), max(ps[at + 2u], ps[at + 4u])), ps[at + 6u]);
          top_hi = max(max(max(top_hi, ps[at + 1u]), max(ps[at + 3u], ps[at + 5u])), ps[at + 7u]);
        }
        let scale_lo = factor(max_lo, top_lo);
        let scale_hi = factor(max_hi, top_hi);
        max_lo = top_lo;
        max_hi = top_hi;
        let none = vec4<f32>(0.0);
        let pa_lo = select(none, exp(sa_lo - top_lo), sees_a_lo);
        let pa_hi = select(none, exp(sa_hi - top_hi), sees_a_hi);
        let pb_lo = select(none, exp(sb_lo - top_lo), sees_b_lo);
        let pb_hi = select(none, exp(sb_hi - top_hi), sees_b_hi);
        sum_lo = fma(sum_lo, scale_lo, pa_lo + pb_lo);
        sum_hi = fma(sum_hi, scale_hi, pa_hi + pb_hi);
        workgroupBarrier();
        ps[lane * QUADS + 2u * group] = pa_lo;
        ps[lane * QUADS + 2u * group + 1u] = pa_hi;
        if KEYS_EACH == 2u {
          ps[(lane + LANES) * QUADS + 2u * group] = pb_lo;
          ps[(lane + LANES) * QUADS + 2u * group + 1u] = pb_hi;
        }
        sums = scaled(sums, scale_lo, scale_hi);
        workgroupBarrier();

        // Values. Those that no row of the tile sees may be anything: one that is seen stands in, with a weight of 0.
        let column = min(lane, DIM / 8u - 1u);
        let low = max(turn.first, start) - start;
        let high = min(turn.last, start + KEYS - 1u) - start;
        for (var key = low & ~3u; key <= high; key += 4u) {
          let v0 = v_eight((stored + clamp(key, low, high)) * params.v_stride, column);
          let v1 = v_eight((stored + clamp(key + 1u, low, high)) * params.v_stride, column);
          let v2 = v_eight((stored + clamp(key + 2u, low, high)) * params.v_stride, column);
          let v3 = v_eight((stored + clamp(key + 3u, low, high)) * params.v_stride, column);
          let at = key * QUADS + 2u * group;
          if careful {
            sums = weigh_seen(ps[at], ps[at + 1u], v0, sums);
            sums = weigh_seen(ps[at + QUADS], ps[at + QUADS + 1u], v1, sums);
            sums = weigh_seen(ps[at + 2u * QUADS], ps[at + 2u * QUADS + 1u], v2, sums);
            sums = weigh_seen(ps[at + 3u * QUADS], ps[at + 3u * QUADS + 1u], v3, sums);
          } else {
            sums = weigh(ps[at], ps[at + 1u], v0, sums);
            sums = weigh(ps[at + QUADS], ps[at + QUADS + 1u], v1, sums);
            sums = weigh(ps[at + 2u * QUADS], ps[at + 2u * QUADS + 1u], v2, sums);
            sums = weigh(ps[at + 3u * QUADS], ps[at + 3u * QUADS + 1u], v3, sums);
          }
        }
      }
      turn = next_turn(turn.slot + 1u, rows_here);
    }
    if careful || !any_broken(sums, index) { break; }
    careful = true;
  }

  workgroupBarrier();
  ps[2u * index] = sum_lo;
  ps[2u * index + 1u] = sum_hi;
  workgroupBarrier();
  var total_lo = vec4<f32>(0.0);
  var total_hi = vec4<f32>(0.0);
  for (var l = 0u; l < LANES; l++) {
    total_lo += ps[2u * (group * LANES + l)];
    total_hi += ps[2u * (group * LANES + l) + 1u];
  }
  let n_lo = vec4<f32>(1.0) / total_lo;
  let n_hi = vec4<f32>(1.0) / total_hi;
  if lane >= DIM / 8u { return; }
  store(tile_q, 8u * group, lane, sums.a0 * n_lo.x, sums.b0 * n_lo.x);
  store(tile_q, 8u * group + 1u, lane, sums.a1 * n_lo.y, sums.b1 * n_lo.y);
  store(tile_q, 8u * group + 2u, lane, sums.a2 * n_lo.z, sums.b2 * n_lo.z);
  store(tile_q, 8u * group + 3u, lane, sums.a3 * n_lo.w, sums.b3 * n_lo.w);
  store(tile_q, 8u * group + 4u, lane, sums.a4 * n_hi.x, sums.b4 * n_hi.x);
  store(tile_q, 8u * group + 5u, lane, sums.a5 * n_hi.y, sums.b5 * n_hi.y);
  store(tile_q, 8u * group + 6u, lane, sums.a6 * n_hi.z, sums.b6 * n_hi.z);
  store(tile_q, 8u * group + 7u, lane, sums.a7 * n_hi.w, sums.b7 * n_hi.w);
}
