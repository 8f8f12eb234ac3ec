// linear, prefill class: out[r, first + o] = sum over c of x[r, c] * w[o, c], by tiles in workgroup memory
//
// Spec    core/src/ops/linear.rs
// Launch  x: tiles of outputs; y: tiles of rows; one dispatch for each part of each weight; see linear_tiles*.wgsl
//
// A tile of x and a tile of the weight, both 32 columns deep, are brought in by different invocations, the weight
// decoded on the way; then every invocation multiplies its own block of outputs. An output is one sum over the columns
// in the order of the chunks, an fma at a time, whatever tile it is in: both entry points have the same bits.
// `Tile` is the type of the tiles: f32, or f16 with sums of 32 products in f16 that are added up in f32.
// The columns of a chunk come in the order of the decoder (`chunk_quad`), which is the same for both tiles.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;    // [rows, cols / 4]
@group(0) @binding(1) var<storage, read> w: array<vec4<u32>>;    // [outputs, stride / 4]
@group(0) @binding(2) var<storage, read_write> out: array<f32>;  // [rows, out_cols]
@group(1) @binding(0) var<uniform> params: LinearParams;
@group(1) @binding(1) var<uniform> step: StepState;

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
