// linear: out[r, o] = sum over c of x[r, c] * weight[o, c], for few rows
//
// Spec    core/src/ops/linear.rs
// Launch  grid (groups of 4 tiles of 16 outputs, splits of the columns, groups of 4 NT rows), block (128): a warp a tile
// Differs from the spec in that x is two halves (22 bits) and sums are f32. Each split is a plane of its own, which the
// consumer adds up; where a split ends follows from the shape alone.

#include "common/product.cuh"

// Weights whose outputs follow one another.
struct Stack {
  WeightView weights[3];
};

template <int NT>
__device__ __forceinline__ void run(const Prepared& x, const Stack& stack, float* out, const CudaLinearParams& params,
                                    const StepState* step) {
  using W = type::WEIGHT;
  __shared__ __align__(16) u8 rings[4][Stage<W>::DEPTH * Stage<W>::BYTES];
  u8* ring = rings[threadIdx.x / 32];
  u32 tile = blockIdx.x * 4 + threadIdx.x / 32, first = params.first, i = 0;
  for (; i < params.weights && tile >= stack.weights[i].tiles; i++) tile -= stack.weights[i].tiles, first += stack.weights[i].rows;
  if (i == params.weights) return;
  const WeightView w = stack.weights[i];
  const u32 steps = steps_of<W>(w);
  Product<W, NT> product(ring, w, tile, steps * blockIdx.y / gridDim.y, steps * (blockIdx.y + 1) / gridDim.y);

  const u32 rows = params.picked ? step->picked : step->rows, start = blockIdx.z * (4 * NT);
  if (start >= rows) return;
  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  Lanes<NT> lanes;
  for (int nt = 0; nt < NT; nt++) {
    const u32 feeds = start + 4 * nt + g / 2;
    lanes.set(nt, x, W::GROUP == 16, feeds, feeds < rows, start + 4 * nt + t);
  }
  const Sums<NT> sums = product.finish(ring, w, tile, lanes);

  out += size_t(blockIdx.y) * params.plane_stride;
  for (int nt = 0; nt < NT; nt++) {
    const u32 row = start + 4 * nt + t, output = tile * 16 + g;
    if (row >= rows) continue;
    float* to = out + size_t(row) * params.out_cols + first;
    if (output < w.rows) to[output] = sums.g[nt];
    if (output + 8 < w.rows) to[output + 8] = sums.above[nt];
  }
}

#define LINEAR(NT, BLOCKS)                                                                           \
  extern "C" __global__ void __launch_bounds__(128, BLOCKS)                                          \
      linear__##NT(Prepared x, Stack stack, float* __restrict__ out, CudaLinearParams params,        \
                   const StepState* __restrict__ step) {                                             \
    run<NT>(x, stack, out, params, step);                                                            \
  }
// As many blocks as have room for their registers.
LINEAR(1, 4)
LINEAR(2, 3)
LINEAR(4, 2)
