// rms_norm: y[r, c] = x[r, c] / sqrt(mean(x[r, ..]^2) + eps) * w[c]
//
// Spec    core/src/ops/rms_norm.rs
// Launch  one block for each row: a warp for each 256 columns, at most ROW_WARPS; ROW_WIDE_THREADS where it is wide
// Differs from the spec only in the order of the sums (f32: planes, 8 columns of a lane, lanes, warps) and in rsqrtf.
//
//   rms_norm               rows that fit the registers of a block
//   gather_rows__rms_norm  of the picked rows, which are copied on the way where somebody wants them
//   rms_norm__wide         rows of any width, read twice

#include "gen/abi.cuh"
#include "common/chain.cuh"
#include "common/row.cuh"

template <bool QUADS, bool PICKED>
static __device__ __forceinline__ void norm_row(const float* __restrict__ x, const unsigned* __restrict__ picked,
                                                const float* __restrict__ w, float* __restrict__ gathered,
                                                float* __restrict__ y, const Prepared& prepared,
                                                const CudaNormParams& params, const StepState* __restrict__ step) {
  __shared__ float partial[WARP];
  const unsigned row = blockIdx.x, block = warp_id(), c = column_of(block);
  const unsigned rows = rows_of(step, params.picked);
  // Padding rows are read like others and not written: nothing waits for the number of rows.
  unsigned source = row;
  if constexpr (PICKED) source = row < rows ? picked[row] : 0u;
  float v[EACH], factor[EACH], out[EACH];
  load_ahead<QUADS>(factor, w, c, params.cols);
  follow();
  load_planes<QUADS>(v, x + size_t(source) * params.cols, params.planes, params.plane_stride, c, params.cols);
  const float scale = inverse_rms(block_sum(sum_of_squares(v), partial), params.cols, params.eps);
  if (row >= rows) return;
  if constexpr (PICKED) {
    if (gathered) store<QUADS>(gathered + size_t(row) * params.cols, v, c, params.cols);
  }
  scale_by(out, v, scale, factor);
  put<QUADS>(out, y, prepared, row, block, params.cols);
}

extern "C" __global__ void __launch_bounds__(ROW_WARPS * WARP, 1)
rms_norm(const float* __restrict__ x,  // [planes][rows, cols]
         const float* __restrict__ w,  // [cols]
         float* __restrict__ y,        // [rows, cols], or 0
         Prepared prepared,            // y for products
         CudaNormParams params,
         const StepState* __restrict__ step) {
  if (params.cols % 4 == 0) {
    norm_row<true, false>(x, nullptr, w, nullptr, y, prepared, params, step);
  } else {
    norm_row<false, false>(x, nullptr, w, nullptr, y, prepared, params, step);
  }
}

extern "C" __global__ void __launch_bounds__(ROW_WARPS * WARP, 1)
gather_rows__rms_norm(const float* __restrict__ x,          // [rows, cols]
                      const unsigned* __restrict__ picked,  // [picked]
                      const float* __restrict__ w,          // [cols]
                      float* __restrict__ gathered,         // [picked, cols], or 0
                      float* __restrict__ y,                // [picked, cols], or 0
                      Prepared prepared,                    // y for products
                      CudaNormParams params,
                      const StepState* __restrict__ step) {
  if (params.cols % 4 == 0) {
    norm_row<true, true>(x, picked, w, gathered, y, prepared, params, step);
  } else {
    norm_row<false, true>(x, picked, w, gathered, y, prepared, params, step);
  }
}

extern "C" __global__ void __launch_bounds__(ROW_WIDE_THREADS)
rms_norm__wide(const float* __restrict__ x,  // [planes][rows, cols]
               const float* __restrict__ w,  // [cols]
               float* __restrict__ y,        // [rows, cols], or 0
               Prepared prepared,            // y for products
               CudaNormParams params,
               const StepState* __restrict__ step) {
  follow();
  __shared__ float partial[WARP];
  const unsigned row = blockIdx.x, blocks = (params.cols + PREPARED_BLOCK - 1) / PREPARED_BLOCK;
  if (row >= rows_of(step, params.picked)) return;
  x += size_t(row) * params.cols;
  float v[EACH], factor[EACH];
  float squares = 0.f;
  for (unsigned block = warp_id(); block < blocks; block += blockDim.x / WARP) {
    load_planes<false>(v, x, params.planes, params.plane_stride, column_of(block), params.cols);
    squares += sum_of_squares(v);
  }
  const float scale = inverse_rms(block_sum(squares, partial), params.cols, params.eps);
  for (unsigned block = warp_id(); block < blocks; block += blockDim.x / WARP) {
    load_planes<false>(v, x, params.planes, params.plane_stride, column_of(block), params.cols);
    load<false>(factor, w, column_of(block), params.cols);
    scale_by(v, v, scale, factor);
    put<false>(v, y, prepared, row, block, params.cols);
  }
}
