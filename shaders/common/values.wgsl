// The weights of a chunk themselves, for products that are made from tiles.

struct Values {
  v0: vec4<f32>, v1: vec4<f32>, v2: vec4<f32>, v3: vec4<f32>,
  v4: vec4<f32>, v5: vec4<f32>, v6: vec4<f32>, v7: vec4<f32>,
}

fn value(code: vec4<f32>, scale: f32, shift: f32) -> vec4<f32> {
  return fma(code - vec4(WEIGHT_ZERO), vec4(scale), vec4(shift));
}

// The 32 values of chunk `chunk` of the row that starts at word `row`; quad `i` belongs to activations `chunk_quad(.., i)`.
fn chunk_values(row: u32, tails: u32, chunk: u32, chunks: u32) -> Values {
  let packed = load_chunk(row, tails, chunk, chunks);
  let s = chunk_scales(packed);
  let a = chunk_half(packed, 0u);
  let b = chunk_half(packed, 1u);
  return Values(
    value(a.a, s.scale.x, s.shift.x), value(a.b, s.scale.x, s.shift.x),
    value(a.c, s.scale.x, s.shift.x), value(a.d, s.scale.x, s.shift.x),
    value(b.a, s.scale.y, s.shift.y), value(b.b, s.scale.y, s.shift.y),
    value(b.c, s.scale.y, s.shift.y), value(b.d, s.scale.y, s.shift.y),
  );
}
