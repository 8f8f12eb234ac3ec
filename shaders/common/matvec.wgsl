// Products of a few rows of activations with four rows of weights, by a group of LANES lanes.
//
// A lane takes every LANES-th chunk of 32 columns. The weights of a chunk are read once for all rows, and the activations
// once for the four outputs. Whatever the number of rows, the sums of a row are made in one order: the 16 numbers of half
// a chunk one after another, then the halves, then the chunks of the lane, then the lanes.
//
// The op binds the activations as `x4: array<vec4<f32>>`.

// Invocations of a workgroup: 128 or 256.
override LANES_THREADS: u32 = 128u;

// Lanes that share an output: a power of two, from 8 to LANES_THREADS.
override LANES: u32 = 32u;

// Most rows of activations of a workgroup, from 1 to 8.
override ROWS: u32 = 8u;

// Chunks that a lane loads at once: 1, or 4 where ROWS is 1. No sum depends on it.
override AT_ONCE: u32 = 1u;

// For each row of activations the products with four rows of weights.
struct Sums {
  a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>, e: vec4<f32>, f: vec4<f32>, g: vec4<f32>, h: vec4<f32>,
}

// Half a chunk of four rows of weights.
struct Tile { a: Half, b: Half, c: Half, d: Half, scale: vec4<f32>, shift: vec4<f32> }

fn dot_quad(w: vec4<f32>, x: vec4<f32>, sum: f32) -> f32 {
  return fma(w.w, x.w, fma(w.z, x.z, fma(w.y, x.y, fma(w.x, x.x, sum))));
}

fn dot_half(w: Half, x: Half) -> f32 {
  return dot_quad(w.d, x.d, dot_quad(w.c, x.c, dot_quad(w.b, x.b, dot_quad(w.a, x.a, 0.0))));
}

fn sum_quad(x: vec4<f32>, sum: f32) -> f32 { return sum + x.x + x.y + x.z + x.w; }

// Adds the products of half a chunk to `sum`. `at` are its quads of activations.
fn add_tile(sum: vec4<f32>, tile: Tile, at: vec4<u32>) -> vec4<f32> {
  let x = Half(x4[at.x], x4[at.y], x4[at.z], x4[at.w]);
  var products = vec4(dot_half(tile.a, x), dot_half(tile.b, x), dot_half(tile.c, x), dot_half(tile.d, x));
  let total = sum_quad(x.d, sum_quad(x.c, sum_quad(x.b, sum_quad(x.a, 0.0))));
  // In the order of the products, so that numbers which all are WEIGHT_ZERO give 0.
  if WEIGHT_ZERO != 0.0 { products = fma(vec4(-WEIGHT_ZERO), vec4(total), products); }
  let scaled = fma(tile.scale, products, sum);
  if WEIGHT_SHIFTS { return fma(tile.shift, vec4(total), scaled); }
  return scaled;
}

// Adds the products of half a chunk for all rows. `at` are the quads of row 0, `quads` those of a row.
fn add_tiles(sums: Sums, tile: Tile, at: vec4<u32>, quads: u32, rows: u32) -> Sums {
  var s = sums;
  s.a = add_tile(s.a, tile, at);
  if ROWS > 1u && rows > 1u { s.b = add_tile(s.b, tile, at + vec4(quads)); }
  if ROWS > 2u && rows > 2u { s.c = add_tile(s.c, tile, at + vec4(2u * quads)); }
  if ROWS > 3u && rows > 3u { s.d = add_tile(s.d, tile, at + vec4(3u * quads)); }
  if ROWS > 4u && rows > 4u { s.e = add_tile(s.e, tile, at + vec4(4u * quads)); }
  if ROWS > 5u && rows > 5u { s.f = add_tile(s.f, tile, at + vec4(5u * quads)); }
  if ROWS > 6u && rows > 6u { s.g = add_tile(s.g, tile, at + vec4(6u * quads)); }
  if ROWS > 7u && rows > 7u { s.h = add_tile(s.h, tile, at + vec4(7u * quads)); }
  return s;
}

// A chunk of four rows of weights, and one of a row of activations with the sums of its halves.
struct Four { a: Chunk, b: Chunk, c: Chunk, d: Chunk }
struct Row { first: Half, second: Half, totals: vec2<f32> }

fn load_four(starts: vec4<u32>, tails: u32, chunk: u32, chunks: u32) -> Four {
  weight_pick(false);
  let a = load_chunk(starts.x, starts.x + tails, chunk, chunks);
  let b = load_chunk(starts.y, starts.y + tails, chunk, chunks);
  weight_pick(true);
  let c = load_chunk(starts.z, starts.z + tails, chunk, chunks);
  let d = load_chunk(starts.w, starts.w + tails, chunk, chunks);
  return Four(a, b, c, d);
}

fn load_row(quad: u32, chunk: u32, chunks: u32) -> Row {
  let a = Half(
    x4[quad + chunk_quad(chunk, chunks, 0u)], x4[quad + chunk_quad(chunk, chunks, 1u)],
    x4[quad + chunk_quad(chunk, chunks, 2u)], x4[quad + chunk_quad(chunk, chunks, 3u)],
  );
  let b = Half(
    x4[quad + chunk_quad(chunk, chunks, 4u)], x4[quad + chunk_quad(chunk, chunks, 5u)],
    x4[quad + chunk_quad(chunk, chunks, 6u)], x4[quad + chunk_quad(chunk, chunks, 7u)],
  );
  return Row(a, b, vec2(
    sum_quad(a.d, sum_quad(a.c, sum_quad(a.b, sum_quad(a.a, 0.0)))),
    sum_quad(b.d, sum_quad(b.c, sum_quad(b.b, sum_quad(b.a, 0.0)))),
  ));
}

