// prepare: an activation in the form that products on tensor cores read
//
// Spec    kernels/common/prepare.cuh
// Launch  grid (rows, blocks of 256 columns / 8), block (256): a warp a block
// Where the kernel that writes an activation cannot end in this form, this one follows it.

#include "common/prepare.cuh"
#include "gen/abi.cuh"

extern "C" __global__ void __launch_bounds__(256)
    prepare(const float* __restrict__ x,  // [planes][rows, cols]
            Prepared out, PrepareFormParams params, const StepState* __restrict__ step) {
  const u32 row = blockIdx.x, block = blockIdx.y * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= (params.picked ? step->picked : step->rows) || block >= out.blocks) return;
  float v[8];
  for (int i = 0; i < 8; i++) {
    const u32 col = block * 256 + lane * 8 + i;
    v[i] = 0.f;
    if (col < params.cols)
      for (u32 plane = 0; plane < params.planes; plane++)
        v[i] += x[size_t(plane) * params.plane_stride + size_t(row) * params.cols + col];
  }
  prepare256(v, out, row, block);
}
