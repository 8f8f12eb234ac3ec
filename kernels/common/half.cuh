// Halves and tensor-core products without CUDA's headers, which NVRTC has no path to.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

__device__ __forceinline__ u16 half_of(float x) {
  u16 h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return h;
}

__device__ __forceinline__ float float_of(u16 h) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(h));
  return x;
}

// Two halves of a word: `low` in bits 0 to 15.
__device__ __forceinline__ u32 halves_of(float low, float high) {
  u32 h;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(h) : "f"(high), "f"(low));
  return h;
}

// A half twice, and sums of two pairs of them.
constexpr __device__ u32 twice(u32 half) { return half | half << 16; }
__device__ __forceinline__ u32 add2(u32 a, u32 b) {
  u32 c;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(c) : "r"(a), "r"(b));
  return c;
}

__device__ __forceinline__ float low_half(u32 h) { return float_of(u16(h)); }
__device__ __forceinline__ float high_half(u32 h) { return float_of(u16(h >> 16)); }

// c += a b with a [16, 16] and b [16, 8] of halves, sums in f32. Of lane l, with g = l / 4 and t = l % 4:
// a[0] = (g; 2t, 2t+1), a[1] = (g+8; 2t, 2t+1), a[2] = (g; 2t+8, 2t+9), a[3] = (g+8; 2t+8, 2t+9), b[0] = (2t, 2t+1; g),
// b[1] = (2t+8, 2t+9; g), c = (g; 2t), (g; 2t+1), (g+8; 2t), (g+8; 2t+1).
__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// c = a b.
__device__ __forceinline__ void mma_from_zero(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
      : "=f"(c[0]), "=f"(c[1]), "=f"(c[2]), "=f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.f));
}
