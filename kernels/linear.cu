// linear: out[r, o] = sum over c of x[r, c] * weight[o, c], for few rows
//
// Spec    core/src/ops/linear.rs
// Launch  linear__N, groups of N rows in z, block (128): a warp a tile of 16 outputs, four of them a group. LONG=0: grid (groups,
//         splits of the columns). LONG=1: grid (blocks), which have equal shares of the steps of all groups
//         linear__glu_N (LONG=0): likewise, where x is the output of a `glu` of at most 256 columns, which each block computes:
//         a launch for that would wait for the one in front of it, and this one for that, which is nearly all that it takes
// Differs from the spec in that x is two bytes a value (VALUE_BYTES=4: four), or two halves where the weight is no code, and
// in that sums of blocks are f32. What a block has of a group is a plane of its own, which the consumer adds up; where one
// ends follows from the shape, the device and the kind of consumer, and not from the rows.

#include "common/chain.cuh"
#include "common/glu.cuh"
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

// Rows that are there.
template <int MOST>
struct There {
  const Prepared& x;

  __device__ __forceinline__ RowFeed<W, MOST> ahead(u32 start, u32 count) const {
    return RowFeed<W, MOST>(x, count, [&](u32 k) { return start + k; });
  }
  template <class Products, class Done>
  __device__ __forceinline__ void finish(Products& product, const RowFeed<W, MOST>& row_feed, u32, u32, const Done& done) const {
    product.finish(row_feed, done);
  }
};

#if !LONG
// Rows of a gated unit of one block of columns.
template <int MOST>
struct Gated {
  const float *gate, *up;
  const CudaGluParams& params;

  // Prepares `count` of them, from row `start`: a warp a row. Rows start at 16 bytes.
  __device__ __forceinline__ void prepare(const Prepared& to, u32 start, u32 count) const {
#pragma unroll 1
    for (u32 k = threadIdx.x / 32; k < count; k += 4) {
      const size_t row = start + k;
      float v[EACH];
      gated<true>(v, gate + row * params.gate_cols + params.gate_start, up + row * params.up_cols + params.up_start, params,
                  column_of(0));
      prepare256(v, to, k, 0);
    }
  }

  __device__ __forceinline__ RowsInPlace ahead(u32, u32) const { return {}; }
  template <class Products, class Done>
  __device__ __forceinline__ void finish(Products& product, RowsInPlace in_place, u32 start, u32 count, const Done& done) const {
    constexpr bool HALVES = W::SCALES == ROW;
    // As bytes they are a stage of the ring, as halves four.
    const Prepared x = {HALVES ? product.room() : product.rows, MOST, 1, 1, HALVES};
    prepare(x, start, count);
    if constexpr (HALVES) {
      __syncthreads();
      product.finish(RowFeed<W, MOST, true>(x, count, [](u32 k) { return k; }), done);
    } else {
      product.finish(in_place, done);
    }
  }
};
#endif

// As many blocks as have room for their registers: fewer where codes or bytes of values take more to put together.
constexpr int FEWER =
    DIGITS == 4 || type::WEIGHT::EXTRA != 0 || type::WEIGHT::GROUP == 16 || type::WEIGHT::SCALES == BYTE32 || __CUDA_ARCH__ == 800;

#define LINEAR(MOST, BLOCKS)                                                                         \
  extern "C" __global__ void __launch_bounds__(128, BLOCKS)                                          \
      linear__##MOST(Prepared x, Stack stack, float* __restrict__ out, CudaLinearParams params,      \
                     const StepState* __restrict__ step) {                                           \
    run<MOST, false>(There<MOST>{x}, stack, out, params, step);                                      \
  }
constexpr int OF_16 = LARGE_SHARED ? 3 : 2;
LINEAR(1, LONG ? OF_16 : 6 - FEWER)
LINEAR(4, LONG ? OF_16 : 5 - FEWER)
LINEAR(8, LONG ? OF_16 : 4 - FEWER)
LINEAR(16, OF_16)

#if !LONG
#define LINEAR_GLU(MOST)                                                                             \
  extern "C" __global__ void __launch_bounds__(128, OF_16)                                           \
      linear__glu_##MOST(const float* __restrict__ gate, const float* __restrict__ up,               \
                         CudaGluParams glu, Stack stack, float* __restrict__ out,                    \
                         CudaLinearParams params, const StepState* __restrict__ step) {              \
    run<MOST, true>(Gated<MOST>{gate, up, glu}, stack, out, params, step);                           \
  }
LINEAR_GLU(1)
LINEAR_GLU(4)
LINEAR_GLU(8)
LINEAR_GLU(16)
#endif
