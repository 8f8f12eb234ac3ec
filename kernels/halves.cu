// halves: an activation as halves, row by row, for products that a library does
//
// Spec    none: the form of operands is a matter of the lowering (backend-cuda/src/lower/library.rs)
// Launch  grid (rows), block (256)
//
//   halves        x as halves, divided by a power of two where the row's largest value asks for it
//   halves__back  the product times that power
//
// A row has a multiple of 8 columns.

#include "common/chain.cuh"
#include "common/half.cuh"
#include "gen/abi.cuh"

// The power of two that a row is divided by. Rows whose largest value is from 1/4 to 2^15 stay as they are, so that most
// products need not be multiplied back: what is below the normal halves is then off by 2^-25, which is 2^-23 of the
// largest value at most. Others come to have their largest value from 2^9 to 2^10.
static __device__ __forceinline__ float power_of(float largest) {
  if (largest == 0.f || largest >= 0.25f && largest < 32768.f) return 1.f;
  int e = int(__float_as_uint(largest) >> 23) - 127 - 9;
  // Infinity stays what it is, and powers are f32 both ways.
  if (e > 118) return 1.f;
  if (e < -100) e = -100;
  return __uint_as_float(u32(127 + e) << 23);
}

// Columns `col` to `col + 7`, planes added up in their order.
static __device__ __forceinline__ void read(float (&v)[8], const float* __restrict__ row, const PrepareFormParams& params,
                                            u32 col) {
#pragma unroll
  for (int i = 0; i < 8; i++) v[i] = 0.f;
  for (u32 plane = 0; plane < params.planes; plane++) {
    const float4* at = reinterpret_cast<const float4*>(row + size_t(plane) * params.plane_stride + col);
    const float4 low = at[0], high = at[1];
    v[0] += low.x, v[1] += low.y, v[2] += low.z, v[3] += low.w;
    v[4] += high.x, v[5] += high.y, v[6] += high.z, v[7] += high.w;
  }
}

extern "C" __global__ void __launch_bounds__(256)
    halves(const float* __restrict__ x,  // [planes][rows, cols]
           u16* __restrict__ out,        // [rows, cols]
           float* __restrict__ powers,   // [rows]
           PrepareFormParams params, const StepState* __restrict__ step) {
  follow();
  __shared__ float of_warp[8];
  const u32 row = blockIdx.x;
  if (row >= (params.picked ? step->picked : step->rows)) return;
  const float* from = x + size_t(row) * params.cols;
  float v[8], largest = 0.f;
  for (u32 col = threadIdx.x * 8; col < params.cols; col += 2048) {
    read(v, from, params, col);
#pragma unroll
    for (int i = 0; i < 8; i++) largest = fmaxf(largest, fabsf(v[i]));
  }
  for (int d = 16; d > 0; d /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, d));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = largest;
  __syncthreads();
  for (int i = 0; i < 8; i++) largest = fmaxf(largest, of_warp[i]);
  const float power = power_of(largest), down = 1.f / power;
  if (threadIdx.x == 0) powers[row] = power;
  for (u32 col = threadIdx.x * 8; col < params.cols; col += 2048) {
    read(v, from, params, col);
    uint4 eight;
    eight.x = halves_of(v[0] * down, v[1] * down);
    eight.y = halves_of(v[2] * down, v[3] * down);
    eight.z = halves_of(v[4] * down, v[5] * down);
    eight.w = halves_of(v[6] * down, v[7] * down);
    *reinterpret_cast<uint4*>(out + size_t(row) * params.cols + col) = eight;
  }
}

extern "C" __global__ void __launch_bounds__(256)
    halves__back(float* __restrict__ x,             // [rows, cols]
                 const float* __restrict__ powers,  // [rows]
                 PrepareFormParams params, const StepState* __restrict__ step) {
  follow();
  const u32 row = blockIdx.x;
  if (row >= (params.picked ? step->picked : step->rows)) return;
  const float power = powers[row];
  if (power == 1.f) return;
  for (u32 col = threadIdx.x * 4; col < params.cols; col += 1024) {
    float4* at = reinterpret_cast<float4*>(x + size_t(row) * params.cols + col);
    float4 v = *at;
    v.x *= power, v.y *= power, v.z *= power, v.w *= power;
    *at = v;
  }
}
