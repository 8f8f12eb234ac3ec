// moe_ffn: out[r] = sum over k of weights[r, k] * down[e] . (gelu(gate[e] . x[r]) * (up[e] . x[r])), e = experts[r, k]
//
// Spec    core/src/ops/moe_ffn.rs
// Launch  moe_ffn__group: one block (1024), behind the `route` that chooses, if it does; left out where a step has one row
//         moe_ffn__up: grid (groups of 4 tiles of 16 outputs, splits of the columns, tiles of 4 pairs), block (128)
//         moe_ffn__act: grid (pairs), block (256)
//         moe_ffn__down: as moe_ffn__up, without splits
// A pair is a row and one of its experts: number r * top_k + k. Pairs of one expert share its weights in tiles; which pairs
// share a tile changes nothing of them. Rank k of a row is plane k of the output, multiplied with its share: the reader
// adds planes up in order. Differs from the spec as `linear` does.

#include "common/activation.cuh"
#include "common/chain.cuh"
#include "common/product.cuh"
#include "common/row.cuh"

struct Stack {
  WeightView weights[3];
};

// Pairs of one expert.
struct PairTile {
  u32 expert, start, count, unused;
};

// Sorts the pairs of a step by expert, and cuts those of each into tiles.
extern "C" __global__ void __launch_bounds__(1024)
    moe_ffn__group(const u32* __restrict__ experts,  // [rows, top_k]
                   u32* __restrict__ order,          // [pairs]
                   PairTile* __restrict__ tiles,     // [params.tiles], filled up with empty ones
                   CudaMoeParams params, const StepState* __restrict__ step) {
  follow();
  __shared__ u32 counts[ROUTE_EXPERTS], starts[ROUTE_EXPERTS], first_tile[ROUTE_EXPERTS], all_tiles;
  const u32 pairs = (params.picked ? step->picked : step->rows) * params.top_k;
  for (u32 e = threadIdx.x; e < params.experts; e += 1024) counts[e] = 0;
  __syncthreads();
  for (u32 i = threadIdx.x; i < pairs; i += 1024) atomicAdd(&counts[experts[i]], 1);
  __syncthreads();
  if (threadIdx.x < 32) {
    // What is in front of each expert, of 32 at once.
    u32 start = 0, tile = 0;
#pragma unroll 1
    for (u32 first = 0; first < params.experts; first += 32) {
      const u32 e = first + threadIdx.x, count = e < params.experts ? counts[e] : 0;
      const u32 of_expert = (count + params.tile - 1) / params.tile;
      u32 pairs_end = count, tiles_end = of_expert;
#pragma unroll
      for (u32 reach = 1; reach < 32; reach *= 2) {
        const u32 pairs_before = __shfl_up_sync(~0u, pairs_end, reach), tiles_before = __shfl_up_sync(~0u, tiles_end, reach);
        if (threadIdx.x >= reach) pairs_end += pairs_before, tiles_end += tiles_before;
      }
      if (e < params.experts) starts[e] = start + pairs_end - count, first_tile[e] = tile + tiles_end - of_expert;
      start += __shfl_sync(~0u, pairs_end, 31), tile += __shfl_sync(~0u, tiles_end, 31);
    }
    if (threadIdx.x == 0) all_tiles = tile;
  }
  __syncthreads();
  for (u32 e = threadIdx.x; e < params.experts; e += 1024)
    for (u32 i = 0; i * params.tile < counts[e]; i++)
      tiles[first_tile[e] + i] = {e, starts[e] + i * params.tile, min(params.tile, counts[e] - i * params.tile), 0};
  for (u32 i = all_tiles + threadIdx.x; i < params.tiles; i += 1024) tiles[i] = {0, 0, 0, 0};
  __syncthreads();
  for (u32 e = threadIdx.x; e < params.experts; e += 1024) counts[e] = starts[e];
  __syncthreads();
  for (u32 i = threadIdx.x; i < pairs; i += 1024) order[atomicAdd(&counts[experts[i]], 1)] = i;
}

// The tile of pairs of this block; without lists, pair blockIdx.z of the only row. Past the first cache, which may know
// them from before.
__device__ __forceinline__ PairTile tile_of(const u32* experts, const PairTile* tiles) {
  if (!tiles) return PairTile{__ldcg(experts + blockIdx.z), blockIdx.z, 1, 0};
  const uint4 tile = __ldcg(reinterpret_cast<const uint4*>(tiles + blockIdx.z));
  return PairTile{tile.x, tile.y, tile.z, 0};
}

