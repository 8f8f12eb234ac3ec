// linear: out[r, o] = sum over c of x[r, c] * weight[o, c], for few rows
//
// Spec    core/src/ops/linear.rs
// Launch  linear__N: grid (groups of 4 tiles of 16 outputs, splits of the columns, groups of N rows), block (128): a warp a
//         tile
// Differs from the spec in that x is four bytes a value, or two halves where the weight is no code, and in that sums of
// blocks are f32. Each split is a plane of its own, which the consumer adds up; where a split ends follows from the shape
// alone.

#include "common/chain.cuh"
#include "common/product.cuh"

// Weights whose outputs follow one another.
struct Stack {
  WeightView weights[3];
};

template <int MOST>
__device__ __forceinline__ void run(const Prepared& x, const Stack& stack, float* out, const CudaLinearParams& params,
                                    const StepState* step) {
  using W = type::WEIGHT;
  constexpr int TILE_ROWS = ROWS<W>, NT = MOST > TILE_ROWS ? MOST / TILE_ROWS : 1;
  __shared__ __align__(16) u8 rings[4][Stage<W>::DEPTH * Stage<W>::BYTES];
  u8* ring = rings[threadIdx.x / 32];
  u32 tile = blockIdx.x * 4 + threadIdx.x / 32, first = params.first, i = 0;
  for (; i < params.weights && tile >= stack.weights[i].tiles; i++) tile -= stack.weights[i].tiles, first += stack.weights[i].rows;
  if (i == params.weights) return;
  const WeightView w = stack.weights[i];
  const u32 steps = steps_of<W>(w);
  Product<W, NT> product(ring, w, tile, steps * blockIdx.y / gridDim.y, steps * (blockIdx.y + 1) / gridDim.y);

  follow();
  const u32 rows = params.picked ? step->picked : step->rows, start = blockIdx.z * MOST;
  if (start >= rows) return;
  using Rows = Lanes<W, NT>;
  Rows lanes(x);
  for (int nt = 0; nt < NT; nt++) lanes.feeds[nt] = min(start + TILE_ROWS * nt + Rows::feeds_row(), rows - 1) * x.blocks;
  const Sums<NT> sums = product.finish(ring, w, tile, lanes);

  out += size_t(blockIdx.y) * params.plane_stride + first + tile * 16;
  hand_out<W>(sums, [&](int nt, u32 of_tile, u32 output, float value) {
    const u32 row = start + TILE_ROWS * nt + of_tile;
    if (row < rows && tile * 16 + output < w.rows) out[size_t(row) * params.out_cols + output] = value;
  });
}

#define LINEAR(ROWS, BLOCKS)                                                                         \
  extern "C" __global__ void __launch_bounds__(128, BLOCKS)                                          \
      linear__##ROWS(Prepared x, Stack stack, float* __restrict__ out, CudaLinearParams params,      \
                     const StepState* __restrict__ step) {                                           \
    run<ROWS>(x, stack, out, params, step);                                                          \
  }
// As many blocks as have room for their registers.
LINEAR(2, 4)
LINEAR(4, 4)
LINEAR(8, 2)
LINEAR(16, 2)
