// linear: out[r, o] = sum over c of x[r, c] * weight[o, c], for few rows
//
// Spec    core/src/ops/linear.rs
// Launch  grid (warps / 4, groups of 4 NT rows), block (128)
// The steps of all tiles of 16 outputs, one tile after the other, are cut into as many equal ranges as there are warps, so
// that all of them are done at once. Where a range ends inside a tile, each piece of the tile is a plane of the output,
// which the consumer adds up; with `whole` ranges are cut between tiles. Where they are cut follows from the shape and the
// device alone. Differs from the spec in that x is two halves (22 bits) and sums are f32.

#include "common/product.cuh"

// Weights whose outputs follow one another.
struct Stack {
  WeightView weights[3];
};

// The first step of the range of warp `i`.
__device__ __forceinline__ u32 range(const CudaLinearParams& params, u32 i) {
  if (params.whole) return u32(u64(i) * params.tiles / params.warps) * params.steps;
  return u32(u64(i) * params.tiles * params.steps / params.warps);
}

template <int NT>
__device__ __forceinline__ void run(const Prepared& x, const Stack& stack, float* out, const CudaLinearParams& params,
                                    const StepState* step) {
  using W = type::WEIGHT;
  __shared__ __align__(16) u8 rings[4][Stage<W>::DEPTH * Stage<W>::BYTES];
  u8* ring = rings[threadIdx.x / 32];
  const u32 warp = blockIdx.x * 4 + threadIdx.x / 32, start = blockIdx.y * (4 * NT);
  const u32 lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const u32 end = warp < params.warps ? range(params, warp + 1) : 0;
  u32 rows = 0;
  bool waited = false;
  for (u32 at = warp < params.warps ? range(params, warp) : 0; at < end;) {
    const u32 all_tiles = at / params.steps, from = at - all_tiles * params.steps, to = min(params.steps, from + end - at);
    u32 tile = all_tiles, first = params.first, i = 0;
    for (; tile >= stack.weights[i].tiles; i++) tile -= stack.weights[i].tiles, first += stack.weights[i].rows;
    const WeightView w = stack.weights[i];
    Product<W, NT> product(ring, w, tile, from, to);
    if (!waited) {
      wait_for_inputs();
      rows = params.picked ? step->picked : step->rows, waited = true;
    }
    if (start >= rows) break;
    Lanes<NT> lanes;
    for (int nt = 0; nt < NT; nt++) {
      const u32 feeds = start + 4 * nt + g / 2;
      lanes.set(nt, x, W::GROUP == 16, feeds, feeds < rows, start + 4 * nt + t);
    }
    const Sums<NT> sums = product.finish(ring, w, tile, lanes);

    // Which piece of the tile this is: as many before it as there are warps from the one that begins the tile.
    const u64 total = u64(params.tiles) * params.steps;
    const u32 plane = params.whole ? 0 : warp - u32(((u64(all_tiles) * params.steps + 1) * params.warps - 1) / total);
    // The last piece also writes the planes that the tile has no pieces for.
    const u32 planes = to == params.steps ? params.planes : plane + 1;
    for (int nt = 0; nt < NT; nt++) {
      const u32 row = start + 4 * nt + t, output = tile * 16 + g;
      if (row >= rows) continue;
      for (u32 p = plane; p < planes; p++) {
        float* into = out + size_t(p) * params.plane_stride + size_t(row) * params.out_cols + first;
        if (output < w.rows) into[output] = p == plane ? sums.g[nt] : 0.f;
        if (output + 8 < w.rows) into[output + 8] = p == plane ? sums.above[nt] : 0.f;
      }
    }
    at += to - from;
  }
  if (!waited) wait_for_inputs();
  copies_wait<0>();
}

#define LINEAR(NT, BLOCKS)                                                                           \
  extern "C" __global__ void __launch_bounds__(128, BLOCKS)                                          \
      linear__##NT(Prepared x, Stack stack, float* __restrict__ out, CudaLinearParams params,        \
                   const StepState* __restrict__ step) {                                             \
    run<NT>(x, stack, out, params, step);                                                            \
  }
// As many blocks as have room for their registers.
LINEAR(1, 4)
LINEAR(2, 2)
LINEAR(4, 2)
