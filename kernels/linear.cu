// linear: out[r, o] = sum over c of x[r, c] * weight[o, c], for few rows
//
// Spec    core/src/ops/linear.rs
// Launch  linear__N, groups of N rows in z, block (128): a warp a tile of 16 outputs, four of them a group. LONG=0: grid (groups,
//         splits of the columns). LONG=1: grid (blocks), which have equal shares of the steps of all groups
// Differs from the spec in that x is two bytes a value (VALUE_BYTES=4: four), or two halves where the weight is no code, and
// in that sums of blocks are f32. What a block has of a group is a plane of its own, which the consumer adds up; where one
// ends follows from the shape, the device and the kind of consumer, and not from the rows.

#include "common/outputs.cuh"

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

// As many blocks as have room for their registers: fewer where codes or bytes of values take more to put together.
constexpr int FEWER = DIGITS == 4 || W::EXTRA != 0 || W::GROUP == 16 || W::SCALES == BYTE32 || __CUDA_ARCH__ == 800;

#define LINEAR(MOST, BLOCKS)                                                                         \
  extern "C" __global__ void __launch_bounds__(128, BLOCKS)                                          \
      linear__##MOST(Prepared x, Stack stack, float* __restrict__ out, CudaLinearParams params,      \
                     const StepState* __restrict__ step) {                                           \
    run<MOST, false>(There<MOST>{x}, stack, out, params, step);                                      \
  }                                                                                                  \
  TAKES_SHARED(linear__##MOST, (ProductMemory<W, MOST, LONG>::BYTES))
LINEAR(1, LONG ? OF_16 : 6 - FEWER)
LINEAR(4, LONG ? OF_16 : 5 - FEWER)
LINEAR(8, LONG ? OF_16 : 4 - FEWER)
LINEAR(16, OF_16)

