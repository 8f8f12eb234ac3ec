// norm_add: residual[r, c] = (residual[r, c] + y[r, c] / sqrt(mean(y[r, ..]^2) + eps) * w[c]) * scale
//
// Spec    core/src/ops/norm_add.rs, core/src/ops/rms_norm.rs, core/src/ops/add.rs
// Launch  one block for each row along y: a warp for each 256 columns, at most ROW_WARPS, with 32 bytes of dynamic shared memory
//         a lane for each vector that is kept; ROW_WIDE_THREADS where it is wide. On sm_90 and later, in programs of few rows, it
//         is a cluster of up to 8 blocks along x, which have those warps together, and perhaps one or two without columns: one
//         multiprocessor takes long to read the planes of a row while the weights of the next product come in
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
#include "common/cluster.cuh"
#include "common/row.cuh"

// Planes behind the first that are loaded together: as many as there are registers for.
constexpr unsigned MORE = 5;

// A norm of the new residual.
struct Next {
  const float* w;     // [cols]; 0: there is none
  float* out;         // [rows, cols], or 0
  Prepared prepared;  // out for products
};

// What each lane keeps in shared memory: the weight of the norm, the residual, the weights of norms that follow, and those of
// branches. All of it is under way before the kernel in front is done, or with the planes: while weights of the next product
// come in, each time a lane waits for memory costs a microsecond and a half.
struct Kept {
  float4* at;
  __device__ __forceinline__ Kept() {
    extern __shared__ float4 memory[];
    at = memory + 2 * threadIdx.x;
  }
  __device__ __forceinline__ float4* of(unsigned i) const { return at + i * 2 * blockDim.x; }
};

// Whether this warp has something to store: its row is one of the step's, and its columns are within the row. Others take part
// in the sums, of zeros where there are no columns.
static __device__ __forceinline__ bool stores(const Part& part, const CudaNormParams& params, const StepState* step) {
  return part.row < rows_of(step, params.picked) && part.warp() * PREPARED_BLOCK < params.cols;
}

// The new residual of this lane's columns. It is also stored, as floats and for products.
template <bool QUADS>
static __device__ __forceinline__ void add_branch(float (&sum)[EACH], const float (&y)[EACH], float norm,
                                                  const float (&w)[EACH], const float (&old)[EACH], const Part& part,
                                                  bool real, float* __restrict__ residual, const Prepared& prepared,
                                                  const CudaNormParams& params) {
#pragma unroll
  for (unsigned i = 0; i < EACH; i++) sum[i] = fmaf(y[i] * norm, w[i], old[i]) * params.scale;
  if (real) put<QUADS>(sum, residual, prepared, part.row, part.warp(), params.cols);
}

// What follows the branch `y` in registers.
template <bool QUADS, int NEXT>
static __device__ __forceinline__ void finish_row(const float (&y)[EACH], const Kept& kept, const Next (&next)[NEXT + 1],
                                                  RowSum<float> (&sums)[2], const Part& part, bool real,
                                                  float* __restrict__ residual, const Prepared& prepared,
                                                  const CudaNormParams& params) {
  const float norm = inverse_rms(row_sum(sum_of_squares(y), sums[0], part), params.cols, params.eps);
  float sum[EACH], out[EACH], w[EACH], old[EACH];
  fetched(w, kept.of(0)), fetched(old, kept.of(1));
  add_branch<QUADS>(sum, y, norm, w, old, part, real, residual, prepared, params);
  if constexpr (NEXT > 0) {
    if (!next[0].w) return;
    const float scale = inverse_rms(row_sum(sum_of_squares(sum), sums[1], part), params.cols, params.next_eps);
    if (!real) return;
#pragma unroll
    for (int n = 0; n < NEXT; n++) {
      fetched(w, kept.of(2 + n));
      scale_by(out, sum, scale, w);
      put<QUADS>(out, next[n].out, next[n].prepared, part.row, part.warp(), params.cols);
    }
  }
}

template <bool QUADS, int NEXT>
static __device__ __forceinline__ void row_of(const float* __restrict__ y, const float* __restrict__ w,
                                              const Next (&next)[NEXT + 1], float* __restrict__ residual,
                                              const Prepared& prepared, const CudaNormParams& params,
                                              const StepState* __restrict__ step) {
  __shared__ RowSum<float> sums[2];
  if (params.invites) invite();
  const Part part;
  part.begin(sums[0], sums[1]);
  // Weights and the number of rows are there before the kernel in front is done.
  const unsigned c = column_of(part.warp()), cols = params.cols;
  const size_t start = size_t(part.row) * cols;
  const Kept kept;
  float branch[EACH];
  fetch<QUADS>(kept.of(0), w, c, cols);
#pragma unroll
  for (int n = 0; n < NEXT; n++) fetch<QUADS>(kept.of(2 + n), next[n].w, c, cols);
  if (QUADS && params.settled) fetch<QUADS>(kept.of(1), residual + start, c, cols);
  const bool real = stores(part, params, step);
  follow();
  if (!QUADS || !params.settled) fetch<QUADS>(kept.of(1), residual + start, c, cols);
  load_planes<QUADS, MORE>(branch, y + start, params.planes, params.plane_stride, c, cols);
  copies_end();
  copies_wait<0>();
  part.all_run();
  finish_row<QUADS, NEXT>(branch, kept, next, sums, part, real, residual, prepared, params);
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
  __shared__ RowSum<float2> both;
  __shared__ RowSum<float> sums[2];
  if (params.invites) invite();
  const Part part;
  part.begin(both, sums[0], sums[1]);
  const unsigned c = column_of(part.warp()), cols = params.cols;
  const size_t start = size_t(part.row) * cols;
  const Kept kept;
  float a[EACH], b[EACH], a_w[EACH], b_w[EACH];
  fetch<QUADS>(kept.of(0), w, c, cols);
  fetch<QUADS>(kept.of(3), dense_w, c, cols);
  fetch<QUADS>(kept.of(4), x_w, c, cols);
  if (next[0].w) fetch<QUADS>(kept.of(2), next[0].w, c, cols);
  if (QUADS && params.settled) fetch<QUADS>(kept.of(1), residual + start, c, cols);
  const bool real = stores(part, params, step);
  follow();
  if (!QUADS || !params.settled) fetch<QUADS>(kept.of(1), residual + start, c, cols);
  load_planes<QUADS, MORE>(b, x + start, params.planes, params.plane_stride, c, cols);
  load_planes<QUADS, MORE>(a, dense + start, params.other_planes, params.other_stride, c, cols);
  copies_end();
  copies_wait<0>();
  part.all_run();
  const float2 squares = row_sums(make_float2(sum_of_squares(a), sum_of_squares(b)), both, part);
  const float a_scale = inverse_rms(squares.x, cols, params.eps), b_scale = inverse_rms(squares.y, cols, params.eps);
  fetched(a_w, kept.of(3)), fetched(b_w, kept.of(4));
#pragma unroll
  for (unsigned i = 0; i < EACH; i++) a[i] = fmaf(b[i] * b_scale, b_w[i], a[i] * a_scale * a_w[i]);
  finish_row<QUADS, 1>(a, kept, next, sums, part, real, residual, Prepared{}, params);
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
  if (params.invites) invite();
  follow();
  __shared__ float partial[WARP];
  const unsigned blocks = (params.cols + PREPARED_BLOCK - 1) / PREPARED_BLOCK;
  if (blockIdx.y >= rows_of(step, params.picked)) return;
  const size_t start = size_t(blockIdx.y) * params.cols;
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
    put<false>(v, residual, prepared, blockIdx.y, block, params.cols);
  }
}
