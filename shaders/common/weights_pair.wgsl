// The words of two weights of one shape, in place of common/weights.wgsl: the op binds them as `w` and `up`.

// Which of them is read. It is set to constants only, so no code chooses while it runs.
var<private> weight_second: bool = false;

fn weight_pick(second: bool) { weight_second = second; }

fn weight_quad(i: u32) -> vec4<u32> {
  if weight_second { return up[i]; }
  return w[i];
}

fn weight_word(i: u32) -> u32 {
  if weight_second { return up[i >> 2u][i & 3u]; }
  return w[i >> 2u][i & 3u];
}
