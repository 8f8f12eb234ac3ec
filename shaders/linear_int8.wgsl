// linear, prefill class, in 8-bit integers: out[r, first + o] = sum over c of x[r, c] * w[o, c]
//
// Spec    core/src/ops/linear.rs
// Launch  x: ceil(outputs / 128); y: ceil(rows / 128); one dispatch for each part of each weight
// Differs from the spec in the activations: 32 columns of a row become 8-bit integers with one scale, largest / 127. Each
// is off by at most half a step, so an output is off by at most largest / 254 * sum |w| over every 32 columns.
//
// Weights keep their codes. With x = s * q, the columns that share a scale `d` and a shift `m`, half a chunk or a whole one,
// give d * s * (sum of code * q) + (m - d * zero) * s * (sum of q), where both sums are whole numbers and exact. An output
// adds those up by rising columns. While one chunk is multiplied the next is under way from memory.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;    // [rows, cols / 4]
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;    // [outputs, stride / 4]
@group(0) @binding(2) var<storage, read_write> out: array<f32>;  // [rows, out_cols]
@group(1) @binding(0) var<uniform> params: LinearParams;
@group(1) @binding(1) var<uniform> step: StepState;

// Two tiles of each: four columns a word, four rows or outputs an element, in two halves of 64. Most of an index is constant,
// as in common/linear_tiles.wgsl.
alias Words = array<array<vec4<u32>, 16>, 2>;
alias Numbers = array<array<vec4<f32>, 16>, 2>;
var<workgroup> tile_x: array<array<array<Words, 4>, 2>, 2>;   // [2, 2 halves of a chunk, 4 quads of columns]
var<workgroup> tile_w: array<array<array<Words, 4>, 2>, 2>;
var<workgroup> scale_x: array<Numbers, 2>;                    // [2]
var<workgroup> sums_x: array<array<Numbers, 2>, 2>;           // [2, 2 halves of a chunk]: s * sum of q
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

// A chunk of activations on its way.
struct Bits { low: vec4<u32>, high: vec4<u32>, scale: f32 }

