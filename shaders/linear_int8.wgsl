// linear, prefill class, in 8-bit integers: out[r, first + o] = sum over c of x[r, c] * w[o, c]
//
// Spec    core/src/ops/linear.rs
// Launch  x: ceil(outputs / 128); y: ceil(rows / 128); one dispatch for each part of each weight
// Differs from the spec in the activations: 32 columns of a row become 8-bit integers with one scale, largest / 127. Each
// is off by at most half a step, so an output is off by at most largest / 254 * sum |w| over every 32 columns.
//
// linear_int8_rows.wgsl makes the activations. Weights keep their codes. With x = s * q, the columns that share a scale `d`
// and a shift `m`, half a chunk or a whole one, give d * s * (sum of code * q) + (m - d * zero) * s * (sum of q), where both
// sums are whole numbers and exact. An output adds those up by rising columns. While one chunk is multiplied the next is
// under way from memory.

@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;    // [ceil(rows / 128), cols / 32, INT8_TILE]
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;    // [outputs, stride / 4]
@group(0) @binding(2) var<storage, read_write> out: array<f32>;  // [rows, out_cols]
@group(1) @binding(0) var<uniform> params: LinearParams;
@group(1) @binding(1) var<uniform> step: StepState;

// Two tiles of each, an element for four rows or outputs, in vectors of 128: of activations eight of four columns a word,
// one of scales, and for each half of a chunk one of s * sum of q.
alias Vector = array<array<vec4<u32>, 16>, 2>;
alias Numbers = array<array<vec4<f32>, 16>, 2>;
var<workgroup> tile_x: array<array<Vector, 11>, 2>;
var<workgroup> tile_w: array<array<array<Vector, 4>, 2>, 2>;   // [2, 2 halves of a chunk, 4 quads of columns]
var<workgroup> scale_w: array<array<Numbers, 2>, 2>;          // [2, 2 halves of a chunk]: d
var<workgroup> shift_w: array<array<Numbers, 2>, 2>;          // [2, 2 halves of a chunk]: m - d * zero

fn row_count() -> u32 { return select(step.rows, step.picked, params.picked != 0u); }

// Writes four outputs of a row, those that exist.
fn store(row: u32, output: u32, values: vec4<f32>) {
  if row >= row_count() { return; }
  let at = row * params.out_cols + params.first + output;
  if output < params.outputs { out[at] = values.x; }
  if output + 1u < params.outputs { out[at + 1u] = values.y; }
  if output + 2u < params.outputs { out[at + 2u] = values.z; }
  if output + 3u < params.outputs { out[at + 3u] = values.w; }
}

// What invocation `lane` brings of a tile of activations: a vector, or two.
struct Brought { first: vec4<u32>, second: vec4<u32> }

fn fetch_x(tile: u32, lane: u32) -> Brought {
  var brought = Brought(x[tile + lane], vec4(0u));
  if lane < INT8_TILE - 256u { brought.second = x[tile + 256u + lane]; }
  return brought;
}

fn store_x(tile: u32, lane: u32, brought: Brought) {
  tile_x[tile][lane / 32u][(lane / 16u) % 2u][lane % 16u] = brought.first;
  if lane < INT8_TILE - 256u { tile_x[tile][8u + lane / 32u][(lane / 16u) % 2u][lane % 16u] = brought.second; }
}

// Half `part` of output `n`.
fn store_w(tile: u32, part: u32, n: u32, packed: Chunk) {
  let half = n / 64u;
  let four = (n / 4u) % 16u;
  let one = n % 4u;
  let codes = chunk_codes(packed, part);
  tile_w[tile][part][0][half][four][one] = codes.x;
  tile_w[tile][part][1][half][four][one] = codes.y;
  tile_w[tile][part][2][half][four][one] = codes.z;
  tile_w[tile][part][3][half][four][one] = codes.w;
  // Where a chunk has one scale, nobody reads the second.
  if CODE_HALVES || part == 0u {
    let s = code_scales(packed);
    scale_w[tile][part][half][four][one] = select(s.scale.x, s.scale.y, part == 1u);
    shift_w[tile][part][half][four][one] = select(s.shift.x, s.shift.y, part == 1u);
  }
}

