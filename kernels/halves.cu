// halves: an activation as halves row by row, for products that a library does
//
// Spec    none: the form of operands is a matter of the lowering (backend-cuda/src/lower/library.rs)
// Launch  grid (rows), block (256)
//
//   halves        x as halves; a row whose largest value is not well inside their range is divided by a power of two
//   halves__back  grid (rows, groups of 1024 columns): the product times that power

#include "common/half.cuh"
#include "gen/abi.cuh"

// The power of two that a row is divided by: 1 wherever halves hold the row to within 2^-23 of its largest value.
static __device__ __forceinline__ float power_of(float largest) {
  if (largest == 0.f || largest >= 0.25f && largest < 32768.f) return 1.f;
  int e = int(__float_as_uint(largest) >> 23) - 127 - 9;
  // Infinity stays what it is, and powers are f32 both ways.
  if (e > 118) return 1.f;
  if (e < -100) e = -100;
  return __uint_as_float(u32(127 + e) << 23);
}

static __device__ __forceinline__ float value(const float* x, const PrepareFormParams& params, size_t at) {
  float v = x[at];
  for (u32 plane = 1; plane < params.planes; plane++) v += x[size_t(plane) * params.plane_stride + at];
  return v;
}

extern "C" __global__ void __launch_bounds__(256)
    halves(const float* __restrict__ x,  // [planes][rows, cols]
           u16* __restrict__ out,        // [rows, cols]
           float* __restrict__ scales,   // [rows]
           PrepareFormParams params, const StepState* __restrict__ step) {
  __shared__ float of_warp[8];
  const u32 row = blockIdx.x;
  if (row >= (params.picked ? step->picked : step->rows)) return;
  const size_t start = size_t(row) * params.cols;
  float largest = 0.f;
  for (u32 col = threadIdx.x; col < params.cols; col += 256)
    largest = fmaxf(largest, fabsf(value(x, params, start + col)));
  for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, d));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = largest;
  __syncthreads();
  for (int i = 0; i < 8; i++) largest = fmaxf(largest, of_warp[i]);
  const float power = power_of(largest), down = 1.f / power;
  if (threadIdx.x == 0) scales[row] = power;
  u32* pairs = reinterpret_cast<u32*>(out + start);
  for (u32 pair = threadIdx.x; pair < params.cols / 2; pair += 256)
    pairs[pair] = halves_of(value(x, params, start + 2 * pair) * down, value(x, params, start + 2 * pair + 1) * down);
}

extern "C" __global__ void __launch_bounds__(256)
    halves__back(float* __restrict__ x,             // [rows, cols]
                 const float* __restrict__ scales,  // [rows]
                 PrepareFormParams params, const StepState* __restrict__ step) {
  const u32 row = blockIdx.x;
  if (row >= (params.picked ? step->picked : step->rows)) return;
  const float power = scales[row];
  if (power == 1.f) return;
  for (u32 i = 0; i < 4; i++) {
    const u32 col = (blockIdx.y * 4 + i) * 256 + threadIdx.x;
    if (col < params.cols) x[size_t(row) * params.cols + col] *= power;
  }
}
