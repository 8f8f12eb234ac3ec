// linear, prefill class, in 8-bit integers: out[r, first + o] = sum over c of x[r, c] * w[o, c]
//
// Spec    core/src/ops/linear.rs
// Launch  x: ceil(outputs / 128); y: ceil(rows / 128); one dispatch for each part of each weight
// Differs from the spec in the activations: 32 columns of a row become 8-bit integers with one scale, largest / 127. Each
// is off by at most half a step, so an output is off by at most largest / 254 * sum |w| over every 32 columns.
//
// Weights keep their codes. With x = s * q, the 16 columns of half a chunk, which share a scale `d` and a shift `m`, give
// d * s * (sum of code * q) + (m - d * zero) * s * (sum of q), where both sums are whole numbers and exact. An output adds
// those up by rising columns. While one chunk is multiplied the next is under way from memory.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;    // [rows, cols / 4]
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;    // [outputs, stride / 4]
@group(0) @binding(2) var<storage, read_write> out: array<f32>;  // [rows, out_cols]
@group(1) @binding(0) var<uniform> params: LinearParams;
@group(1) @binding(1) var<uniform> step: StepState;

// Two tiles of each: four columns a word, eight rows or outputs an element.
var<workgroup> tile_x: array<array<vec4<u32>, 2>, 256>;        // [2, 8 quads of columns, 128 rows / 8]
var<workgroup> tile_w: array<array<vec4<u32>, 2>, 256>;        // [2, 8 quads of columns, 128 outputs / 8]
var<workgroup> scale_x: array<array<vec4<f32>, 2>, 32>;        // [2, 128 rows / 8]
var<workgroup> sums_x: array<array<vec4<f32>, 2>, 64>;         // [2, 2 halves, 128 rows / 8]: s * sum of q
var<workgroup> scale_w: array<array<vec4<f32>, 2>, 64>;        // [2, 2 halves, 128 outputs / 8]: d
var<workgroup> shift_w: array<array<vec4<f32>, 2>, 64>;        // [2, 2 halves, 128 outputs / 8]: m - d * zero

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
  let at = tile * 128u + m / 8u;
  let four = (m / 4u) % 2u;
  let one = m % 4u;
  tile_x[at + 0u][four][one] = bits.low.x;
  tile_x[at + 16u][four][one] = bits.low.y;
  tile_x[at + 32u][four][one] = bits.low.z;
  tile_x[at + 48u][four][one] = bits.low.w;
  tile_x[at + 64u][four][one] = bits.high.x;
  tile_x[at + 80u][four][one] = bits.high.y;
  tile_x[at + 96u][four][one] = bits.high.z;
  tile_x[at + 112u][four][one] = bits.high.w;
  scale_x[tile * 16u + m / 8u][four][one] = bits.scale;
  sums_x[tile * 32u + m / 8u][four][one] = bits.scale * total(bits.low);
  sums_x[tile * 32u + 16u + m / 8u][four][one] = bits.scale * total(bits.high);
}

fn store_w(tile: u32, n: u32, packed: Chunk) {
  let at = tile * 128u + n / 8u;
  let four = (n / 4u) % 2u;
  let one = n % 4u;
  let low = chunk_codes(packed, 0u);
  let high = chunk_codes(packed, 1u);
  tile_w[at + 0u][four][one] = low.x;
  tile_w[at + 16u][four][one] = low.y;
  tile_w[at + 32u][four][one] = low.z;
  tile_w[at + 48u][four][one] = low.w;
  tile_w[at + 64u][four][one] = high.x;
  tile_w[at + 80u][four][one] = high.y;
  tile_w[at + 96u][four][one] = high.z;
  tile_w[at + 112u][four][one] = high.w;
  let s = code_scales(packed);
  let half = tile * 32u + n / 8u;
  scale_w[half][four][one] = s.scale.x;
  scale_w[half + 16u][four][one] = s.scale.y;
  shift_w[half][four][one] = s.shift.x;
  shift_w[half + 16u][four][one] = s.shift.y;
}

// A whole number below 2^22 as a float, without a conversion instruction.
const WHOLE = 0x4b400000;
fn whole(v: vec4<i32>) -> vec4<f32> { return bitcast<vec4<f32>>(v) - vec4(12582912.0); }

fn dots(a: u32, b: vec4<u32>, sum: vec4<i32>) -> vec4<i32> {
  return sum + vec4(dot4I8Packed(a, b.x), dot4I8Packed(a, b.y), dot4I8Packed(a, b.z), dot4I8Packed(a, b.w));
}

// What half a chunk adds to four outputs of a row.
fn add(sum: vec4<f32>, d: vec4<i32>, s: f32, total: f32, scale: vec4<f32>, shift: vec4<f32>) -> vec4<f32> {
  return fma(vec4(total), shift, fma(whole(d) * s, scale, sum));
}