// A whole number below 2^22 as a float, without a conversion instruction.
const WHOLE = 0x4b400000;
fn whole(v: vec4<i32>) -> vec4<f32> { return bitcast<vec4<f32>>(v) - vec4(12582912.0); }

fn dots(a: u32, b: vec4<u32>, sum: vec4<i32>) -> vec4<i32> {
  return sum + vec4(dot4I8Packed(a, b.x), dot4I8Packed(a, b.y), dot4I8Packed(a, b.z), dot4I8Packed(a, b.w));
}

// What columns of one scale add to four outputs of a row.
fn add(sum: vec4<f32>, d: vec4<i32>, s: f32, total: f32, scale: vec4<f32>, shift: vec4<f32>) -> vec4<f32> {
  return fma(vec4(total), shift, fma(whole(d) * s, scale, sum));
}

// 8 rows with 4 outputs: products so far, and sums.
struct Dots {
  r0: vec4<i32>, r1: vec4<i32>, r2: vec4<i32>, r3: vec4<i32>, r4: vec4<i32>, r5: vec4<i32>, r6: vec4<i32>, r7: vec4<i32>,
}
struct Totals {
  r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32>, r4: vec4<f32>, r5: vec4<f32>, r6: vec4<f32>, r7: vec4<f32>,
}

fn no_dots() -> Dots {
  let w = vec4(WHOLE);
  return Dots(w, w, w, w, w, w, w, w);
}

// Adds the products of four columns: rows `a` and `b`, outputs `c`.
fn add_quad(d: Dots, a: vec4<u32>, b: vec4<u32>, c: vec4<u32>) -> Dots {
  return Dots(
    dots(a.x, c, d.r0), dots(a.y, c, d.r1), dots(a.z, c, d.r2), dots(a.w, c, d.r3),
    dots(b.x, c, d.r4), dots(b.y, c, d.r5), dots(b.z, c, d.r6), dots(b.w, c, d.r7),
  );
}

// Adds half a chunk, for outputs of half `side` of the tile.
fn add_half(dots: Dots, tile: u32, half: u32, side: u32, m: u32, n: u32) -> Dots {
  var d = dots;
  d = add_quad(d, tile_x[tile][4u * half + 0u][0][m], tile_x[tile][4u * half + 0u][1][m], tile_w[tile][half][0][side][n]);
  d = add_quad(d, tile_x[tile][4u * half + 1u][0][m], tile_x[tile][4u * half + 1u][1][m], tile_w[tile][half][1][side][n]);
  d = add_quad(d, tile_x[tile][4u * half + 2u][0][m], tile_x[tile][4u * half + 2u][1][m], tile_w[tile][half][2][side][n]);
  d = add_quad(d, tile_x[tile][4u * half + 3u][0][m], tile_x[tile][4u * half + 3u][1][m], tile_w[tile][half][3][side][n]);
  return d;
}

// `s * sum of q` of half `half` of a chunk, for rows of a half of the tile.
fn sums_x(tile: u32, half: u32, side: u32, m: u32) -> vec4<f32> { return bitcast<vec4<f32>>(tile_x[tile][9u + half][side][m]); }

// `low` and `high`: s * sum of q for the rows of each half of the tile.
fn add_scaled(t: Totals, d: Dots, tile: u32, half: u32, side: u32, low: vec4<f32>, high: vec4<f32>, m: u32, n: u32) -> Totals {
  let s = bitcast<vec4<f32>>(tile_x[tile][8][0][m]);
  let z = bitcast<vec4<f32>>(tile_x[tile][8][1][m]);
  let scale = scale_w[tile][half][side][n];
  let shift = shift_w[tile][half][side][n];
  return Totals(
    add(t.r0, d.r0, s.x, low.x, scale, shift), add(t.r1, d.r1, s.y, low.y, scale, shift),
    add(t.r2, d.r2, s.z, low.z, scale, shift), add(t.r3, d.r3, s.w, low.w, scale, shift),
    add(t.r4, d.r4, z.x, high.x, scale, shift), add(t.r5, d.r5, z.y, high.y, scale, shift),
    add(t.r6, d.r6, z.z, high.z, scale, shift), add(t.r7, d.r7, z.w, high.w, scale, shift),
  );
}

