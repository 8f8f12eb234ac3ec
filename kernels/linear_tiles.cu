// linear: out[r, o] = sum over c of x[r, c] * weight[o, c], for the rows of a prompt
//
// Spec    core/src/ops/linear.rs
// Launch  grid (groups of 128 rows, groups of 128 outputs), block (256), TileMemory dynamic
// Differs from the spec in that x and the weight are halves (11 bits), and sums are f32.

#include "common/chain.cuh"
#include "common/tiles.cuh"

// Weights whose outputs follow one another.
struct Stack {
  WeightView weights[3];
};

extern "C" __global__ void __launch_bounds__(256, 1)
    linear__tiles(Prepared x, Stack stack, float* __restrict__ out,  // [rows, out_cols]
                  CudaLinearParams params, const StepState* __restrict__ step) {
  follow();
  extern __shared__ __align__(16) u8 memory[];
  __shared__ u32 columns[TILE_COLUMNS], row_of[TILE_COLUMNS];
  const u32 rows = params.picked ? step->picked : step->rows, start = blockIdx.x * TILE_COLUMNS;
  if (start >= rows) return;
  u32 group = blockIdx.y, first = params.first, i = 0;
  for (; i < params.weights && group >= (stack.weights[i].tiles + 7) / 8; i++)
    group -= (stack.weights[i].tiles + 7) / 8, first += stack.weights[i].rows;
  if (i == params.weights) return;
  const WeightView w = stack.weights[i];

  if (threadIdx.x < TILE_COLUMNS) {
    // Rows that are not there are the last one again; nobody stores what comes of them.
    const u32 row = min(start + threadIdx.x, rows - 1);
    columns[threadIdx.x] = (row / 8 * x.groups() * 8 + row % 8) * 4;
    row_of[threadIdx.x] = row;
  }
  __syncthreads();
  const TileWork work = {size_t(group) * 8, min(8u, w.tiles - group * 8), columns, row_of};
  const TileSums sums = tile_product<type::WEIGHT>(memory, w, x, work);

  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int mt = 0; mt < 2; mt++) {
#pragma unroll
    for (int nt = 0; nt < 8; nt++) {
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const u32 output = (group * 8 + warp % 4 * 2 + mt) * 16 + lane / 4 + 8 * (k / 2);
        const u32 row = start + warp / 4 * 64 + nt * 8 + 2 * (lane % 4) + k % 2;
        if (row < rows && output < w.rows) out[size_t(row) * params.out_cols + first + output] = sums.at[mt][nt][k];
      }
    }
  }
}
TAKES_SHARED(linear__tiles, TileMemory<type::WEIGHT>::BYTES)
