// How kernels of a step follow one another.
#pragma once

// Reads ahead of `follow` what no kernel of a step writes. Where the compiler knows that nobody writes it, it would move the
// read behind.
__device__ __forceinline__ float4 ahead(const float4* p) {
  float4 x;
  asm volatile("ld.global.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "l"(p));
  return x;
}
__device__ __forceinline__ unsigned ahead(const unsigned* p) {
  unsigned x;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(x) : "l"(p));
  return x;
}

// Every kernel of a step calls it before it touches memory that the kernel in front of it writes, and before a block of it
// ends; weights may be read earlier, and so may, past the first cache, what kernels before that one wrote. From sm_90 on a
// kernel begins while the one before it still runs (`Stream::launch`): it waits here until that one is done, and lets the one
// after it begin. So no more than two are under way, none ends before an earlier one, and when one begins all but the one in
// front of it are done.
__device__ __forceinline__ void follow() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
