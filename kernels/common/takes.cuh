// What kernels count on, for a check of what the host gives them (backend-cuda/src/compile/report.rs). Nothing of it is compiled
// for a device.
#pragma once

#ifdef REPORT
// Bytes of dynamic shared memory.
#define TAKES_SHARED(entry, bytes) extern "C" __device__ unsigned entry##__shared = bytes;
#else
#define TAKES_SHARED(entry, bytes)
#endif
