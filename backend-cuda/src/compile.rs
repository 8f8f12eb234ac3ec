//! From units to code: the compiler, and what it made before.
//!
//! Code is made for the architecture of the device, or, below an [`Options::arch_limit`](crate::Options), as the PTX of an
//! older one that the driver translates. What was made is kept on disk under a key of everything that it depends on.

mod cache;
mod report;

use std::fmt;
use std::hash::Hash;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use crate::driver::nvrtc::{self, Output, Source};
use crate::driver::symbols;
use crate::error::CudaError;
use crate::kernels::Unit;

pub use cache::Folder;
pub(crate) use cache::{Cache, Key};
pub use report::KernelReport;

/// A compute capability, such as 86 of an RTX 3090: `sm_86`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Arch(u32);

impl Arch {
    /// What kernels are written to.
    pub const LEAST: Self = Self(80);
    /// From here on kernels can wait for the one before them.
    const FOLLOWS: Self = Self(90);
    /// From here on blocks may be clusters.
    const CLUSTERS: Self = Self(90);

    /// The one of a device.
    pub(crate) fn of((major, minor): (u32, u32)) -> Self {
        Self(10 * major + minor)
    }

    /// Whether a multiprocessor has more than 100 KB of shared memory: `LARGE_SHARED` of `kernels/common/product_feed.cuh`.
    pub(crate) fn has_large_shared_memory(self) -> bool {
        matches!(self.0, 80 | 87 | 90..120)
    }

    /// Shared memory that a block may have, in bytes.
    pub(crate) fn block_memory(self) -> u32 {
        match self.0 {
            80 | 87 => 163 << 10,
            90..120 => 227 << 10,
            _ => 99 << 10,
        }
    }

    /// Blocks that a multiprocessor has at once of a long product, whose memory is `OF_16` of `kernels/common/product_feed.cuh`.
    pub(crate) fn product_blocks(self) -> u32 {
        // The 164 KB of these are large, and less than three times `OF_16`.
        if self.has_large_shared_memory() && !matches!(self.0, 80 | 87) { 3 } else { 2 }
    }

    /// Whether there are clusters of blocks, of up to eight.
    pub(crate) fn has_clusters(self) -> bool {
        self >= Self::CLUSTERS
    }

    /// The name of its machine code. Of 9.0 there is one with more instructions, which run on 9.0 alone.
    fn machine(self) -> String {
        if self.0 == 90 { "sm_90a".to_owned() } else { format!("sm_{}", self.0) }
    }

    /// The name of its PTX, which newer devices run too.
    fn ptx(self) -> String {
        format!("compute_{}", self.0)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("sm_{}", self.0))
    }
}

impl FromStr for Arch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("sm_").or_else(|| text.strip_prefix("compute_")).unwrap_or(text);
        let plain = digits.replacen('.', "", 1);
        let number = plain.strip_suffix('a').unwrap_or(&plain).parse::<u32>();
        match number {
            Ok(number @ 80..=999) => Ok(Self(number)),
            _ => {
                Err(format!("`{text}` is no architecture that kernels run on, such as sm_80, sm_86 or sm_90"))
            }
        }
    }
}

/// What code is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    arch: Arch,
    /// `sm_86`, `sm_90a`, `compute_86`.
    name: String,
    output: Output,
}

impl Target {
    /// What a device runs that may do no more than `limit`, with a compiler that knows `known` architectures.
    pub(crate) fn choose(device: Arch, limit: Option<Arch>, known: &[u32]) -> Result<Self, CudaError> {
        let older = |most: Arch| known.iter().copied().map(Arch).filter(|arch| *arch <= most).max();
        match limit.filter(|&limit| limit < device) {
            None if known.contains(&device.0) => Ok(Self::machine(device)),
            None => older(device).filter(|arch| *arch >= Arch::LEAST).map(Self::ptx).ok_or_else(|| {
                CudaError::Option {
                    option: "this GPU is of architecture",
                    got: device.to_string(),
                    reason: "the NVRTC of this machine does not know it; install a newer one".to_owned(),
                }
            }),
            Some(limit) if limit >= Arch::LEAST && known.contains(&limit.0) => Ok(Self::ptx(limit)),
            Some(limit) => Err(CudaError::Option {
                option: "--arch-limit",
                got: limit.to_string(),
                reason: format!(
                    "kernels need sm_80, and the NVRTC of this machine knows {}",
                    known.iter().map(|number| format!("sm_{number}")).collect::<Vec<_>>().join(" ")
                ),
            }),
        }
    }

    fn machine(arch: Arch) -> Self {
        Self { arch, name: arch.machine(), output: Output::Machine }
    }

