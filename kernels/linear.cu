// linear: out[r, o] = sum over c of x[r, c] * weight[o, c], for few rows
//
// Spec    core/src/ops/linear.rs
// Launch  linear__N: grid (groups of 4 tiles of 16 outputs, splits of the columns, groups of N rows), block (128): a warp a
//         tile
// Differs from the spec in that x is two bytes a value (VALUE_BYTES=4: four), or two halves where the weight is no code, and
// in that sums of blocks are f32. Each split is a plane of its own, which the consumer adds up; where a split ends follows
// from the shape alone.

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
  extern __shared__ __align__(16) u8 memory[];
  u32 tile = blockIdx.x * 4 + threadIdx.x / 32, first = params.first, i = 0;
  for (; i < params.weights && tile >= stack.weights[i].tiles; i++) tile -= stack.weights[i].tiles, first += stack.weights[i].rows;
  const bool there = i < params.weights;
  if (!there) tile = i = 0;
  const WeightView w = stack.weights[i];
  const u32 steps = steps_of<W>(w);
  Product<W, MOST> product(memory, w, tile, there, steps * blockIdx.y / gridDim.y,
                           steps * (blockIdx.y + 1) / gridDim.y);

  const u32 rows = ahead(params.picked ? &step->picked : &step->rows), start = blockIdx.z * MOST;
  follow();
  if (start >= rows) return;
  const auto sums = product.finish(w, tile, x, min(rows - start, u32(MOST)), [&](u32 k) { return start + k; });
  if (!there) return;
  out += size_t(blockIdx.y) * params.plane_stride + first + tile * 16;
  hand_out<W>(sums, [&](int nt, u32 of_tile, u32 output, float value) {
    const u32 row = start + ROWS<W> * nt + of_tile;
    if (row < rows && tile * 16 + output < w.rows) out[size_t(row) * params.out_cols + output] = value;
  });
}

// As many blocks as have room for their registers: fewer where codes take more to put together.
constexpr int FEWER =
    type::WEIGHT::EXTRA != 0 || type::WEIGHT::GROUP == 16 || type::WEIGHT::SCALES == BYTE32 || __CUDA_ARCH__ == 800;

#define LINEAR(MOST, BLOCKS)                                                                         \
  extern "C" __global__ void __launch_bounds__(128, BLOCKS)                                          \
      linear__##MOST(Prepared x, Stack stack, float* __restrict__ out, CudaLinearParams params,      \
                     const StepState* __restrict__ step) {                                           \
    run<MOST>(x, stack, out, params, step);                                                          \
  }
LINEAR(1, 6 - FEWER)
LINEAR(4, 5 - FEWER)
LINEAR(8, 4 - FEWER)
LINEAR(16, LARGE_SHARED ? 3 : 2)
