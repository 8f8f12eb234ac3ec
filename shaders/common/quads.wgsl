// A row in the registers of ROW_THREADS invocations, and what is made of it. norm_quads.wgsl, norm_join.wgsl and
// linear_norm_add.wgsl have one arithmetic: a row has the same bits in each.

// The quads of a row that one invocation has: number i is at lane + i * ROW_THREADS, zero past the end.
struct Quads { q0: vec4<f32>, q1: vec4<f32>, q2: vec4<f32>, q3: vec4<f32>, q4: vec4<f32>, q5: vec4<f32> }

fn sum_of_squares(v: Quads) -> f32 {
  let even = fma(v.q4, v.q4, fma(v.q2, v.q2, v.q0 * v.q0));
  let odd = fma(v.q5, v.q5, fma(v.q3, v.q3, v.q1 * v.q1));
  let both = even + odd;
  return (both.x + both.y) + (both.z + both.w);
}

// What norms a row whose squares have this sum.
fn inverse_of(squares: f32, cols: u32, eps: f32) -> f32 { return inverseSqrt(squares / f32(cols) + eps); }

// v * scale * weight.
fn weighted(v: Quads, scale: f32, weight: Quads) -> Quads {
  return Quads(
    v.q0 * scale * weight.q0, v.q1 * scale * weight.q1, v.q2 * scale * weight.q2,
    v.q3 * scale * weight.q3, v.q4 * scale * weight.q4, v.q5 * scale * weight.q5,
  );
}

// The sum of a residual and a branch that is normed, times `scale`.
fn added(branch: vec4<f32>, norm: f32, weight: vec4<f32>, before: vec4<f32>, scale: f32) -> vec4<f32> {
  return fma(branch * norm, weight, before) * scale;
}

// The same where the sum of another branch comes behind it.
fn first_added(branch: vec4<f32>, norm: f32, weight: vec4<f32>, before: vec4<f32>) -> vec4<f32> {
  return fma(branch * norm, weight, before);
}
