// norm_add: residual[r, c] = (residual[r, c] + y[r, c] / sqrt(mean(y[r, ..]^2) + eps) * w[c]) * scale
//
// Spec    core/src/ops/norm_add.rs, core/src/ops/rms_norm.rs, core/src/ops/add.rs
// Launch  one block for each row: a warp for each 256 columns, at most ROW_WARPS; ROW_WIDE_THREADS where it is wide
// Differs from the spec only in the order of the sums (f32: planes, 8 columns of a lane, lanes, warps), in rsqrtf, and in
// what is fused:
//
//   norm_add              as above
//   norm_add__rms_norm    and the norm of the new residual
//   norm_add__two_norms   and its norms with two weights
//   norm_add__branches    y = n(dense) * dense_w + n(x) * x_w first; then as above, with the norm that follows or without
//   norm_add__wide        as the first, rows of any width, read twice

#include "gen/abi.cuh"
#include "common/chain.cuh"
#include "common/row.cuh"

// A norm of the new residual.
struct Next {
  const float* w;     // [cols]; 0: there is none
  float* out;         // [rows, cols], or 0
  Prepared prepared;  // out for products
};

// The new residual of this lane's columns. It is also stored, as floats and for products.
template <bool QUADS>
static __device__ __forceinline__ void add_branch(float (&sum)[EACH], const float (&y)[EACH], float norm,
                                                  const float (&w)[EACH], const float (&old)[EACH], bool real,
                                                  float* __restrict__ residual, const Prepared& prepared,
                                                  const CudaNormParams& params) {
#pragma unroll
  for (unsigned i = 0; i < EACH; i++) sum[i] = fmaf(y[i] * norm, w[i], old[i]) * params.scale;
  if (real) put<QUADS>(sum, residual, prepared, blockIdx.x, warp_id(), params.cols);
}

// What follows the branch `y` in registers.
template <bool QUADS, int NEXT>
static __device__ __forceinline__ void finish_row(const float (&y)[EACH], const float (&w)[EACH], const float (&old)[EACH],
                                                  const float (&next_w)[NEXT + 1][EACH], const Next (&next)[NEXT + 1],
                                                  bool real, float* __restrict__ residual, const Prepared& prepared,
                                                  const CudaNormParams& params) {
  __shared__ float partial[2][WARP];
  const float norm = inverse_rms(block_sum(sum_of_squares(y), partial[0]), params.cols, params.eps);
  float sum[EACH], out[EACH];
  add_branch<QUADS>(sum, y, norm, w, old, real, residual, prepared, params);
  if constexpr (NEXT > 0) {
    if (!next[0].w) return;
    const float scale = inverse_rms(block_sum(sum_of_squares(sum), partial[1]), params.cols, params.next_eps);
    if (!real) return;
#pragma unroll
    for (int n = 0; n < NEXT; n++) {
      scale_by(out, sum, scale, next_w[n]);
      put<QUADS>(out, next[n].out, next[n].prepared, blockIdx.x, warp_id(), params.cols);
    }
  }
}

template <bool QUADS, int NEXT>
static __device__ __forceinline__ void row_of(const float* __restrict__ y, const float* __restrict__ w,
                                              const Next (&next)[NEXT + 1], float* __restrict__ residual,
                                              const Prepared& prepared, const CudaNormParams& params,
                                              const StepState* __restrict__ step) {
  // Weights and the number of rows are there before the kernel in front is done.
  const unsigned c = column_of(warp_id()), cols = params.cols;
  const size_t start = size_t(blockIdx.x) * cols;
  float branch[EACH], factor[EACH], old[EACH], next_w[NEXT + 1][EACH];
  load_ahead<QUADS>(factor, w, c, cols);
  if constexpr (NEXT > 0) load_ahead<QUADS>(next_w[0], next[0].w, c, cols);
  const bool real = blockIdx.x < rows_of(step, params.picked);
  follow();
  load_planes<QUADS>(branch, y + start, params.planes, params.plane_stride, c, cols);
  // These have no registers before; they are on their way during the sum of squares.
  load<QUADS>(old, residual + start, c, cols);
  if constexpr (NEXT > 1) load<QUADS>(next_w[1], next[1].w, c, cols);
  finish_row<QUADS, NEXT>(branch, factor, old, next_w, next, real, residual, prepared, params);
}

extern "C" __global__ void __launch_bounds__(ROW_WARPS * WARP, 1)
norm_add(const float* __restrict__ y,   // [planes][rows, cols]
         const float* __restrict__ w,   // [cols]
         float* __restrict__ residual,  // [rows, cols], in place
         Prepared prepared,             // residual for products
         CudaNormParams params,
         const StepState* __restrict__ step) {
  const Next none[1] = {};
  if (params.cols % 4 == 0) {
    row_of<true, 0>(y, w, none, residual, prepared, params, step);
  } else {
    row_of<false, 0>(y, w, none, residual, prepared, params, step);
  }
}

extern "C" __global__ void __launch_bounds__(ROW_WARPS * WARP, 1)
norm_add__rms_norm(const float* __restrict__ y,       // [planes][rows, cols]
                   const float* __restrict__ w,       // [cols]
                   const float* __restrict__ next_w,  // [cols]
                   float* __restrict__ residual,      // [rows, cols], in place
                   float* __restrict__ next,          // [rows, cols], or 0
                   Prepared next_prepared,            // next for products
                   CudaNormParams params,
                   const StepState* __restrict__ step) {
  const Next all[2] = {{next_w, next, next_prepared}};
  if (params.cols % 4 == 0) {
    row_of<true, 1>(y, w, all, residual, Prepared{}, params, step);
  } else {
    row_of<false, 1>(y, w, all, residual, Prepared{}, params, step);
  }
}

