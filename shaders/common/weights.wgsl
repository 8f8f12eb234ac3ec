// The words of a weight, which the op binds as `w: array<vec4<u32>>`, for the decoders of all types.
// What a row holds is told in backend-wgpu/src/weights.rs.

fn weight_quad(i: u32) -> vec4<u32> { return w[i]; }

fn weight_word(i: u32) -> u32 { return w[i >> 2u][i & 3u]; }

// There is but one matrix to read.
fn weight_pick(second: bool) {}
