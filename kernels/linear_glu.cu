// linear: as kernels/linear.cu, where x is the output of a `glu` of at most 256 columns, which each block computes: a launch for
// that would wait for the one in front of it, and this one for that, which is nearly all that it takes
//
// Spec    core/src/ops/linear.rs, core/src/ops/glu.rs
// Launch  linear__glu_N, groups of N rows in z, block (128): a warp a tile of 16 outputs; grid (groups of four tiles)

#define LONG 0
#include "common/glu.cuh"
#include "common/outputs.cuh"

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

#define LINEAR_GLU(MOST)                                                                             \
  extern "C" __global__ void __launch_bounds__(128, OF_16)                                           \
      linear__glu_##MOST(const float* __restrict__ gate, const float* __restrict__ up,               \
                         CudaGluParams glu, Stack stack, float* __restrict__ out,                    \
                         CudaLinearParams params, const StepState* __restrict__ step) {              \
    run<MOST, true>(Gated<MOST>{gate, up, glu}, stack, out, params, step);                           \
  }                                                                                                  \
  TAKES_SHARED(linear__glu_##MOST, (ProductMemory<W, MOST, LONG, true>::BYTES))
LINEAR_GLU(1)
LINEAR_GLU(4)
LINEAR_GLU(8)
LINEAR_GLU(16)
