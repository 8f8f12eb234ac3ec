//! Work in order.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};

use super::{Buffer, Call, Context, Graph, Staging, symbols};
use crate::error::CudaError;

/// A queue of work for the device, which it does in order.
#[derive(Debug)]
pub(crate) struct Stream {
    context: Arc<Context>,
    handle: sys::CUstream,
}

// SAFETY: a stream may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above; calls on one stream from several threads are put in some order by the driver.
unsafe impl Sync for Stream {}

impl Stream {
    /// An empty queue, independent of all others.
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, CudaError> {
        context.bind()?;
        let mut handle = std::ptr::null_mut();
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: facts 1 and 3; writes one handle.
        context.check("making a stream", unsafe { sys::cuStreamCreate(&raw mut handle, flags) })?;
        Ok(Self { context: Arc::clone(context), handle })
    }

    pub(super) fn handle(&self) -> sys::CUstream {
        self.handle
    }

    /// Waits until all of it is done.
    pub(crate) fn finish(&self) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: facts 1 to 3.
        self.context.check("a step", unsafe { sys::cuStreamSynchronize(self.handle) })
    }

    /// Copies a range of `from` to `to`, beginning at its byte `at`.
    pub(crate) fn upload(
        &self,
        from: &mut Staging,
        range: Range<usize>,
        to: &Buffer,
        at: u64,
    ) -> Result<(), CudaError> {
        self.context.bind()?;
        let (target, source, bytes) = (to.range(at, range.len()), from.range(&range), range.len());
        // SAFETY: facts 1 to 4: both ranges were checked, and `from` is given out again only behind the event below.
        let result = unsafe { sys::cuMemcpyHtoDAsync_v2(target, source, bytes, self.handle) };
        self.context.check("copying to the device", result)?;
        self.record(&mut from.copied)
    }

    /// Copies `from` to `to`, beginning at its byte `at`, and waits until that is done.
    pub(crate) fn upload_now(&self, from: &[u8], to: &Buffer, at: u64) -> Result<(), CudaError> {
        self.context.bind()?;
        let target = to.range(at, from.len());
        // SAFETY: facts 1 to 4: the range was checked, and `from` outlives the wait below.
        let result =
            unsafe { sys::cuMemcpyHtoDAsync_v2(target, from.as_ptr().cast(), from.len(), self.handle) };
        // Also where the copy was refused: what was enqueued before may not be.
        let finished = self.finish();
        self.context.check("copying to the device", result)?;
        finished
    }

    /// Copies from byte `at` of `from` on, and waits until that is done.
    pub(crate) fn download(&self, from: &Buffer, at: u64, into: &mut [u8]) -> Result<(), CudaError> {
        self.context.bind()?;
        let source = from.range(at, into.len());
        // SAFETY: facts 1 to 4: the range was checked, and `into` is borrowed until the wait below is over.
        let result =
            unsafe { sys::cuMemcpyDtoHAsync_v2(into.as_mut_ptr().cast(), source, into.len(), self.handle) };
        let finished = self.finish();
        self.context.check("copying from the device", result)?;
        finished
    }

    /// Copies `bytes` bytes within a buffer, between ranges that do not overlap.
    ///
    /// # Panics
    ///
    /// If they do, or are not within it.
    pub(crate) fn copy(&self, buffer: &Buffer, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        assert!(from.abs_diff(to) >= bytes as u64, "what is copied is not what is overwritten");
        self.context.bind()?;
        let (source, target) = (buffer.range(from, bytes), buffer.range(to, bytes));
        // SAFETY: facts 1 to 4: both ranges were checked.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(target, source, bytes, self.handle) };
        self.context.check("copying on the device", result)
    }

    /// Sets every byte of a range.
    pub(crate) fn set(&self, buffer: &Buffer, range: Range<u64>, byte: u8) -> Result<(), CudaError> {
        let bytes = usize::try_from(range.end - range.start).expect("a buffer fits the address space");
        if bytes == 0 {
            return Ok(());
        }
        self.context.bind()?;
        let target = buffer.range(range.start, bytes);
        // SAFETY: facts 1 to 4: the range was checked.
        let result = unsafe { sys::cuMemsetD8Async(target, byte, bytes, self.handle) };
        self.context.check("setting memory", result)
    }

    /// Marks this point.
    pub(crate) fn record(&self, event: &mut Event) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: facts 1 to 3.
        let result = unsafe { sys::cuEventRecord(event.handle, self.handle) };
        self.context.check("marking a point of a stream", result)?;
        event.recorded = true;
        Ok(())
    }

    /// Launches a kernel on a grid of blocks, none of whose sides is 0, and the first of which is a multiple of its clusters'.
    /// Unless it follows (see [`Call`]), it begins when everything before it is done.
    pub(crate) fn launch(&self, call: &Call, [x, y, z]: [u32; 3]) -> Result<(), CudaError> {
        self.context.bind()?;
        let mut arguments = call.arguments();
        let [a, b, c] = call.block;
        let mut attributes = attributes(call);
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: a,
            blockDimY: b,
            blockDimZ: c,
            sharedMemBytes: call.shared,
            hStream: self.handle,
            attrs: attributes.as_mut_ptr(),
            numAttrs: u32::try_from(attributes.len()).expect("there are two at most"),
        };
        // SAFETY: facts 1 to 3. `Call::new` has compared number and sizes of the arguments with what the kernel takes. What
        // the kernel reads and writes lies within buffers that the plan owns or shares: their sizes are what the lowering
        // of the op has asked for, kernels stay within them for any step that `Step::check` lets through, and buffers are
        // freed only behind everything that was enqueued (fact 4). Arguments and attributes are copied before the call
        // returns.
        let result = unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                call.function.handle(),
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        if result == CUresult::CUDA_SUCCESS {
            return Ok(());
        }
        self.context.check(&format!("launching {} on {x} x {y} x {z} blocks", call.function.name()), result)
    }

    /// Records what `enqueue` enqueues, instead of doing it.
    pub(crate) fn capture(
        &self,
        enqueue: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<Graph, CudaError> {
        self.context.bind()?;
        // Only calls of this thread that would wait are refused meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: facts 1 to 3.
        let result = unsafe { sys::cuStreamBeginCapture_v2(self.handle, mode) };
        self.context.check("beginning a capture", result)?;
        let enqueued = enqueue();
        let mut graph = std::ptr::null_mut();
        // SAFETY: facts 1 to 3; writes one handle, which `Graph` owns from here on.
        let result = unsafe { sys::cuStreamEndCapture(self.handle, &raw mut graph) };
        enqueued?;
        self.context.check("ending a capture", result)?;
        Graph::new(&self.context, graph)
    }

    /// Does what was captured.
    pub(crate) fn replay(&self, graph: &Graph) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: facts 1 to 3. For what the kernels of the graph touch, see `launch`: a plan drops its graphs before the
        // memory that they name is freed or moved.
        let result = unsafe { sys::cuGraphLaunch(graph.handle(), self.handle) };
        self.context.check("launching a step", result)
    }
}

