//! What the assembler says of kernels.

/// What a kernel takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelReport {
    /// Name of the entry point.
    pub entry: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Local memory of a thread, in bytes.
    pub stack: u32,
    /// Bytes that registers are written to memory and read back with, for want of more of them.
    pub spilled: u32,
    /// Shared memory of a block that its source declares, in bytes.
    pub shared: u32,
}

/// Reads what `ptxas -v` writes.
pub(super) fn parse(log: &str) -> Vec<KernelReport> {
    let mut kernels: Vec<KernelReport> = Vec::new();
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let entry = rest.split('\'').next().unwrap_or_default().to_owned();
            kernels.push(KernelReport { entry, ..KernelReport::default() });
        }
        let Some(kernel) = kernels.last_mut() else { continue };
        if let Some(bytes) = before(line, " bytes stack frame") {
            kernel.stack += bytes;
        }
        for spill in [" bytes spill stores", " bytes spill loads"] {
            kernel.spilled += before(line, spill).unwrap_or(0);
        }
        kernel.registers = before(line, " registers").unwrap_or(kernel.registers);
        kernel.shared = before(line, " bytes smem").unwrap_or(kernel.shared);
    }
    kernels
}

/// The number in front of `what`.
fn before(line: &str, what: &str) -> Option<u32> {
    let (start, _) = line.split_once(what)?;
    let digits = start.rsplit(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'linear__tile' for 'sm_86'
ptxas info    : Function properties for linear__tile
    16 bytes stack frame, 24 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 49152 bytes smem, 432 bytes cmem[0]
ptxas info    : Compile time = 2.310 ms
ptxas info    : Compiling entry function 'linear' for 'sm_86'
ptxas info    : Function properties for linear
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 40 registers, 372 bytes cmem[0]
";

    #[test]
    fn every_kernel_of_a_log_is_read() {
        let kernel = |entry: &str, registers, stack, spilled, shared| KernelReport {
            entry: entry.to_owned(),
            registers,
            stack,
            spilled,
            shared,
        };
        assert_eq!(
            parse(LOG),
            [kernel("linear__tile", 255, 16, 56, 49152), kernel("linear", 40, 0, 0, 0)]
        );
        assert_eq!(parse(""), []);
    }
}
