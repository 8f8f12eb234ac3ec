// linear, prefill class, in 8-bit integers: the activations of linear_int8.wgsl, in the order in which its tiles hold them
//
// Spec    core/src/ops/linear.rs
// Launch  x: ceil(chunks / 64); y: ceil(rows / 4); an invocation for each chunk of each row
//
// Tiles of all outputs of all weights read them, so they are rounded once, ahead of those.

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;            // [rows, cols / 4]
@group(0) @binding(1) var<storage, read_write> tiles: array<RowsOfFour>;  // [ceil(rows / 128), chunks, INT8_TILE]
@group(1) @binding(0) var<uniform> params: LinearParams;
@group(1) @binding(1) var<uniform> step: StepState;

// A vector of a tile: a word for each of four rows, which different invocations write.
alias RowsOfFour = array<u32, 4>;

fn magnitude(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>) -> f32 {
  let quads = max(max(abs(a), abs(b)), max(abs(c), abs(d)));
  return max(max(quads.x, quads.y), max(quads.z, quads.w));
}

fn pack(v: vec4<f32>, inverse: f32) -> u32 { return pack4xI8(vec4<i32>(round(v * inverse))); }

fn total(words: vec4<u32>) -> f32 {
  let ones = 0x01010101u;
  return f32(dot4I8Packed(words.x, ones) + dot4I8Packed(words.y, ones) + dot4I8Packed(words.z, ones) + dot4I8Packed(words.w, ones));
}

fn put(tile: u32, row: u32, vector: u32, word: u32) {
  tiles[tile + vector * 32u + (row >> 2u)][row & 3u] = word;
}

@compute @workgroup_size(256)
fn linear__int8_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = 4u * group.y + (lane & 3u);
  let chunk = 64u * group.x + (lane >> 2u);
  let chunks = params.cols / 32u;
  if row >= select(step.rows, step.picked, params.picked != 0u) || chunk >= chunks { return; }
  let start = row * (params.cols / 4u);
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
  let low = vec4(pack(v0, inverse), pack(v1, inverse), pack(v2, inverse), pack(v3, inverse));
  let high = vec4(pack(v4, inverse), pack(v5, inverse), pack(v6, inverse), pack(v7, inverse));
  let scale = largest / 127.0;
  let tile = ((row / 128u) * chunks + chunk) * INT8_TILE;
  let own = row % 128u;
  put(tile, own, 0u, low.x);
  put(tile, own, 1u, low.y);
  put(tile, own, 2u, low.z);
  put(tile, own, 3u, low.w);
  put(tile, own, 4u, high.x);
  put(tile, own, 5u, high.y);
  put(tile, own, 6u, high.z);
  put(tile, own, 7u, high.w);
  put(tile, own, 8u, bitcast<u32>(scale));
  put(tile, own, 9u, bitcast<u32>(scale * total(low)));
  put(tile, own, 10u, bitcast<u32>(scale * total(high)));
}
