//! How fast the device reads its memory: what kernels are compared with.

use gemma4_core::abi::BandwidthParams;

use crate::device::Device;
use crate::driver::{Buffer, Call, Event};
use crate::error::CudaError;
use crate::kernels::Unit;

/// File of the kernel.
pub(crate) const FILE: &str = "bandwidth";
/// Threads of a block.
const THREADS: u32 = 512;
/// Blocks for each multiprocessor: as many as fit.
const BLOCKS: u32 = 4;
/// Bytes that are read at once, where so many are free; far more than caches hold.
const BYTES: u64 = 1 << 30;
/// Runs of which the fastest counts.
const RUNS: usize = 8;

/// Bytes a second that a kernel reads that does nothing else; `None` if the driver is too old to time one.
pub(crate) fn measure(device: &Device) -> Result<Option<f64>, CudaError> {
    let free = device.context.memory()?.free;
    let bytes = BYTES.min(free / 2).next_multiple_of(256);
    let memory = device.zeroed("memory to read", bytes)?;
    let sink = device.zeroed("a number", 4)?;
    let module = device.modules(&[Unit::new(FILE)])?.remove(0);
    let quads = u32::try_from(memory.bytes() / 16).expect("a gibibyte has fewer");
    let address = |buffer: &Buffer| buffer.address().to_ne_bytes().to_vec();
    let params = bytemuck::bytes_of(&BandwidthParams { quads }).to_vec();
    let arguments = [address(&memory), address(&sink), params];
    let call = Call::new(module.function(FILE)?, &arguments, [THREADS, 1, 1], 0, false)?;
    let grid = [device.info.multiprocessors.max(1) * BLOCKS, 1, 1];
    let (mut start, mut end) = (Event::timed(&device.context)?, Event::timed(&device.context)?);
    let mut best: Option<f64> = None;
    for _ in 0..RUNS {
        device.stream.record(&mut start)?;
        device.stream.launch(&call, grid)?;
        device.stream.record(&mut end)?;
        end.wait()?;
        let Some(milliseconds) = end.since(&start)? else { return Ok(None) };
        let rate = memory.bytes() as f64 / (milliseconds * 1e-3);
        best = Some(best.map_or(rate, |best| best.max(rate)));
    }
    Ok(best.filter(|rate| rate.is_finite()))
}
