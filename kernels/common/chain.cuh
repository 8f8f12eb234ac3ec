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

// Lets the kernel behind begin before this one waits. This one is done sooner than that one could begin otherwise.
__device__ __forceinline__ void invite() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Every kernel of a step calls it before it touches memory that the kernel in front of it writes, and before a block of it
// ends, unless another block of its grid waits; weights may be read earlier. From sm_90 on a kernel begins while the one before
// it still runs (`Stream::launch`): it waits here until that one is done, and lets the one after it begin, unless it invited
// that before. So none ends before an earlier one. When one begins behind a kernel that does not invite, all but that one are
// done: what those wrote may be read, past the first cache, before this. Products do not, and are what such kernels are behind
// (`Lowering::behind_linear`).
__device__ __forceinline__ void follow() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
