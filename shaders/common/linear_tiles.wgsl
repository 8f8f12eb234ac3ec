// linear, prefill class: out[r, first + o] = sum over c of x[r, c] * w[o, c], by tiles in workgroup memory
//
// Spec    core/src/ops/linear.rs
// Launch  x: tiles of outputs; y: tiles of rows; one dispatch for each part of each weight; see linear_tiles*.wgsl
//
// While some columns are multiplied the next are under way from memory, brought by invocations that decode weights on the
// way. Then every invocation multiplies its own block of outputs. Wide tiles are a chunk deep, and there is one of each: what
// was brought waits in registers. Narrow ones are half a chunk deep, and there are two of each. Those of few rows are of four
// chunks of four segments, which are multiplied at the same time. An output is a sum of the sums of its segments of SEGMENT
// chunks, in their order, and the sum of a segment goes over its columns, an fma at a time, whatever tile it is in: all entry
// points have the same bits in f32. A chain of 128 errs like its square root, and each addition to a total costs as much as a product.
// `Tile4` is the type of the tiles: f32, or f16 with sums of 16 products in f16 that are added up in f32.
//
// Tiles are arrays of arrays, so that most of an index is constant: what is left to be checked and multiplied is the same
// for all accesses of an invocation, and they differ in a constant.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;    // [rows, cols / 4]
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;    // [outputs, stride / 4]
@group(0) @binding(2) var<storage, read_write> out: array<f32>;  // [rows, out_cols]
@group(1) @binding(0) var<uniform> params: LinearParams;
@group(1) @binding(1) var<uniform> step: StepState;

fn row_count() -> u32 { return select(step.rows, step.picked, params.picked != 0u); }

// Where an invocation is among the 32 that are its neighbours: four in m by eight in n. Those that share rows differ in bit
// 0, those that share outputs in bit 1: so accesses of 16 bytes are answered for two invocations at once.
fn tile_place(lane: u32) -> vec2<u32> {
  return vec2(((lane >> 1u) & 1u) | ((lane >> 3u) & 2u), (lane & 1u) | ((lane >> 1u) & 6u));
}

// Where the rows of the four quads of activations start that invocation `own` brings to a tile of `count` rows, `quads` quads
// deep. What is past the end is the last row again: its products are never stored.
fn brought_rows(first_row: u32, own: u32, count: u32, quads: u32) -> vec4<u32> {
  let rows = vec4(first_row) + vec4(
    tile_row(own, 0u, count, quads), tile_row(own, 1u, count, quads),
    tile_row(own, 2u, count, quads), tile_row(own, 3u, count, quads),
  );
  return min(rows, vec4(row_count() - 1u)) * (params.cols / 4u);
}

// Those quads of the rows, in a tile that starts with quad `first`.
fn fetch_x(rows: vec4<u32>, own: u32, first: u32, chunks: u32, count: u32, quads: u32) -> Half {
  let chunk = first / 8u;
  let i = first % 8u;
  return Half(
    x[rows.x + chunk_quad(chunk, chunks, i + tile_quad(own, 0u, count, quads))],
    x[rows.y + chunk_quad(chunk, chunks, i + tile_quad(own, 1u, count, quads))],
    x[rows.z + chunk_quad(chunk, chunks, i + tile_quad(own, 2u, count, quads))],
    x[rows.w + chunk_quad(chunk, chunks, i + tile_quad(own, 3u, count, quads))],
  );
}

// The weights of half `h` of a chunk.
fn half_values(packed: Chunk, h: u32) -> Half {
  let s = chunk_scales(packed);
  let scale = vec4(select(s.scale.x, s.scale.y, h == 1u));
  let shift = vec4(select(s.shift.x, s.shift.y, h == 1u));
  let zero = vec4(WEIGHT_ZERO);
  let code = chunk_half(packed, h);
  return Half(
    fma(code.a - zero, scale, shift), fma(code.b - zero, scale, shift),
    fma(code.c - zero, scale, shift), fma(code.d - zero, scale, shift),
  );
}

// Chunks of a segment; the last one may have fewer.
const SEGMENT = 4u;
fn segment_ends(chunk: u32, chunks: u32) -> bool { return chunk % SEGMENT == SEGMENT - 1u || chunk + 1u == chunks; }

// Writes four outputs of a row, those that exist.
fn store(row: u32, output: u32, values: vec4<f32>) {
  if row >= row_count() { return; }
  let at = row * params.out_cols + params.first + output;
  if output < params.outputs { out[at] = values.x; }
  if output + 1u < params.outputs { out[at + 1u] = values.y; }
  if output + 2u < params.outputs { out[at + 2u] = values.z; }
  if output + 3u < params.outputs { out[at + 3u] = values.w; }
}
