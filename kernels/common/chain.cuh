// How kernels of a step follow one another.
#pragma once

// Every kernel of a step calls it before it touches memory that others write, and before a block of it ends; weights may be
// read earlier. From sm_90 on a kernel begins while the one before it still runs (`Stream::launch`): it waits here until
// that one is done, and lets the one after it begin. So no more than two are under way, and none ends before an earlier one.
__device__ __forceinline__ void follow() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
