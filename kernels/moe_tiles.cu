// moe_ffn for the rows of a prompt: tiles of 128 pairs of one expert and 128 outputs
//
// Spec    core/src/ops/moe_ffn.rs; lists of pairs and planes as in moe_ffn.cu
// Launch  moe_ffn__up_tiles, moe_ffn__down_tiles: grid (tiles of pairs, groups of 128 outputs), block (256), TileMemory
// Differs from the spec as linear_tiles.cu does.

#include "common/chain.cuh"
#include "common/tiles.cuh"

struct Stack {
  WeightView weights[3];
};

struct PairTile {
  u32 expert, start, count, unused;
};

// Products of a tile of pairs with 128 outputs. `divisor` pairs share a row of x.
template <class Store>
__device__ __forceinline__ void multiply(const Prepared& x, const Stack& stack, const CudaMoeParams& params, const PairTile& pairs,
                                         const u32* order, u32 divisor, const Store& store) {
  extern __shared__ __align__(16) u8 memory[];
  __shared__ u32 columns[TILE_COLUMNS], row_of[TILE_COLUMNS], pair_of[TILE_COLUMNS];
  u32 group = blockIdx.y, first = params.first, i = 0;
  for (; i < params.weights && group >= (stack.weights[i].tiles + 7) / 8; i++)
    group -= (stack.weights[i].tiles + 7) / 8, first += stack.weights[i].rows;
  if (i == params.weights) return;
  const WeightView w = stack.weights[i];
  if (threadIdx.x < TILE_COLUMNS) {
    const u32 pair = order[pairs.start + min(threadIdx.x, pairs.count - 1)], row = pair / divisor;
    columns[threadIdx.x] = (row / 8 * x.groups() * 8 + row % 8) * 4;
    row_of[threadIdx.x] = row;
    pair_of[threadIdx.x] = pair;
  }
  __syncthreads();
  const TileWork work = {size_t(pairs.expert) * w.tiles + group * 8, min(8u, w.tiles - group * 8), columns, row_of};
  const TileSums sums = tile_product<type::WEIGHT>(memory, w, x, work);
  const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int mt = 0; mt < 2; mt++) {
#pragma unroll
    for (int nt = 0; nt < 8; nt++) {
#pragma unroll
      for (int k = 0; k < 4; k++) {
        const u32 output = (group * 8 + warp % 4 * 2 + mt) * 16 + lane / 4 + 8 * (k / 2);
        const u32 column = warp / 4 * 64 + nt * 8 + 2 * (lane % 4) + k % 2;
        if (column < pairs.count && output < w.rows) store(pair_of[column], first + output, sums.at[mt][nt][k]);
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(256, 1)
    moe_ffn__up_tiles(Prepared x, Stack stack, const u32* __restrict__ order, const PairTile* __restrict__ tiles,
                      float* __restrict__ out,  // [pairs, 2 ffn]
                      CudaMoeParams params) {
  follow();
  const PairTile pairs = tiles[blockIdx.x];
  if (pairs.count == 0) return;
  multiply(x, stack, params, pairs, order, params.top_k,
           [&](u32 pair, u32 output, float value) { out[size_t(pair) * (2 * params.ffn) + output] = value; });
}

extern "C" __global__ void __launch_bounds__(256, 1)
    moe_ffn__down_tiles(Prepared x, Stack stack, const u32* __restrict__ order, const PairTile* __restrict__ tiles,
                        const float* __restrict__ shares,  // [rows, top_k]
                        float* __restrict__ out,           // [top_k][rows, cols]
                        CudaMoeParams params) {
  follow();
  const PairTile pairs = tiles[blockIdx.x];
  if (pairs.count == 0) return;
  multiply(x, stack, params, pairs, order, 1, [&](u32 pair, u32 output, float value) {
    out[size_t(pair % params.top_k) * params.plane_stride + size_t(pair / params.top_k) * params.cols + output] =
        value * shares[pair];
  });
}
TAKES_SHARED(moe_ffn__up_tiles, TileMemory<type::WEIGHT>::BYTES)
TAKES_SHARED(moe_ffn__down_tiles, TileMemory<type::WEIGHT>::BYTES)
