// The words of up to three weights of one type and width, in place of common/weights.wgsl: the op binds them as `w`, `w1`
// and `w2`.

// Which of them is read. It is set to constants only, so no code chooses while it runs.
var<private> weight_of: u32 = 0u;

fn weight_pick(second: bool) {}

fn weight_quad(i: u32) -> vec4<u32> {
  if weight_of == 1u { return w1[i]; }
  if weight_of == 2u { return w2[i]; }
  return w[i];
}

fn weight_word(i: u32) -> u32 {
  if weight_of == 1u { return w1[i >> 2u][i & 3u]; }
  if weight_of == 2u { return w2[i >> 2u][i & 3u]; }
  return w[i >> 2u][i & 3u];
}
