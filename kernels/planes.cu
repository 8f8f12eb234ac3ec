// planes: x[0] = x[0] + x[1] + ..., for readers that take one plane
//
// Spec    none: planes are how kernels split a sum, and no op knows of them
// Launch  grid (rows, groups of 1024 columns), block (256)

#include "common/chain.cuh"
#include "common/half.cuh"
#include "gen/abi.cuh"

extern "C" __global__ void __launch_bounds__(256)
    planes(float* __restrict__ x,  // [planes][rows, cols]
           PrepareFormParams params, const StepState* __restrict__ step) {
  follow();
  const u32 row = blockIdx.x;
  if (row >= (params.picked ? step->picked : step->rows)) return;
  for (u32 i = 0; i < 4; i++) {
    const u32 col = (blockIdx.y * 4 + i) * 256 + threadIdx.x;
    if (col >= params.cols) break;
    float* at = x + size_t(row) * params.cols + col;
    float sum = at[0];
    for (u32 plane = 1; plane < params.planes; plane++) sum += at[size_t(plane) * params.plane_stride];
    at[0] = sum;
  }
}