extern "C" __global__ void __launch_bounds__(ROW_WARPS * WARP, 1)
norm_add__two_norms(const float* __restrict__ y,        // [planes][rows, cols]
                    const float* __restrict__ w,        // [cols]
                    const float* __restrict__ next_w,   // [cols]
                    const float* __restrict__ other_w,  // [cols]
                    float* __restrict__ residual,       // [rows, cols], in place
                    float* __restrict__ next,           // [rows, cols], or 0
                    Prepared next_prepared,             // next for products
                    float* __restrict__ other,          // [rows, cols], or 0
                    Prepared other_prepared,            // other for products
                    CudaNormParams params,
                    const StepState* __restrict__ step) {
  const Next all[3] = {{next_w, next, next_prepared}, {other_w, other, other_prepared}};
  if (params.cols % 4 == 0) {
    row_of<true, 2>(y, w, all, residual, Prepared{}, params, step);
  } else {
    row_of<false, 2>(y, w, all, residual, Prepared{}, params, step);
  }
}

template <bool QUADS>
static __device__ __forceinline__ void branches_of(const float* __restrict__ dense, const float* __restrict__ dense_w,
                                                   const float* __restrict__ x, const float* __restrict__ x_w,
                                                   const float* __restrict__ w, const Next (&next)[2],
                                                   float* __restrict__ residual, const CudaNormParams& params,
                                                   const StepState* __restrict__ step) {
  __shared__ float2 partial[WARP];
  const unsigned c = column_of(warp_id()), cols = params.cols;
  const size_t start = size_t(blockIdx.x) * cols;
  float a[EACH], b[EACH], a_w[EACH], b_w[EACH], factor[EACH], old[EACH], next_w[2][EACH];
  load_ahead<QUADS>(a_w, dense_w, c, cols);
  load_ahead<QUADS>(b_w, x_w, c, cols);
  const bool real = blockIdx.x < rows_of(step, params.picked);
  follow();
  load_planes<QUADS>(b, x + start, params.planes, params.plane_stride, c, cols);
  load_planes<QUADS>(a, dense + start, params.other_planes, params.other_stride, c, cols);
  // The others have no registers before.
  load<QUADS>(old, residual + start, c, cols);
  load<QUADS>(factor, w, c, cols);
  if (next[0].w) load<QUADS>(next_w[0], next[0].w, c, cols);
  const float2 squares = block_sums(make_float2(sum_of_squares(a), sum_of_squares(b)), partial);
  const float a_scale = inverse_rms(squares.x, cols, params.eps), b_scale = inverse_rms(squares.y, cols, params.eps);
#pragma unroll
  for (unsigned i = 0; i < EACH; i++) a[i] = fmaf(b[i] * b_scale, b_w[i], a[i] * a_scale * a_w[i]);
  finish_row<QUADS, 1>(a, factor, old, next_w, next, real, residual, Prepared{}, params);
}

extern "C" __global__ void __launch_bounds__(ROW_WARPS * WARP, 1)
norm_add__branches(const float* __restrict__ dense,    // [other_planes][rows, cols]
                   const float* __restrict__ dense_w,  // [cols]
                   const float* __restrict__ x,        // [planes][rows, cols]
                   const float* __restrict__ x_w,      // [cols]
                   const float* __restrict__ w,        // [cols]
                   const float* __restrict__ next_w,   // [cols], or 0: no norm follows
                   float* __restrict__ residual,       // [rows, cols], in place
                   float* __restrict__ next,           // [rows, cols], or 0
                   Prepared next_prepared,             // next for products
                   CudaNormParams params,
                   const StepState* __restrict__ step) {
  const Next all[2] = {{next_w, next, next_prepared}};
  if (params.cols % 4 == 0) {
    branches_of<true>(dense, dense_w, x, x_w, w, all, residual, params, step);
  } else {
    branches_of<false>(dense, dense_w, x, x_w, w, all, residual, params, step);
  }
}

extern "C" __global__ void __launch_bounds__(ROW_WIDE_THREADS)
norm_add__wide(const float* __restrict__ y,   // [planes][rows, cols]
               const float* __restrict__ w,   // [cols]
               float* __restrict__ residual,  // [rows, cols], in place
               Prepared prepared,             // residual for products
               CudaNormParams params,
               const StepState* __restrict__ step) {
  follow();
  __shared__ float partial[WARP];
  const unsigned blocks = (params.cols + PREPARED_BLOCK - 1) / PREPARED_BLOCK;
  if (blockIdx.x >= rows_of(step, params.picked)) return;
  const size_t start = size_t(blockIdx.x) * params.cols;
  float v[EACH], factor[EACH], old[EACH];
  float squares = 0.f;
  for (unsigned block = warp_id(); block < blocks; block += blockDim.x / WARP) {
    load_planes<false>(v, y + start, params.planes, params.plane_stride, column_of(block), params.cols);
    squares += sum_of_squares(v);
  }
  const float norm = inverse_rms(block_sum(squares, partial), params.cols, params.eps);
  for (unsigned block = warp_id(); block < blocks; block += blockDim.x / WARP) {
    load_planes<false>(v, y + start, params.planes, params.plane_stride, column_of(block), params.cols);
    load<false>(factor, w, column_of(block), params.cols);
    load<false>(old, residual + start, column_of(block), params.cols);
#pragma unroll
    for (unsigned i = 0; i < EACH; i++) v[i] = fmaf(v[i] * norm, factor[i], old[i]) * params.scale;
    put<false>(v, residual, prepared, blockIdx.x, block, params.cols);
  }
}
