// prepare: an activation in the form that products on tensor cores read
//
// Spec    kernels/common/prepare.cuh
// Launch  grid (rows), block (256): a warp takes every eighth block of 256 columns
// Where the kernel that writes an activation cannot end in this form, this one follows it.

#include "common/chain.cuh"
#include "common/prepare.cuh"
#include "gen/abi.cuh"

__device__ __forceinline__ void read(float (&v)[8], const float* x, const PrepareFormParams& params, u32 row, u32 block) {
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const u32 col = block * 256 + threadIdx.x % 32 * 8 + i;
    v[i] = 0.f;
    if (col < params.cols)
      for (u32 plane = 0; plane < params.planes; plane++)
        v[i] += x[size_t(plane) * params.plane_stride + size_t(row) * params.cols + col];
  }
}

extern "C" __global__ void __launch_bounds__(256, 2)
    prepare(const float* __restrict__ x,  // [planes][rows, cols]
            Prepared out, PrepareFormParams params, const StepState* __restrict__ step) {
  follow();
  __shared__ float of_warp[8];
  const u32 row = blockIdx.x, warp = threadIdx.x / 32;
  if (row >= (params.picked ? step->picked : step->rows)) return;
  float v[8], largest = 0.f;
  if (!out.split) {
    for (u32 block = warp; block < out.blocks; block += 8) {
      read(v, x, params, row, block);
      largest = fmaxf(largest, largest_of(v));
    }
    of_warp[warp] = largest;
    __syncthreads();
    for (int i = 0; i < 8; i++) largest = fmaxf(largest, of_warp[i]);
  }
  for (u32 block = warp; block < out.blocks; block += 8) {
    read(v, x, params, row, block);
    prepare256(v, out, row, block, out.split ? largest_of(v) : largest);
  }
}