// 128 rows by 128 outputs; 8 by 8 for an invocation.
@compute @workgroup_size(256)
fn linear__int8(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first_row = group.y * 128u;
  let first_out = group.x * 128u;
  // Eight neighbours share rows of x, so that 32 read few banks twice.
  let m = (lane / 8u) % 4u + 4u * (lane / 64u);
  let n = lane % 8u + 8u * ((lane / 32u) % 2u);
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
  var t0_0 = vec4<f32>(); var t0_1 = vec4<f32>();
  var t1_0 = vec4<f32>(); var t1_1 = vec4<f32>();
  var t2_0 = vec4<f32>(); var t2_1 = vec4<f32>();
  var t3_0 = vec4<f32>(); var t3_1 = vec4<f32>();
  var t4_0 = vec4<f32>(); var t4_1 = vec4<f32>();
  var t5_0 = vec4<f32>(); var t5_1 = vec4<f32>();
  var t6_0 = vec4<f32>(); var t6_1 = vec4<f32>();
  var t7_0 = vec4<f32>(); var t7_1 = vec4<f32>();
  workgroupBarrier();
  for (var chunk = 0u; chunk < chunks; chunk++) {
    let tile = chunk & 1u;
    let next = min(chunk + 1u, chunks - 1u);
    if brings_x {
      next_x = fetch_x(x_start, next, chunks);
    } else {
      next_w = load_chunk(w_start, w_start + params.tails, next, chunks);
    }
    let s = scale_x[tile * 16u + m];
    for (var half = 0u; half < 2u; half++) {
      var d0_0 = vec4(WHOLE); var d0_1 = vec4(WHOLE);
      var d1_0 = vec4(WHOLE); var d1_1 = vec4(WHOLE);
      var d2_0 = vec4(WHOLE); var d2_1 = vec4(WHOLE);
      var d3_0 = vec4(WHOLE); var d3_1 = vec4(WHOLE);
      var d4_0 = vec4(WHOLE); var d4_1 = vec4(WHOLE);
      var d5_0 = vec4(WHOLE); var d5_1 = vec4(WHOLE);
      var d6_0 = vec4(WHOLE); var d6_1 = vec4(WHOLE);
      var d7_0 = vec4(WHOLE); var d7_1 = vec4(WHOLE);
      let at_x = tile * 128u + half * 64u + m;
      let at_w = tile * 128u + half * 64u + n;
      let a0 = tile_x[at_x]; let b0 = tile_w[at_w];
      d0_0 = dots(a0[0].x, b0[0], d0_0); d0_1 = dots(a0[0].x, b0[1], d0_1);
      d1_0 = dots(a0[0].y, b0[0], d1_0); d1_1 = dots(a0[0].y, b0[1], d1_1);
      d2_0 = dots(a0[0].z, b0[0], d2_0); d2_1 = dots(a0[0].z, b0[1], d2_1);
      d3_0 = dots(a0[0].w, b0[0], d3_0); d3_1 = dots(a0[0].w, b0[1], d3_1);
      d4_0 = dots(a0[1].x, b0[0], d4_0); d4_1 = dots(a0[1].x, b0[1], d4_1);
      d5_0 = dots(a0[1].y, b0[0], d5_0); d5_1 = dots(a0[1].y, b0[1], d5_1);
      d6_0 = dots(a0[1].z, b0[0], d6_0); d6_1 = dots(a0[1].z, b0[1], d6_1);
      d7_0 = dots(a0[1].w, b0[0], d7_0); d7_1 = dots(a0[1].w, b0[1], d7_1);
      let a1 = tile_x[at_x + 16u]; let b1 = tile_w[at_w + 16u];
      d0_0 = dots(a1[0].x, b1[0], d0_0); d0_1 = dots(a1[0].x, b1[1], d0_1);
      d1_0 = dots(a1[0].y, b1[0], d1_0); d1_1 = dots(a1[0].y, b1[1], d1_1);
      d2_0 = dots(a1[0].z, b1[0], d2_0); d2_1 = dots(a1[0].z, b1[1], d2_1);
      d3_0 = dots(a1[0].w, b1[0], d3_0); d3_1 = dots(a1[0].w, b1[1], d3_1);
      d4_0 = dots(a1[1].x, b1[0], d4_0); d4_1 = dots(a1[1].x, b1[1], d4_1);
      d5_0 = dots(a1[1].y, b1[0], d5_0); d5_1 = dots(a1[1].y, b1[1], d5_1);
      d6_0 = dots(a1[1].z, b1[0], d6_0); d6_1 = dots(a1[1].z, b1[1], d6_1);
      d7_0 = dots(a1[1].w, b1[0], d7_0); d7_1 = dots(a1[1].w, b1[1], d7_1);
      let a2 = tile_x[at_x + 32u]; let b2 = tile_w[at_w + 32u];
      d0_0 = dots(a2[0].x, b2[0], d0_0); d0_1 = dots(a2[0].x, b2[1], d0_1);
      d1_0 = dots(a2[0].y, b2[0], d1_0); d1_1 = dots(a2[0].y, b2[1], d1_1);
      d2_0 = dots(a2[0].z, b2[0], d2_0); d2_1 = dots(a2[0].z, b2[1], d2_1);
      d3_0 = dots(a2[0].w, b2[0], d3_0); d3_1 = dots(a2[0].w, b2[1], d3_1);
      d4_0 = dots(a2[1].x, b2[0], d4_0); d4_1 = dots(a2[1].x, b2[1], d4_1);
      d5_0 = dots(a2[1].y, b2[0], d5_0); d5_1 = dots(a2[1].y, b2[1], d5_1);
      d6_0 = dots(a2[1].z, b2[0], d6_0); d6_1 = dots(a2[1].z, b2[1], d6_1);
      d7_0 = dots(a2[1].w, b2[0], d7_0); d7_1 = dots(a2[1].w, b2[1], d7_1);
      let a3 = tile_x[at_x + 48u]; let b3 = tile_w[at_w + 48u];
      d0_0 = dots(a3[0].x, b3[0], d0_0); d0_1 = dots(a3[0].x, b3[1], d0_1);
      d1_0 = dots(a3[0].y, b3[0], d1_0); d1_1 = dots(a3[0].y, b3[1], d1_1);
      d2_0 = dots(a3[0].z, b3[0], d2_0); d2_1 = dots(a3[0].z, b3[1], d2_1);
      d3_0 = dots(a3[0].w, b3[0], d3_0); d3_1 = dots(a3[0].w, b3[1], d3_1);
      d4_0 = dots(a3[1].x, b3[0], d4_0); d4_1 = dots(a3[1].x, b3[1], d4_1);
      d5_0 = dots(a3[1].y, b3[0], d5_0); d5_1 = dots(a3[1].y, b3[1], d5_1);
      d6_0 = dots(a3[1].z, b3[0], d6_0); d6_1 = dots(a3[1].z, b3[1], d6_1);
      d7_0 = dots(a3[1].w, b3[0], d7_0); d7_1 = dots(a3[1].w, b3[1], d7_1);
      let total = sums_x[tile * 32u + half * 16u + m];
      let scale = scale_w[tile * 32u + half * 16u + n];
      let shift = shift_w[tile * 32u + half * 16u + n];
      t0_0 = add(t0_0, d0_0, s[0].x, total[0].x, scale[0], shift[0]);
      t0_1 = add(t0_1, d0_1, s[0].x, total[0].x, scale[1], shift[1]);
      t1_0 = add(t1_0, d1_0, s[0].y, total[0].y, scale[0], shift[0]);
      t1_1 = add(t1_1, d1_1, s[0].y, total[0].y, scale[1], shift[1]);
      t2_0 = add(t2_0, d2_0, s[0].z, total[0].z, scale[0], shift[0]);
      t2_1 = add(t2_1, d2_1, s[0].z, total[0].z, scale[1], shift[1]);
      t3_0 = add(t3_0, d3_0, s[0].w, total[0].w, scale[0], shift[0]);
      t3_1 = add(t3_1, d3_1, s[0].w, total[0].w, scale[1], shift[1]);
      t4_0 = add(t4_0, d4_0, s[1].x, total[1].x, scale[0], shift[0]);
      t4_1 = add(t4_1, d4_1, s[1].x, total[1].x, scale[1], shift[1]);
      t5_0 = add(t5_0, d5_0, s[1].y, total[1].y, scale[0], shift[0]);
      t5_1 = add(t5_1, d5_1, s[1].y, total[1].y, scale[1], shift[1]);
      t6_0 = add(t6_0, d6_0, s[1].z, total[1].z, scale[0], shift[0]);
      t6_1 = add(t6_1, d6_1, s[1].z, total[1].z, scale[1], shift[1]);
      t7_0 = add(t7_0, d7_0, s[1].w, total[1].w, scale[0], shift[0]);
      t7_1 = add(t7_1, d7_1, s[1].w, total[1].w, scale[1], shift[1]);
    }
    if brings_x { store_x(1u - tile, own, next_x); } else { store_w(1u - tile, own, next_w); }
    workgroupBarrier();
  }
  store(first_row + 8u * m + 0u, first_out + 8u * n, t0_0); store(first_row + 8u * m + 0u, first_out + 8u * n + 4u, t0_1);
  store(first_row + 8u * m + 1u, first_out + 8u * n, t1_0); store(first_row + 8u * m + 1u, first_out + 8u * n + 4u, t1_1);
  store(first_row + 8u * m + 2u, first_out + 8u * n, t2_0); store(first_row + 8u * m + 2u, first_out + 8u * n + 4u, t2_1);
  store(first_row + 8u * m + 3u, first_out + 8u * n, t3_0); store(first_row + 8u * m + 3u, first_out + 8u * n + 4u, t3_1);
  store(first_row + 8u * m + 4u, first_out + 8u * n, t4_0); store(first_row + 8u * m + 4u, first_out + 8u * n + 4u, t4_1);
  store(first_row + 8u * m + 5u, first_out + 8u * n, t5_0); store(first_row + 8u * m + 5u, first_out + 8u * n + 4u, t5_1);
  store(first_row + 8u * m + 6u, first_out + 8u * n, t6_0); store(first_row + 8u * m + 6u, first_out + 8u * n + 4u, t6_1);
  store(first_row + 8u * m + 7u, first_out + 8u * n, t7_0); store(first_row + 8u * m + 7u, first_out + 8u * n + 4u, t7_1);
}
