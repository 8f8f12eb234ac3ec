// What splits of attention leave, for a dispatch to come.

@group(0) @binding(5) var<storage, read_write> partial: array<vec4<f32>>;  // [rows, heads, splits, 1 + DIM / 4]
