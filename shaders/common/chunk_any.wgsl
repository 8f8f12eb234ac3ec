// Chunks of any type of weight, value by value: for types that have no faster way.

struct Chunk {
  v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>,
  v4: vec4<f32>, v5: vec4<f32>, v6: vec4<f32>, v7: vec4<f32>,
}

fn weight_four(row: u32, tails: u32, col: u32) -> vec4<f32> {
  return vec4(
    weight_at(row, tails, col), weight_at(row, tails, col + 1u),
    weight_at(row, tails, col + 2u), weight_at(row, tails, col + 3u),
  );
}

// First column of quad `quad` of a chunk.
fn chunk_column(chunk: u32, quad: u32) -> u32 { return 32u * chunk + 4u * quad; }

// The 32 values of a chunk of the row that starts at word `row`.
fn weight_chunk(row: u32, tails: u32, chunk: u32) -> Chunk {
  let col = 32u * chunk;
  return Chunk(
    weight_four(row, tails, col), weight_four(row, tails, col + 4u),
    weight_four(row, tails, col + 8u), weight_four(row, tails, col + 12u),
    weight_four(row, tails, col + 16u), weight_four(row, tails, col + 20u),
    weight_four(row, tails, col + 24u), weight_four(row, tails, col + 28u),
  );
}
