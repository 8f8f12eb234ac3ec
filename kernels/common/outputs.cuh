// Which outputs a block of a product of few rows has, for kernels/linear.cu and kernels/linear_glu.cu.
//
// WEIGHT and LONG are macros of the unit.
#pragma once

#include "common/chain.cuh"
#include "common/product.cuh"

using W = type::WEIGHT;

// Weights whose outputs follow one another.
struct Stack {
  WeightView weights[3];
};

// The tile of this warp in a group, and the column of its first output.
__device__ __forceinline__ Tile tile_in(const Stack& stack, const CudaLinearParams& params, u32 group, u32& first) {
  u32 tile = group * 4 + threadIdx.x / 32, i = 0;
  first = params.first;
  for (; i < params.weights && tile >= stack.weights[i].tiles; i++) tile -= stack.weights[i].tiles, first += stack.weights[i].rows;
  const bool there = i < params.weights;
  return {stack.weights[there ? i : 0], there ? tile : 0, there};
}

// A product with MOST of the rows `of`, from `start` on, of which `count` are there. When the kernel in front is done they are
// brought: `of.finish(product, of.ahead(start, count), start, count, done)`. Where rows are ONE_BLOCK of 256 columns, a group is
// one part.
template <int MOST, bool ONE_BLOCK, class Rows>
__device__ __forceinline__ void run(const Rows& of, const Stack& stack, float* out, const CudaLinearParams& params,
                                    const StepState* step) {
  extern __shared__ __align__(16) u8 memory[];
  const u32 steps = ONE_BLOCK && W::SCALES != ROW ? 1 : steps_of<W>(stack.weights[0]);
  u32 first;
#if LONG
  const u32 all = params.groups * steps, begin = all * blockIdx.x / gridDim.x;
  const Share share = {steps, begin / steps, begin % steps, all * (blockIdx.x + 1) / gridDim.x - begin};
  const auto tile_of = [&](u32 group) { return tile_in(stack, params, group, first); };
#else
  const u32 part = ONE_BLOCK ? 0 : blockIdx.y, parts = ONE_BLOCK ? 1 : gridDim.y, begin = steps * part / parts;
  const Share share = {steps, blockIdx.x, begin, steps * (part + 1) / parts - begin};
  const Tile only = tile_in(stack, params, blockIdx.x, first);
  const auto tile_of = [&](u32) { return only; };
#endif
  using Products = Product<W, MOST, LONG, decltype(tile_of), ONE_BLOCK>;
  using Values = Sums<Products::NT>;
  Products product(memory, share, tile_of);

  const u32 rows = ahead(params.picked ? &step->picked : &step->rows), start = blockIdx.z * MOST;
  const u32 count = min(rows - start, u32(MOST));
  const auto row_feed = of.ahead(start, count);
  follow();
  if (start >= rows) return;
  const auto done = [&](const Tile& tile, u32 group, const Values& sums, bool whole) {
#if LONG
    // `first` may be of the group that is copied. Blocks that have a part of a group are numbered from the one with its first
    // step.
    tile_in(stack, params, group, first);
    u32 plane = blockIdx.x - ((group * steps + 1) * gridDim.x - 1) / all;
#else
    u32 plane = part;
#endif
    const auto put_plane = [&](u32 plane, const Values& sums) {
      float* to = out + size_t(plane) * params.plane_stride + first + tile.tile * 16;
      hand_out<W>(sums, [&](int nt, u32 of_tile, u32 output, float value) {
        const u32 row = start + ROWS<W> * nt + of_tile;
        if (row < rows && u32(tile.tile) * 16 + output < tile.w.rows) to[size_t(row) * params.out_cols + output] = value;
      });
    };
    put_plane(plane, sums);
    // Other groups of the op may have more planes.
#pragma unroll 1
    while (whole && ++plane < params.planes) put_plane(plane, Values{});
  };
  of.finish(product, row_feed, start, count, done);
}

// Blocks that a multiprocessor has registers for, with 16 rows.
constexpr int OF_16 = LARGE_SHARED ? 3 : 2;
