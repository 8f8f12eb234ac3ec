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
    /// Dynamic shared memory of a block that its source counts on, in bytes, where that says so (`kernels/common/takes.cuh`).
    pub dynamic: Option<u32>,
    /// Bytes of each parameter.
    pub parameters: Vec<usize>,
}

/// Reads what `ptxas -v` writes, and the parameters from the PTX that it read.
pub(super) fn parse(log: &str, ptx: &str) -> Vec<KernelReport> {
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
    for kernel in &mut kernels {
        kernel.parameters = parameters(ptx, &kernel.entry);
        kernel.dynamic = dynamic(ptx, &kernel.entry);
    }
    kernels
}

/// Bytes of each parameter of an entry point, which PTX declares as `.param .u64 name` or `.param .align 4 .b8 name[12]`.
fn parameters(ptx: &str, entry: &str) -> Vec<usize> {
    let start = format!(".entry {entry}(");
    let declared = ptx.split_once(&start).and_then(|(_, rest)| rest.split_once(')'));
    let Some((declared, _)) = declared else { return Vec::new() };
    let bytes = |parameter: &str| {
        if let Some((_, count)) = parameter.split_once('[') {
            return count.split(']').next()?.parse().ok();
        }
        let scalar =
            |word: &str| word.strip_prefix(['.'])?.strip_prefix(['u', 's', 'f', 'b'])?.parse::<usize>().ok();
        parameter.split_whitespace().find_map(scalar).map(|bits| bits / 8)
    };
    declared.split(',').filter(|parameter| parameter.contains(".param")).filter_map(bytes).collect()
}

/// The number that stands behind the name of a kernel's variable.
fn dynamic(ptx: &str, entry: &str) -> Option<u32> {
    let (_, value) = ptx.split_once(&format!(" {entry}__shared = "))?;
    value.split(';').next()?.trim().parse().ok()
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

    const PTX: &str = "\
.visible .global .align 4 .u32 linear__shared = 42496;
.visible .entry linear(
	.param .u64 .ptr .align 1 linear_param_0,
	.param .align 8 .b8 linear_param_1[24],
	.param .u32 linear_param_2,
	.param .f32 linear_param_3
)
.maxntid 256, 1, 1
{
	ld.param.u64 %rd1, [linear_param_0];
}
";

    #[test]
    fn every_kernel_of_a_log_is_read() {
        let kernel = |entry: &str, registers, stack, spilled, shared| KernelReport {
            entry: entry.to_owned(),
            registers,
            stack,
            spilled,
            shared,
            dynamic: None,
            parameters: Vec::new(),
        };
        let mut kernels = [kernel("linear__tile", 255, 16, 56, 49152), kernel("linear", 40, 0, 0, 0)];
        kernels[1].parameters = vec![8, 24, 4, 4];
        kernels[1].dynamic = Some(42496);
        assert_eq!(parse(LOG, PTX), kernels);
        assert_eq!(parse("", PTX), []);
    }
}
