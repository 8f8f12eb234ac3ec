// What splits of attention leave, for other workgroups of the same dispatch.

@group(0) @binding(5) @coherent var<storage, read_write> partial: array<vec4<f32>>;  // [rows, heads, splits, 1 + DIM / 4]