// Products of a tile of at most four pairs with 16 outputs of each warp. `divisor` pairs share a row of x.
template <class Store>
__device__ __forceinline__ void multiply(u8* memory, const WeightView& w, u32 tile, bool there, const Prepared& x,
                                         const PairTile& pairs, const u32* order, u32 divisor, const Store& store) {
  using W = type::WEIGHT;
  const auto pair = [&](u32 k) { return order ? order[pairs.start + k] : pairs.start + k; };
  const size_t at = size_t(pairs.expert) * w.tiles + (there ? tile : 0);
  const u32 steps = steps_of<W>(w);
  const auto tile_of = [&](u32) { return Tile{w, at, there}; };
  const u32 begin = steps * blockIdx.y / gridDim.y;
  using Products = Product<W, 4, false, decltype(tile_of)>;
  Products product(memory, {steps, 0, begin, steps * (blockIdx.y + 1) / gridDim.y - begin}, tile_of);
  follow();
  const RowFeed<W, 4> row_feed(x, min(pairs.count, 4u), [&](u32 k) { return k < pairs.count ? pair(k) / divisor : 0; });
  product.finish(row_feed, [&](const Tile&, u32, const Sums<Products::NT>& sums, bool) {
    hand_out<W>(sums, [&](int nt, u32 of_tile, u32 output, float value) {
      const u32 k = ROWS<W> * nt + of_tile;
      if (k < pairs.count && tile * 16 + output < w.rows) store(pair(k), tile * 16 + output, value);
    });
  });
}

// The same for any tile of pairs, with the weight that this warp's outputs are of.
template <class Store>
__device__ __forceinline__ void multiply(const Prepared& x, const Stack& stack, const CudaMoeParams& params, const PairTile& pairs,
                                         const u32* order, u32 divisor, const Store& store) {
  extern __shared__ __align__(16) u8 memory[];
  u32 tile = blockIdx.x * 4 + threadIdx.x / 32, first = params.first, i = 0;
  for (; i < params.weights && tile >= stack.weights[i].tiles; i++) tile -= stack.weights[i].tiles, first += stack.weights[i].rows;
  const bool there = i < params.weights;
  const WeightView w = stack.weights[there ? i : 0];
  const auto put = [&](u32 pair, u32 output, float value) { store(pair, first + output, value); };
  multiply(memory, w, tile, there, x, pairs, order, divisor, put);
}

extern "C" __global__ void __launch_bounds__(128, 4)
    moe_ffn__up(Prepared x, Stack stack, const u32* __restrict__ experts, const u32* __restrict__ order,
                const PairTile* __restrict__ tiles, float* __restrict__ out,  // [splits][pairs, 2 ffn]
                CudaMoeParams params, const StepState* __restrict__ step) {
  if (!params.known) follow();
  const PairTile pairs = tile_of(experts, tiles);
  if (pairs.count == 0 || step->rows == 0) return follow();
  out += size_t(blockIdx.y) * params.pairs * (2 * params.ffn);
  multiply(x, stack, params, pairs, order, params.top_k,
           [&](u32 pair, u32 output, float value) { out[size_t(pair) * (2 * params.ffn) + output] = value; });
}

extern "C" __global__ void __launch_bounds__(256)
    moe_ffn__act(const float* __restrict__ both,  // [splits][pairs, 2 ffn]
                 Prepared out,                    // [pairs, ffn]
                 CudaMoeParams params, const StepState* __restrict__ step) {
  follow();
  __shared__ float of_warp[8];
  const u32 pair = blockIdx.x, warp = threadIdx.x / 32;
  if (pair >= (params.picked ? step->picked : step->rows) * params.top_k) return;
  const PlanesOf gate = {both + size_t(pair) * (2 * params.ffn), params.splits, params.pairs * 2 * params.ffn};
  const PlanesOf up = {gate.row + params.ffn, gate.planes, gate.stride};
  const auto read = [&](float (&v)[8], u32 block) {
    float u[EACH];
    if (params.ffn % 4 == 0) load_two<true>(v, gate, u, up, column_of(block), params.ffn);
    else load_two<false>(v, gate, u, up, column_of(block), params.ffn);
#pragma unroll
    for (u32 i = 0; i < EACH; i++) v[i] = gelu_tanh(v[i]) * u[i];
  };
  float v[8], largest = 0.f;
  if (!out.split) {
    for (u32 block = warp; block < out.blocks; block += 8) {
      read(v, block);
      largest = fmaxf(largest, largest_of(v));
    }
    of_warp[warp] = largest;
    __syncthreads();
    for (int i = 0; i < 8; i++) largest = fmaxf(largest, of_warp[i]);
  }
  for (u32 block = warp; block < out.blocks; block += 8) {
    read(v, block);
    prepare256(v, out, pair, block, out.split ? largest_of(v) : largest);
  }
}

extern "C" __global__ void __launch_bounds__(128, 4)
    moe_ffn__down(Prepared x, Stack stack, const u32* __restrict__ experts, const u32* __restrict__ order,
                  const PairTile* __restrict__ tiles, const float* __restrict__ shares,  // [rows, top_k]
                  float* __restrict__ out,                                               // [top_k][rows, cols]
                  CudaMoeParams params, const StepState* __restrict__ step) {
  // Two kernels or more lie between this one and those that chose the experts and listed them, and the one in front does not invite.
  const PairTile pairs = tile_of(experts, tiles);
  if (pairs.count == 0 || step->rows == 0) return follow();
  multiply(x, stack, params, pairs, order, 1, [&](u32 pair, u32 output, float value) {
    out[size_t(pair % params.top_k) * params.plane_stride + size_t(pair / params.top_k) * params.cols + output] =
        value * shares[pair];
  });
}
TAKES_SHARED(moe_ffn__up, (ProductMemory<type::WEIGHT, 4, false>::BYTES))
TAKES_SHARED(moe_ffn__down, (ProductMemory<type::WEIGHT, 4, false>::BYTES))
