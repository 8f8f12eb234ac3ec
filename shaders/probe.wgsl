// probe: whether the device keeps subnormal halves, which shaders/common/small_halves.wgsl relies on.
//
// Launch  one invocation
// The numbers come from a buffer, so that no compiler computes them.

@group(0) @binding(0) var<storage, read> numbers: array<u32>;    // [4]
@group(0) @binding(1) var<storage, read_write> out: array<f32>;  // [4]

@compute @workgroup_size(1)
fn probe() {
  for (var i = 0u; i < 4u; i++) { out[i] = unpack2x16float(numbers[i]).y; }
}
