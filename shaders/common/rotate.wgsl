// The transform of tq3_0 on `head_values`, which the op declares: groups of 128 in place.

// Sign of element `i` of a group: TQ3_SIGNS1 or TQ3_SIGNS2.
fn rotation_sign(second: bool, i: u32) -> f32 {
  var words = array<u32, 4>(TQ3_SIGNS1[0], TQ3_SIGNS1[1], TQ3_SIGNS1[2], TQ3_SIGNS1[3]);
  if second { words = array<u32, 4>(TQ3_SIGNS2[0], TQ3_SIGNS2[1], TQ3_SIGNS2[2], TQ3_SIGNS2[3]); }
  return select(1.0, -1.0, ((words[(i / 32u) % 4u] >> (i % 32u)) & 1u) == 1u);
}

// diag(s2) H diag(s1) on the first `dim` values, or with `back` its inverse. Neighbours first, then pairs and so on.
// Begins and ends with a barrier.
fn rotate_groups(dim: u32, lane: u32, back: bool) {
  workgroupBarrier();
  for (var i = lane; i < dim; i += ROW_THREADS) { head_values[i] *= rotation_sign(back, i); }
  for (var stride = 1u; stride < 128u; stride *= 2u) {
    workgroupBarrier();
    for (var pair = lane; pair < dim / 2u; pair += ROW_THREADS) {
      let low = (pair & (stride - 1u)) + 2u * (pair & ~(stride - 1u));
      let a = head_values[low];
      let b = head_values[low + stride];
      head_values[low] = a + b;
      head_values[low + stride] = a - b;
    }
  }
  workgroupBarrier();
  for (var i = lane; i < dim; i += ROW_THREADS) { head_values[i] *= TQ3_SCALE * rotation_sign(!back, i); }
  workgroupBarrier();
}
