// Single instructions that CUDA C++ has no name for without its headers.
#pragma once

#include "common/copy.cuh"

// The thread. In units of MANY_TURNS it is asked for again: what follows from it alone is then not kept in registers from one turn of
// a long loop to the next.
__device__ __forceinline__ u32 thread_anew() {
#ifdef MANY_TURNS
  u32 x;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
  return x;
#else
  return threadIdx.x;
#endif
}

// a - b and a * b of two halves.
__device__ __forceinline__ u32 minus2(u32 a, u32 b) {
  u32 d;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

__device__ __forceinline__ u32 times2(u32 a, u32 b) {
  u32 d;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}

// 2^x, within 2^-22 of it; exactly 1 for 0, 0 for what is far below.
__device__ __forceinline__ float exp2_of(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// An 8 x 8 matrix of halves, turned: lane l gives row l / 4, columns 2 (l % 4) and the next, and gets that of the result.
__device__ __forceinline__ u32 transposed(u32 x) {
  u32 y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// Reads of what other blocks wrote: past the first-level cache, which does not see them.
__device__ __forceinline__ float4 fresh(const float4* p) {
  float4 x;
  asm volatile("ld.global.cg.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "l"(p));
  return x;
}