/// How a launch is not like most.
fn attributes(call: &Call) -> Vec<sys::CUlaunchAttribute> {
    let attribute = |id, value| sys::CUlaunchAttribute { id, pad: [0; 4], value };
    let follows = call.follows.then(|| {
        attribute(
            sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        )
    });
    // Older devices know of no clusters, not even of one block.
    let cluster = (call.cluster > 1).then(|| {
        let sides = sys::CUlaunchAttributeValue_union__bindgen_ty_1 { x: call.cluster, y: 1, z: 1 };
        attribute(
            sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            sys::CUlaunchAttributeValue { clusterDim: sides },
        )
    });
    follows.into_iter().chain(cluster).collect()
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.finish().is_ok() {
            // SAFETY: facts 1 to 3.
            let result = unsafe { sys::cuStreamDestroy_v2(self.handle) };
            let _ = self.context.check("destroying a stream", result);
        }
    }
}

/// A point of a stream.
#[derive(Debug)]
pub(crate) struct Event {
    context: Arc<Context>,
    handle: sys::CUevent,
    recorded: bool,
}

// SAFETY: an event may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event that nobody has to wait for.
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, CudaError> {
        Self::with(context, sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING)
    }

    /// An event that knows when it was.
    pub(crate) fn timed(context: &Arc<Context>) -> Result<Self, CudaError> {
        Self::with(context, sys::CUevent_flags_enum::CU_EVENT_DEFAULT)
    }

    fn with(context: &Arc<Context>, flags: sys::CUevent_flags_enum) -> Result<Self, CudaError> {
        context.bind()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: facts 1 and 3; writes one handle.
        let result = unsafe { sys::cuEventCreate(&raw mut handle, flags as u32) };
        context.check("making an event", result)?;
        Ok(Self { context: Arc::clone(context), handle, recorded: false })
    }

    /// Waits until the device has come to it.
    pub(crate) fn wait(&self) -> Result<(), CudaError> {
        if !self.recorded {
            return self.context.alive();
        }
        self.context.bind()?;
        // SAFETY: facts 1 to 3.
        self.context.check("a step", unsafe { sys::cuEventSynchronize(self.handle) })
    }

    /// Milliseconds from `start` to this one, both over; `None` if the driver is too old to say.
    pub(crate) fn since(&self, start: &Event) -> Result<Option<f64>, CudaError> {
        if !symbols::driver_has("cuEventElapsedTime_v2") {
            return Ok(None);
        }
        self.context.bind()?;
        let mut milliseconds = 0.0f32;
        // SAFETY: facts 1 (checked above) to 3; writes one number.
        let result = unsafe { sys::cuEventElapsedTime_v2(&raw mut milliseconds, start.handle, self.handle) };
        self.context.check("timing", result)?;
        Ok(Some(milliseconds.into()))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.context.bind().is_ok() {
            // SAFETY: facts 1 to 3; an event that is still ahead is destroyed when the device has come to it.
            let result = unsafe { sys::cuEventDestroy_v2(self.handle) };
            let _ = self.context.check("destroying an event", result);
        }
    }
}
