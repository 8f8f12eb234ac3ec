// bandwidth: reads memory as fast as the device can, to have something to compare kernels with.
//
// Launch  grid (any), block (512)
//
// No op: the host times it (backend-cuda/src/bandwidth.rs). Every thread reads 16 bytes at a time, eight loads in flight.

#include "gen/abi.cuh"

extern "C" __global__ void __launch_bounds__(512)
bandwidth(const uint4* __restrict__ memory,  // [quads]
          unsigned* __restrict__ sink,       // [1], written only if all that was read is one certain number
          BandwidthParams params) {
  const unsigned stride = gridDim.x * 512u;
  unsigned sum = 0u;
  unsigned at = blockIdx.x * 512u + threadIdx.x;
  for (; at + 7u * stride < params.quads; at += 8u * stride) {
    uint4 v[8];
#pragma unroll
    for (unsigned i = 0u; i < 8u; i++) v[i] = memory[at + i * stride];
#pragma unroll
    for (unsigned i = 0u; i < 8u; i++) sum ^= v[i].x ^ v[i].y ^ v[i].z ^ v[i].w;
  }
  for (; at < params.quads; at += stride) {
    const uint4 v = memory[at];
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  // Without a use the loads would be removed.
  if (sum == 0x9e3779b9u) sink[0] = sum;
}