    fn ptx(arch: Arch) -> Self {
        Self { arch, name: arch.ptx(), output: Output::Ptx }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Hears how many units of a plan are ready, out of all that were not before.
#[derive(Clone)]
pub struct Progress(Arc<ProgressFn>);

type ProgressFn = dyn Fn(usize, usize) + Send + Sync;

impl Progress {
    /// Calls `hear` with units done and units in all, from any thread.
    pub fn new(hear: impl Fn(usize, usize) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// Makes code for one device.
#[derive(Debug)]
pub(crate) struct Compiler {
    target: Target,
    /// Version of NVRTC.
    version: (u32, u32),
    cache: Option<Cache>,
    progress: Option<Progress>,
}

/// Stack of a thread that compiles, in bytes: the compiler walks expressions recursively.
const STACK: usize = 16 << 20;

impl Compiler {
    /// A compiler for a device of architecture `device`, whose driver is for CUDA `driver`.
    ///
    /// # Errors
    ///
    /// If there is no NVRTC, or it does not fit the device or the driver.
    pub(crate) fn new(
        device: Arch,
        limit: Option<Arch>,
        driver: (u32, u32),
        folder: &Folder,
        progress: Option<Progress>,
    ) -> Result<Self, CudaError> {
        let version = nvrtc::version()?;
        // Within a major version a driver loads what newer compilers make.
        if driver.0 < version.0 {
            return Err(CudaError::OlderThanCompiler {
                driver: symbols::version(driver),
                compiler: symbols::version(version),
                package: symbols::package(Some(driver.0)),
            });
        }
        let target = Target::choose(device, limit, &nvrtc::architectures()?)?;
        Ok(Self { target, version, cache: Cache::open(folder), progress })
    }

    /// Whether kernels wait for the one before them themselves: `follow` of `kernels/common/chain.cuh`.
    pub(crate) fn follows(&self) -> bool {
        self.target.arch >= Arch::FOLLOWS
    }

    /// What code is made for: perhaps something older than the device, where NVRTC does not know that.
    pub(crate) fn arch(&self) -> Arch {
        self.target.arch
    }

    /// Whether blocks may be clusters: `CLUSTERS` of `kernels/common/cluster.cuh`.
    pub(crate) fn clusters(&self) -> bool {
        self.target.arch.has_clusters() && self.version >= (12, 1)
    }

    /// What code is made for, and by which NVRTC.
    pub(crate) fn title(&self) -> String {
        format!("{} by NVRTC {}", self.target, symbols::version(self.version))
    }

    /// Makes code of several units at once, and gives each to `load`, from several threads.
    pub(crate) fn each<T: Send>(
        &self,
        units: &[Unit],
        load: impl Fn(&Unit, Vec<u8>) -> Result<T, CudaError> + Sync,
    ) -> Result<Vec<T>, CudaError> {
        let done = AtomicUsize::new(0);
        let hear = |done| {
            if let Some(Progress(hear)) = &self.progress {
                hear(done, units.len());
            }
        };
        let one = |unit: &Unit| {
            let loaded = load(unit, self.code(unit)?)?;
            hear(done.fetch_add(1, Ordering::Relaxed) + 1);
            Ok(loaded)
        };
        if let [unit] = units {
            return Ok(vec![one(unit)?]);
        }
        hear(0);
        let pool = rayon::ThreadPoolBuilder::new().stack_size(STACK).build();
        let pool = pool.map_err(|error| CudaError::Lost(format!("no threads to compile with: {error}")))?;
        let loaded = pool.install(|| units.par_iter().map(one).collect());
        if let Some(cache) = &self.cache {
            cache.prune();
        }
        loaded
    }

    /// Code of a unit, from the cache or made anew.
    fn code(&self, unit: &Unit) -> Result<Vec<u8>, CudaError> {
        let key = key(unit, &self.target, self.version);
        if let Some(image) = self.cache.as_ref().and_then(|cache| cache.load(key)) {
            return Ok(image);
        }
        let image = make(unit, &self.target, &[])?.image;
        if let Some(cache) = &self.cache {
            cache.store(key, &image);
        }
        Ok(image)
    }
}

/// What every unit is compiled with.
///
/// No contraction to fused multiply-adds but where a kernel says `fmaf`: the compiler would contract in one
/// instantiation and not in another, and a row would have other bits in other company.
fn options(unit: &Unit, target: &Target) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture={}", target.name),
        "--std=c++17".to_owned(),
        "--fmad=false".to_owned(),
        "--no-source-include".to_owned(),
    ];
    options.extend(unit.defines.iter().map(|(name, value)| format!("-D{name}={value}")));
    options
}

fn key(unit: &Unit, target: &Target, version: (u32, u32)) -> Key {
    Key::of(|hasher| {
        (unit.file, unit.text(), unit.headers(), options(unit, target)).hash(hasher);
        (version, target.output).hash(hasher);
    })
}

fn make(unit: &Unit, target: &Target, more: &[&str]) -> Result<nvrtc::Compiled, CudaError> {
    let mut options = options(unit, target);
    options.extend(more.iter().map(|&option| option.to_owned()));
    let name = format!("{}.cu", unit.file);
    let source = Source { name: &name, text: unit.text(), headers: &unit.headers(), options: &options };
    nvrtc::compile(&source, target.output)?.map_err(|log| CudaError::Compile {
        unit: unit.to_string(),
        arch: target.to_string(),
        message: first_error(&log),
    })
}

/// The first error of a log, with the lines that explain it.
fn first_error(log: &str) -> String {
    let error = log.lines().position(|line| line.contains("error")).unwrap_or(0);
    let lines: Vec<&str> =
        log.lines().skip(error).take_while(|line| !line.trim().is_empty()).take(8).collect();
    if lines.is_empty() { "the compiler does not say why".to_owned() } else { lines.join("\n") }
}

/// Compiles a unit to machine code and says what its kernels take: for checks on machines without a GPU.
///
/// # Errors
///
/// If there is no NVRTC, or the unit does not compile.
pub fn report(unit: &Unit, arch: Arch) -> Result<Vec<KernelReport>, CudaError> {
    // For a real architecture there is machine code too, so the assembler has run and said what it thinks.
    let target = Target { output: Output::Ptx, ..Target::machine(arch) };
    let compiled = make(unit, &target, &["--ptxas-options=-v", "-DREPORT"])?;
    Ok(report::parse(&compiled.log, &String::from_utf8_lossy(&compiled.image)))
}

/// The version of the NVRTC of this machine.
///
/// # Errors
///
/// If there is none.
pub fn compiler_version() -> Result<String, CudaError> {
    Ok(symbols::version(nvrtc::version()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [u32; 7] = [75, 80, 86, 89, 90, 100, 120];

    fn target(device: u32, limit: Option<u32>) -> Result<String, String> {
        let chosen = Target::choose(Arch(device), limit.map(Arch), &KNOWN);
        chosen.map(|target| target.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn code_is_for_the_device_or_ptx_of_something_older() {
        let rows: [(u32, Option<u32>, &str); 7] = [
            (86, None, "sm_86"),
            (90, None, "sm_90a"),
            (90, Some(86), "compute_86"),
            (86, Some(86), "sm_86"),
            (80, Some(86), "sm_80"),
            // Newer than the compiler.
            (121, None, "compute_120"),
            (88, None, "compute_86"),
        ];
        for (device, limit, want) in rows {
            assert_eq!(target(device, limit).as_deref(), Ok(want), "{device} {limit:?}");
        }
        // Sizes of memory follow from what code is for, and not from the device.
        let older = Target::choose(Arch(120), None, &[80, 86, 90]).expect("there is something older");
        assert_eq!((older.arch, older.name.as_str()), (Arch(90), "compute_90"));
        let error = target(90, Some(87)).unwrap_err();
        assert!(error.contains("--arch-limit sm_87") && error.contains("sm_86 sm_89"), "{error}");
    }

    #[test]
    fn architectures_are_read_in_every_spelling() {
        for text in ["sm_86", "compute_86", "86", "8.6"] {
            assert_eq!(text.parse(), Ok(Arch(86)));
        }
        assert_eq!("sm_90a".parse(), Ok(Arch(90)));
        for text in ["", "sm_75", "sm_", "ampere", "7.5"] {
            assert!(text.parse::<Arch>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_key_changes_with_everything_that_the_code_depends_on() {
        let unit = Unit::new("bandwidth");
        let target = |arch| Target::machine(Arch(arch));
        let keys = [
            key(&unit, &target(86), (13, 0)),
            key(&unit, &target(89), (13, 0)),
            key(&unit, &Target::ptx(Arch(86)), (13, 0)),
            key(&unit, &target(86), (13, 1)),
            key(&unit.clone().with("A", "1"), &target(86), (13, 0)),
            key(&unit.clone().with("A", "2"), &target(86), (13, 0)),
        ];
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[..at].contains(key), "{at}");
        }
        assert_eq!(keys[0], key(&unit, &target(86), (13, 0)));
    }

    #[test]
    fn only_the_first_error_is_shown() {
        let log = "a.cu(3): warning #177-D: never used\n\na.cu(7): error: identifier \"x\" is undefined\n    x;\n    ^\n\n\
                   a.cu(9): error: another\n\n2 errors detected\n";
        assert_eq!(first_error(log), "a.cu(7): error: identifier \"x\" is undefined\n    x;\n    ^");
        assert_eq!(first_error(""), "the compiler does not say why");
    }
}
