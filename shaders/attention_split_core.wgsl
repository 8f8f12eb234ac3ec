// attention, decode class: logits added up through workgroup memory. See attention.wgsl.

var<workgroup> shares: array<vec4<f32>, ROW_THREADS>;

// The sum over the lanes of a key, in their order, in its lane 0.
fn add_lanes(share: vec4<f32>, head: u32, quad: u32, lane: u32, index: u32) {
  shares[index] = share;
  workgroupBarrier();
  if lane == 0u && quad < QUADS {
    var sum = shares[index];
    for (var i = 1u; i < LANES; i++) { sum += shares[index + i]; }
    scores[head * QUADS + quad] = sum;
  }
  workgroupBarrier();
}

fn add_up(s: Logits, quad: u32, lane: u32, index: u32) {
  add_lanes(s.h0, 0u, quad, lane, index);
  if HEADS > 1u { add_lanes(s.h1, 1u, quad, lane, index); }
  if HEADS > 2u {
    add_lanes(s.h2, 2u, quad, lane, index);
    add_lanes(s.h3, 3u, quad, lane, index);
  }
  if HEADS > 4u {
    add_lanes(s.h4, 4u, quad, lane, index);
    add_lanes(s.h5, 5u, quad, lane, index);
    add_lanes(s.h6, 6u, quad, lane, index);
    add_lanes(s.h7, 7u, quad, lane, index);
  }
}

@compute @workgroup_size(ROW_THREADS)
fn attention__split(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) index: u32) {
  split_of_row(workgroup, index);
}