// Adds the products of a chunk of one row of weights, as add_tile does for its halves.
fn add_chunk(sum: f32, packed: Chunk, x: Row) -> f32 {
  let s = chunk_scales(packed);
  var first = dot_half(chunk_half(packed, 0u), x.first);
  var second = dot_half(chunk_half(packed, 1u), x.second);
  if WEIGHT_ZERO != 0.0 {
    first = fma(-WEIGHT_ZERO, x.totals.x, first);
    second = fma(-WEIGHT_ZERO, x.totals.y, second);
  }
  var added = fma(s.scale.x, first, sum);
  if WEIGHT_SHIFTS { added = fma(s.shift.x, x.totals.x, added); }
  added = fma(s.scale.y, second, added);
  if WEIGHT_SHIFTS { added = fma(s.shift.y, x.totals.y, added); }
  return added;
}

fn add_four(sum: vec4<f32>, four: Four, x: Row) -> vec4<f32> {
  return vec4(
    add_chunk(sum.x, four.a, x), add_chunk(sum.y, four.b, x), add_chunk(sum.z, four.c, x), add_chunk(sum.w, four.d, x),
  );
}

// matvec for one row of activations, four chunks at once.
fn matvec_row(starts: vec4<u32>, tails: u32, chunks: u32, lane: u32, quad: u32) -> vec4<f32> {
  var sum = vec4(0.0);
  let group = lane & 7u;  // As in matvec.
  var eight = lane >> 3u;
  for (; (((eight + 3u * (LANES / 8u)) << 3u) | group) < chunks; eight += 4u * (LANES / 8u)) {
    let chunk = (eight << 3u) | group;
    let first = load_four(starts, tails, chunk, chunks);
    let second = load_four(starts, tails, chunk + LANES, chunks);
    let third = load_four(starts, tails, chunk + 2u * LANES, chunks);
    let fourth = load_four(starts, tails, chunk + 3u * LANES, chunks);
    sum = add_four(sum, first, load_row(quad, chunk, chunks));
    sum = add_four(sum, second, load_row(quad, chunk + LANES, chunks));
    sum = add_four(sum, third, load_row(quad, chunk + 2u * LANES, chunks));
    sum = add_four(sum, fourth, load_row(quad, chunk + 3u * LANES, chunks));
  }
  for (; ((eight << 3u) | group) < chunks; eight += LANES / 8u) {
    let chunk = (eight << 3u) | group;
    sum = add_four(sum, load_four(starts, tails, chunk, chunks), load_row(quad, chunk, chunks));
  }
  return sum;
}

// This lane's share of the products.
//
// - starts: the words where the four rows of weights start, two of the first matrix and two of the second
// - quad: where the first row of activations starts; rows: rows of activations, at least 1
fn matvec(starts: vec4<u32>, tails: u32, chunks: u32, lane: u32, quad: u32, rows: u32) -> Sums {
  let zero = vec4(0.0);
  if AT_ONCE > 1u {
    return Sums(matvec_row(starts, tails, chunks, lane, quad), zero, zero, zero, zero, zero, zero, zero);
  }
  var sums = Sums(zero, zero, zero, zero, zero, zero, zero, zero);
  // LANES is a multiple of 8: a lane meets one number of chunks in their eights. Written so, a compiler sees that what follows
  // from it alone, such as where a scale is in its block, is the same in every turn.
  let group = lane & 7u;
  for (var eight = lane >> 3u; ((eight << 3u) | group) < chunks; eight += LANES / 8u) {
    let chunk = (eight << 3u) | group;
    weight_pick(false);
    let a = load_chunk(starts.x, starts.x + tails, chunk, chunks);
    let b = load_chunk(starts.y, starts.y + tails, chunk, chunks);
    weight_pick(true);
    let c = load_chunk(starts.z, starts.z + tails, chunk, chunks);
    let d = load_chunk(starts.w, starts.w + tails, chunk, chunks);
    let sa = chunk_scales(a);
    let sb = chunk_scales(b);
    let sc = chunk_scales(c);
    let sd = chunk_scales(d);
    let first = Tile(
      chunk_half(a, 0u), chunk_half(b, 0u), chunk_half(c, 0u), chunk_half(d, 0u),
      vec4(sa.scale.x, sb.scale.x, sc.scale.x, sd.scale.x), vec4(sa.shift.x, sb.shift.x, sc.shift.x, sd.shift.x),
    );
    let first_at = vec4(
      chunk_quad(chunk, chunks, 0u), chunk_quad(chunk, chunks, 1u),
      chunk_quad(chunk, chunks, 2u), chunk_quad(chunk, chunks, 3u),
    );
    sums = add_tiles(sums, first, vec4(quad) + first_at, 8u * chunks, rows);
    let second = Tile(
      chunk_half(a, 1u), chunk_half(b, 1u), chunk_half(c, 1u), chunk_half(d, 1u),
      vec4(sa.scale.y, sb.scale.y, sc.scale.y, sd.scale.y), vec4(sa.shift.y, sb.shift.y, sc.shift.y, sd.shift.y),
    );
    let second_at = vec4(
      chunk_quad(chunk, chunks, 4u), chunk_quad(chunk, chunks, 5u),
      chunk_quad(chunk, chunks, 6u), chunk_quad(chunk, chunks, 7u),
    );
    sums = add_tiles(sums, second, vec4(quad) + second_at, 8u * chunks, rows);
  }
  return sums;
}