// Adds a chunk.
fn add_chunk(totals: Totals, tile: u32, side: u32, m: u32, n: u32) -> Totals {
  var t = totals;
  var d = add_half(no_dots(), tile, 0u, side, m, n);
  var low = sums_x(tile, 0u, 0u, m);
  var high = sums_x(tile, 0u, 1u, m);
  if CODE_HALVES {
    t = add_scaled(t, d, tile, 0u, side, low, high, m, n);
    d = add_half(no_dots(), tile, 1u, side, m, n);
    t = add_scaled(t, d, tile, 1u, side, sums_x(tile, 1u, 0u, m), sums_x(tile, 1u, 1u, m), m, n);
  } else {
    d = add_half(d, tile, 1u, side, m, n);
    low += sums_x(tile, 1u, 0u, m);
    high += sums_x(tile, 1u, 1u, m);
    t = add_scaled(t, d, tile, 0u, side, low, high, m, n);
  }
  return t;
}

// 128 rows by 128 outputs; 8 by 8 for an invocation.
@compute @workgroup_size(256)
fn linear__int8(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_row = group.y * 128u;
  let first_out = group.x * 128u;
  // Of 32 neighbours four in m by eight in n, as tile_place of common/linear_tiles.wgsl has them.
  let m = (((lane >> 1u) & 1u) | ((lane >> 3u) & 2u)) + 4u * ((lane >> 5u) & 3u);
  let n = ((lane & 1u) | ((lane >> 1u) & 6u)) + 8u * (lane >> 7u);
  let chunks = params.cols / 32u;
  let own = lane % 128u;
  let part = lane / 128u;
  // What is past the end is the last one again: its products are never stored.
  let w_start = min(first_out + own, params.outputs - 1u) * params.stride;
  let x_start = group.y * chunks * INT8_TILE;
  store_x(0u, lane, fetch_x(x_start, lane));
  store_w(0u, part, own, load_chunk(w_start, w_start + params.tails, 0u, chunks));
  var t = Totals();
  var u = Totals();
  workgroupBarrier();
  for (var chunk = 0u; chunk < chunks; chunk++) {
    let tile = chunk & 1u;
    let next = min(chunk + 1u, chunks - 1u);
    let next_x = fetch_x(x_start + next * INT8_TILE, lane);
    let next_w = load_chunk(w_start, w_start + params.tails, next, chunks);
    t = add_chunk(t, tile, 0u, m, n);
    u = add_chunk(u, tile, 1u, m, n);
    store_x(1u - tile, lane, next_x);
    store_w(1u - tile, part, own, next_w);
    workgroupBarrier();
  }
  store(first_row + 4u * m + 0u, first_out + 4u * n, t.r0);
  store(first_row + 4u * m + 0u, first_out + 64u + 4u * n, u.r0);
  store(first_row + 4u * m + 1u, first_out + 4u * n, t.r1);
  store(first_row + 4u * m + 1u, first_out + 64u + 4u * n, u.r1);
  store(first_row + 4u * m + 2u, first_out + 4u * n, t.r2);
  store(first_row + 4u * m + 2u, first_out + 64u + 4u * n, u.r2);
  store(first_row + 4u * m + 3u, first_out + 4u * n, t.r3);
  store(first_row + 4u * m + 3u, first_out + 64u + 4u * n, u.r3);
  store(first_row + 64u + 4u * m + 0u, first_out + 4u * n, t.r4);
  store(first_row + 64u + 4u * m + 0u, first_out + 64u + 4u * n, u.r4);
  store(first_row + 64u + 4u * m + 1u, first_out + 4u * n, t.r5);
  store(first_row + 64u + 4u * m + 1u, first_out + 64u + 4u * n, u.r5);
  store(first_row + 64u + 4u * m + 2u, first_out + 4u * n, t.r6);
  store(first_row + 64u + 4u * m + 2u, first_out + 64u + 4u * n, u.r6);
  store(first_row + 64u + 4u * m + 3u, first_out + 4u * n, t.r7);
  store(first_row + 64u + 4u * m + 3u, first_out + 64u + 4u * n, u.r7);
}
