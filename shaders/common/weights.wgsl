// Reading the blocks of a weight, which the op binds as `w: array<vec4<u32>>`. Rows start at multiples of four words.
// What a row holds is told in backend-wgpu/src/weights.rs.

fn weight_quad(i: u32) -> vec4<u32> { return w[i]; }