fn magnitude(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> f32 {
  let quads = max(max(abs(a), abs(b)), max(abs(c), abs(d)));
  return max(max(quads.x, quads.y), max(quads.z, quads.w));
}

fn pack(v: vec4<f32>, inverse: f32) -> u32 { return pack4xI8(vec4<i32>(round(v * inverse))); }

fn fetch_x(start: u32, chunk: u32, chunks: u32) -> Bits {
  let v0 = x[start + chunk_quad(chunk, chunks, 0u)];
  let v1 = x[start + chunk_quad(chunk, chunks, 1u)];
  let v2 = x[start + chunk_quad(chunk, chunks, 2u)];
  let v3 = x[start + chunk_quad(chunk, chunks, 3u)];
  let v4 = x[start + chunk_quad(chunk, chunks, 4u)];
  let v5 = x[start + chunk_quad(chunk, chunks, 5u)];
  let v6 = x[start + chunk_quad(chunk, chunks, 6u)];
  let v7 = x[start + chunk_quad(chunk, chunks, 7u)];
  let largest = max(magnitude(v0, v1, v2, v3), magnitude(v4, v5, v6, v7));
  let inverse = select(0.0, 127.0 / largest, largest > 1e-30);
  return Bits(
    vec4(pack(v0, inverse), pack(v1, inverse), pack(v2, inverse), pack(v3, inverse)),
    vec4(pack(v4, inverse), pack(v5, inverse), pack(v6, inverse), pack(v7, inverse)),
    largest / 127.0,
  );
}

fn total(words: vec4<u32>) -> f32 {
  let ones = 0x01010101u;
  return f32(dot4I8Packed(words.x, ones) + dot4I8Packed(words.y, ones) + dot4I8Packed(words.z, ones) + dot4I8Packed(words.w, ones));
}

fn store_x(tile: u32, m: u32, bits: Bits) {
  let half = m / 64u;
  let four = (m / 4u) % 16u;
  let one = m % 4u;
  tile_x[tile][0][0][half][four][one] = bits.low.x;
  tile_x[tile][0][1][half][four][one] = bits.low.y;
  tile_x[tile][0][2][half][four][one] = bits.low.z;
  tile_x[tile][0][3][half][four][one] = bits.low.w;
  tile_x[tile][1][0][half][four][one] = bits.high.x;
  tile_x[tile][1][1][half][four][one] = bits.high.y;
  tile_x[tile][1][2][half][four][one] = bits.high.z;
  tile_x[tile][1][3][half][four][one] = bits.high.w;
  scale_x[tile][half][four][one] = bits.scale;
  sums_x[tile][0][half][four][one] = bits.scale * total(bits.low);
  sums_x[tile][1][half][four][one] = bits.scale * total(bits.high);
}

fn store_w(tile: u32, n: u32, packed: Chunk) {
  let half = n / 64u;
  let four = (n / 4u) % 16u;
  let one = n % 4u;
  let low = chunk_codes(packed, 0u);
  let high = chunk_codes(packed, 1u);
  tile_w[tile][0][0][half][four][one] = low.x;
  tile_w[tile][0][1][half][four][one] = low.y;
  tile_w[tile][0][2][half][four][one] = low.z;
  tile_w[tile][0][3][half][four][one] = low.w;
  tile_w[tile][1][0][half][four][one] = high.x;
  tile_w[tile][1][1][half][four][one] = high.y;
  tile_w[tile][1][2][half][four][one] = high.z;
  tile_w[tile][1][3][half][four][one] = high.w;
  let s = code_scales(packed);
  scale_w[tile][0][half][four][one] = s.scale.x;
  shift_w[tile][0][half][four][one] = s.shift.x;
  // Where a chunk has one scale, nobody reads the second.
  if CODE_HALVES {
    scale_w[tile][1][half][four][one] = s.scale.y;
    shift_w[tile][1][half][four][one] = s.shift.y;
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

// 8 rows with 8 outputs, four of each in the second half of the tile: products so far, and sums.
struct Dots {
  r0a: vec4<i32>, r0b: vec4<i32>, r1a: vec4<i32>, r1b: vec4<i32>,
  r2a: vec4<i32>, r2b: vec4<i32>, r3a: vec4<i32>, r3b: vec4<i32>,
  r4a: vec4<i32>, r4b: vec4<i32>, r5a: vec4<i32>, r5b: vec4<i32>,
  r6a: vec4<i32>, r6b: vec4<i32>, r7a: vec4<i32>, r7b: vec4<i32>,
}
struct Totals {
  r0a: vec4<f32>, r0b: vec4<f32>, r1a: vec4<f32>, r1b: vec4<f32>,
  r2a: vec4<f32>, r2b: vec4<f32>, r3a: vec4<f32>, r3b: vec4<f32>,
  r4a: vec4<f32>, r4b: vec4<f32>, r5a: vec4<f32>, r5b: vec4<f32>,
  r6a: vec4<f32>, r6b: vec4<f32>, r7a: vec4<f32>, r7b: vec4<f32>,
}

fn no_dots() -> Dots {
  let w = vec4(WHOLE);
  return Dots(w, w, w, w, w, w, w, w, w, w, w, w, w, w, w, w);
}

// Adds the products of four columns: rows `a` and `b`, outputs `c` and `e`.
fn add_quad(d: Dots, a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, e: vec4<u32>) -> Dots {
  return Dots(
    dots(a.x, c, d.r0a), dots(a.x, e, d.r0b),
    dots(a.y, c, d.r1a), dots(a.y, e, d.r1b),
    dots(a.z, c, d.r2a), dots(a.z, e, d.r2b),
    dots(a.w, c, d.r3a), dots(a.w, e, d.r3b),
    dots(b.x, c, d.r4a), dots(b.x, e, d.r4b),
    dots(b.y, c, d.r5a), dots(b.y, e, d.r5b),
    dots(b.z, c, d.r6a), dots(b.z, e, d.r6b),
    dots(b.w, c, d.r7a), dots(b.w, e, d.r7b),
  );
}

// Adds half a chunk.
fn add_half(dots: Dots, tile: u32, half: u32, m: u32, n: u32) -> Dots {
  var d = dots;
  d = add_quad(d, tile_x[tile][half][0][0][m], tile_x[tile][half][0][1][m],
    tile_w[tile][half][0][0][n], tile_w[tile][half][0][1][n]);
  d = add_quad(d, tile_x[tile][half][1][0][m], tile_x[tile][half][1][1][m],
    tile_w[tile][half][1][0][n], tile_w[tile][half][1][1][n]);
  d = add_quad(d, tile_x[tile][half][2][0][m], tile_x[tile][half][2][1][m],
    tile_w[tile][half][2][0][n], tile_w[tile][half][2][1][n]);
  d = add_quad(d, tile_x[tile][half][3][0][m], tile_x[tile][half][3][1][m],
    tile_w[tile][half][3][0][n], tile_w[tile][half][3][1][n]);
  return d;
}

// `low` and `high`: s * sum of q for the rows of each half of the tile.
fn add_scaled(t: Totals, d: Dots, tile: u32, half: u32, low: vec4<f32>, high: vec4<f32>, m: u32, n: u32) -> Totals {
  let s = scale_x[tile][0][m];
  let z = scale_x[tile][1][m];
  let d0 = scale_w[tile][half][0][n];
  let d1 = scale_w[tile][half][1][n];
  let m0 = shift_w[tile][half][0][n];
  let m1 = shift_w[tile][half][1][n];
  return Totals(
    add(t.r0a, d.r0a, s.x, low.x, d0, m0), add(t.r0b, d.r0b, s.x, low.x, d1, m1),
    add(t.r1a, d.r1a, s.y, low.y, d0, m0), add(t.r1b, d.r1b, s.y, low.y, d1, m1),
    add(t.r2a, d.r2a, s.z, low.z, d0, m0), add(t.r2b, d.r2b, s.z, low.z, d1, m1),
    add(t.r3a, d.r3a, s.w, low.w, d0, m0), add(t.r3b, d.r3b, s.w, low.w, d1, m1),
    add(t.r4a, d.r4a, z.x, high.x, d0, m0), add(t.r4b, d.r4b, z.x, high.x, d1, m1),
    add(t.r5a, d.r5a, z.y, high.y, d0, m0), add(t.r5b, d.r5b, z.y, high.y, d1, m1),
    add(t.r6a, d.r6a, z.z, high.z, d0, m0), add(t.r6b, d.r6b, z.z, high.z, d1, m1),
    add(t.r7a, d.r7a, z.w, high.w, d0, m0), add(t.r7b, d.r7b, z.w, high.w, d1, m1),
  );
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
  let brings_x = lane < 128u;
  let own = lane % 128u;
  // What is past the end is the last one again: its products are never stored.
  let x_start = min(first_row + own, row_count() - 1u) * (params.cols / 4u);
  let w_start = min(first_out + own, params.outputs - 1u) * params.stride;
  var next_x = Bits();
  var next_w = Chunk();
  if brings_x {
    store_x(0u, own, fetch_x(x_start, 0u, chunks));
  } else {
    store_w(0u, own, load_chunk(w_start, w_start + params.tails, 0u, chunks));
  }
  var t = Totals();
  workgroupBarrier();
  for (var chunk = 0u; chunk < chunks; chunk++) {
    let tile = chunk & 1u;
    let next = min(chunk + 1u, chunks - 1u);
    if brings_x {
      next_x = fetch_x(x_start, next, chunks);
    } else {
      next_w = load_chunk(w_start, w_start + params.tails, next, chunks);
    }
    var d = add_half(no_dots(), tile, 0u, m, n);
    var low = sums_x[tile][0][0][m];
    var high = sums_x[tile][0][1][m];
    if CODE_HALVES {
      t = add_scaled(t, d, tile, 0u, low, high, m, n);
      d = add_half(no_dots(), tile, 1u, m, n);
      t = add_scaled(t, d, tile, 1u, sums_x[tile][1][0][m], sums_x[tile][1][1][m], m, n);
    } else {
      d = add_half(d, tile, 1u, m, n);
      low += sums_x[tile][1][0][m];
      high += sums_x[tile][1][1][m];
      t = add_scaled(t, d, tile, 0u, low, high, m, n);
    }
    if brings_x { store_x(1u - tile, own, next_x); } else { store_w(1u - tile, own, next_w); }
    workgroupBarrier();
  }
  store(first_row + 4u * m + 0u, first_out + 4u * n, t.r0a);
  store(first_row + 4u * m + 0u, first_out + 64u + 4u * n, t.r0b);
  store(first_row + 4u * m + 1u, first_out + 4u * n, t.r1a);
  store(first_row + 4u * m + 1u, first_out + 64u + 4u * n, t.r1b);
  store(first_row + 4u * m + 2u, first_out + 4u * n, t.r2a);
  store(first_row + 4u * m + 2u, first_out + 64u + 4u * n, t.r2b);
  store(first_row + 4u * m + 3u, first_out + 4u * n, t.r3a);
  store(first_row + 4u * m + 3u, first_out + 64u + 4u * n, t.r3b);
  store(first_row + 64u + 4u * m + 0u, first_out + 4u * n, t.r4a);
  store(first_row + 64u + 4u * m + 0u, first_out + 64u + 4u * n, t.r4b);
  store(first_row + 64u + 4u * m + 1u, first_out + 4u * n, t.r5a);
  store(first_row + 64u + 4u * m + 1u, first_out + 64u + 4u * n, t.r5b);
  store(first_row + 64u + 4u * m + 2u, first_out + 4u * n, t.r6a);
  store(first_row + 64u + 4u * m + 2u, first_out + 64u + 4u * n, t.r6b);
  store(first_row + 64u + 4u * m + 3u, first_out + 4u * n, t.r7a);
  store(first_row + 64u + 4u * m + 3u, first_out + 64u + 4u * n, t.r7b);
}
