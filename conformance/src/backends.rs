//! Which backends a test run covers, in one place.
//!
//! Every property runs on every backend that this machine has, through [`on_every_backend`](crate::on_every_backend).
//! A device that is missing is a line of output, and a failure where `REQUIRE_BACKENDS` names it:
//!
//! ```text
//! REQUIRE_BACKENDS=cpu,wgpu cargo test
//! ```
//!
//! `cpu` (or `reference`) is the reference; `wgpu` is the adapter that `--device` would take without being told, both
//! with every shader variant it has (`wgpu`) and with core features alone (`wgpu-core`); `cuda` is the best GPU of the
//! CUDA driver, with the kernels that an RTX 3090 would run, unless `CUDA_ARCH_LIMIT` says another architecture, or
//! `native`. Products are exact to `f32`, unless `GPU_PRODUCTS=fast` says those that users have (on `wgpu`, those that users with
//! a fast GPU have): properties that are about bits hold for both, but goldens are held against the bounds of `f32`.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write as _;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use gemma4_core::reference::Reference;
use gemma4_cuda::{Arch, Cuda, CudaError};
use gemma4_wgpu::{Options, Variants, Wgpu};

use crate::known::{self, KNOWN};

/// The variable that names the backends that must be there.
pub const REQUIRE: &str = "REQUIRE_BACKENDS";

/// The variable that names the only backends to run on; without it, all that are there.
pub const ONLY: &str = "ONLY_BACKENDS";

/// A backend that tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// The reference.
    Cpu,
    /// A GPU with all shader variants.
    Wgpu,
    /// The same with core features alone.
    WgpuCore,
    /// An NVIDIA GPU through CUDA.
    Cuda,
}

impl Name {
    /// Every backend.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Wgpu, Self::WgpuCore, Self::Cuda];
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "cpu",
            Self::Wgpu => "wgpu",
            Self::WgpuCore => "wgpu-core",
            Self::Cuda => "cuda",
        })
    }
}

/// How much a test asks of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Everything.
    Full,
    /// As much as a driver does in seconds that runs shaders on a processor.
    Short,
}

/// An opened device.
#[derive(Debug)]
pub enum Device {
    /// The reference needs none.
    Cpu,
    /// A GPU. Clones share it.
    Wgpu(Wgpu),
    /// The same through CUDA.
    Cuda(Cuda),
}

/// A backend that this run covers.
#[derive(Debug)]
pub struct Covered {
    /// Which.
    pub name: Name,
    /// Its device.
    pub device: Device,
    /// What tests ask of it.
    pub effort: Effort,
    /// Adapter, driver and shader variants, for people.
    pub title: String,
}

impl Covered {
    /// `full`, or `short` where the device is a driver that computes on the processor.
    pub fn pick<T>(&self, full: T, short: T) -> T {
        match self.effort {
            Effort::Full => full,
            Effort::Short => short,
        }
    }

    /// Whether number `n` of many runs of one property is for this backend: each is, but the two devices of a driver that
    /// computes on the processor share them. They differ in how lanes add up, which every op, model and property shows.
    #[must_use]
    pub fn takes(&self, n: usize) -> bool {
        match (self.effort, self.name) {
            (Effort::Short, Name::Wgpu) => n.is_multiple_of(2),
            (Effort::Short, Name::WgpuCore) => !n.is_multiple_of(2),
            _ => true,
        }
    }

    /// Keeps other tests from this backend's device, and on a GPU from the GPU: two at once gain nothing there, and neither
    /// do two on one device of a driver that computes on the processor. Two devices of such a driver do, for it leaves
    /// cores idle between dispatches, and where a dispatch is small. The reference takes turns by itself.
    #[must_use]
    pub fn turn(&self) -> Option<MutexGuard<'static, ()>> {
        static GPU: Mutex<()> = Mutex::new(());
        static SOFTWARE_CORE: Mutex<()> = Mutex::new(());
        let turn = match (self.name, self.effort) {
            (Name::Cpu, _) => return None,
            (Name::WgpuCore, Effort::Short) => &SOFTWARE_CORE,
            _ => &GPU,
        };
        // A test that panicked says so itself.
        Some(turn.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says what came out of a property on this backend, in the light of [the known failures](crate::known).
    ///
    /// # Panics
    ///
    /// If it does not hold and should, or holds and should not, or nothing was compared.
    pub fn holds<E: std::error::Error>(&self, what: &str, result: Result<usize, E>) {
        if let Some(comparisons) = self.judge(what, result) {
            self.report(what, comparisons);
        }
    }

    /// The value of a result; `None` if its failure is known.
    ///
    /// # Panics
    ///
    /// If it is a failure that is not known, or a success of something that is.
    pub fn judge<T, E: std::error::Error>(&self, what: &str, result: Result<T, E>) -> Option<T> {
        let judged = known::judge(KNOWN, (self.name, &self.title), what, result);
        let value = judged.unwrap_or_else(|text| panic!("{text}"));
        if value.is_none() {
            say(format_args!("{LINE}{}: {what}: fails as it is known to", self.name));
        }
        value
    }

    /// Says how many values a test compared on this backend.
    ///
    /// # Panics
    ///
    /// If there were none: a test that compares nothing shows nothing.
    pub fn report(&self, what: impl fmt::Display, comparisons: usize) {
        self.report_with(what, comparisons, "");
    }

    /// The same, and something more, such as the share of a bound.
    ///
    /// # Panics
    ///
    /// If there were none.
    pub fn report_with(&self, what: impl fmt::Display, comparisons: usize, more: &str) {
        let comma = if more.is_empty() { "" } else { ", " };
        say(format_args!("{LINE}{}: {what}: {comparisons} comparisons{comma}{more}", self.name));
        assert!(comparisons > 0, "{}: {what}: nothing was compared", self.name);
    }
}

/// How lines begin that say what was compared; `cargo xtask check` adds them up.
pub const LINE: &str = "conformance: ";

/// Writes a line past the test harness, which swallows what passing tests print: what was skipped and how much was
/// compared is for everyone to see.
pub fn say(line: impl fmt::Display) {
    let text = format!("{line}\n");
    // A closed pipe is no reason to fail a test.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Reads the list of required backends; `wgpu` means it with and without variants.
///
/// # Errors
///
/// One sentence about a name that is none.
pub fn required(list: Option<&str>) -> Result<BTreeSet<Name>, String> {
    let mut names = BTreeSet::new();
    for name in list.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match name {
            "cpu" | "reference" => names.extend([Name::Cpu]),
            "wgpu" => names.extend([Name::Wgpu, Name::WgpuCore]),
            "wgpu-core" => names.extend([Name::WgpuCore]),
            "cuda" => names.extend([Name::Cuda]),
            other => {
                return Err(format!(
                    "{ONLY} or {REQUIRE} names `{other}`; there are cpu (or reference), wgpu, wgpu-core and cuda"
                ));
            }
        }
    }
    Ok(names)
}

/// What is left of the backends that were tried, and what to say about the others.
///
/// # Errors
///
/// A required backend that is missing, or nothing at all to run on.
fn cover<T>(
    required: &BTreeSet<Name>,
    tried: Vec<(Name, Result<T, String>)>,
) -> Result<(Vec<T>, Vec<String>), String> {
    let (mut there, mut skipped) = (Vec::new(), Vec::new());
    for (name, result) in tried {
        match result {
            Ok(backend) => there.push(backend),
            Err(reason) if required.contains(&name) => {
                return Err(format!("{name} is required by {REQUIRE} but not there: {reason}"));
            }
            Err(reason) => skipped.push(format!("{LINE}skipped: {name}: {reason}")),
        }
    }
    if there.is_empty() { Err("there is no backend to run on".to_owned()) } else { Ok((there, skipped)) }
}

/// Options that every test opens a GPU with: whatever a shader should have written and did not is NaN.
#[must_use]
pub fn options(allow: Variants) -> Options {
    Options { allow, poison: true, ..Options::default() }
}

/// Opens a GPU.
///
/// # Errors
///
/// Why not.
pub fn open(name: Name, options: &Options) -> Result<Covered, String> {
    let wgpu = Wgpu::new(options).map_err(|error| match error {
        gemma4_wgpu::WgpuError::NoAdapter { .. } => format!("no adapter ({error})"),
        other => other.to_string(),
    })?;
    let effort = if wgpu.adapter().is_software() { Effort::Short } else { Effort::Full };
    Ok(Covered { name, effort, title: title(&wgpu), device: Device::Wgpu(wgpu) })
}

/// Adapter, driver and shader variants in use.
#[must_use]
pub fn title(wgpu: &Wgpu) -> String {
    let (adapter, on) = (wgpu.adapter(), wgpu.variants());
    let variants: Vec<&str> = [(on.f16, "f16"), (on.subgroups, "subgroups"), (on.int8, "int8")]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
        .collect();
    let variants = if variants.is_empty() { "none".to_owned() } else { variants.join(" ") };
    let (driver, version) = (&adapter.info.driver, &adapter.info.driver_info);
    format!("{}, driver {driver} {version}, variants: {variants}", adapter.title())
}

/// The variable that names the architecture that CUDA kernels are compiled for: `sm_86` if it is not set, and that of the
/// device if it is `native`.
pub const ARCH_LIMIT: &str = "CUDA_ARCH_LIMIT";

/// The variable that says which products GPUs have: `exact`, as if it were not set, or `fast`.
pub const PRODUCTS: &str = "GPU_PRODUCTS";

/// Reads which products GPUs have: whether they are exact to `f32`.
///
/// # Errors
///
/// One sentence about what is neither.
pub fn exact_products(text: Option<&str>) -> Result<bool, String> {
    match text {
        None | Some("exact") => Ok(true),
        Some("fast") => Ok(false),
        Some(other) => Err(format!("there are `exact` and `fast` products, not `{other}`")),
    }
}

/// What [`PRODUCTS`] says.
fn are_exact() -> Result<bool, String> {
    exact_products(std::env::var(PRODUCTS).ok().as_deref()).map_err(|error| format!("{PRODUCTS}: {error}"))
}

/// Variants of [`Name::Wgpu`].
fn variants() -> Result<Variants, String> {
    Ok(Variants { int8: !are_exact()?, ..Variants::EXACT })
}

/// Reads an architecture, or `native`, which is none.
///
/// # Errors
///
/// One sentence about a name that is none.
pub fn arch_limit(text: Option<&str>) -> Result<Option<Arch>, String> {
    match text {
        Some("native") => Ok(None),
        text => text.unwrap_or("sm_86").parse().map(Some),
    }
}

/// Options that every test opens a CUDA device with: NaN where a kernel should have written and did not.
///
/// # Errors
///
/// If the variable [`ARCH_LIMIT`] or [`PRODUCTS`] is not understood.
pub fn cuda_options() -> Result<gemma4_cuda::Options, String> {
    let arch_limit = arch_limit(std::env::var(ARCH_LIMIT).ok().as_deref())
        .map_err(|error| format!("{ARCH_LIMIT}: {error}"))?;
    let exact = are_exact()?;
    Ok(gemma4_cuda::Options { arch_limit, exact, poison: true, ..gemma4_cuda::Options::default() })
}

/// Opens an NVIDIA GPU through CUDA.
///
/// # Errors
///
/// Why not.
pub fn open_cuda(options: &gemma4_cuda::Options) -> Result<Covered, String> {
    let cuda = Cuda::new(options).map_err(|error: CudaError| error.to_string())?;
    Ok(Covered {
        name: Name::Cuda,
        effort: Effort::Full,
        title: cuda_title(&cuda),
        device: Device::Cuda(cuda),
    })
}

/// Device, driver and architecture in use.
#[must_use]
pub fn cuda_title(cuda: &Cuda) -> String {
    let report = cuda.report();
    format!("{}, driver for {}, kernels for {}", report.title(), report.driver, cuda.features().join(", "))
}

fn cpu() -> Covered {
    Covered { name: Name::Cpu, device: Device::Cpu, effort: Effort::Full, title: "the reference".to_owned() }
}

static COVERED: LazyLock<Result<Vec<Covered>, String>> = LazyLock::new(|| {
    let [only, required] = [ONLY, REQUIRE].map(|list| required(std::env::var(list).ok().as_deref()));
    let (only, required) = (only?, required?);
    let tried = Name::ALL.map(|name| {
        let result = match name {
            _ if !only.is_empty() && !only.contains(&name) => Err(format!("{ONLY} leaves it out")),
            Name::Cpu => Ok(cpu()),
            Name::Wgpu => variants().and_then(|allow| open(name, &options(allow))),
            Name::WgpuCore => open(name, &options(Variants::CORE)),
            Name::Cuda => cuda_options().and_then(|options| open_cuda(&options)),
        };
        (name, result)
    });
    let (covered, skipped) = cover(&required, tried.into())?;
    for line in &skipped {
        say(line);
    }
    for covered in &covered {
        say(format_args!("{LINE}{}: {}", covered.name, covered.title));
    }
    Ok(covered)
});

/// The backends of this run, opened once.
///
/// # Panics
///
/// If a required one is missing, `REQUIRE_BACKENDS` is not understood, or there is none.
#[must_use]
pub fn covered() -> &'static [Covered] {
    COVERED.as_deref().unwrap_or_else(|reason| panic!("{reason}"))
}

/// A reference on one thread: tests run side by side, and sums are the same on any number.
///
/// # Panics
///
/// If no thread can be started.
#[must_use]
pub fn reference() -> Reference {
    Reference::new(Some(1)).expect("threads can be started")
}

/// Runs the same code for every backend of this run: `on_every_backend!(|at, new| { ... })`, where `at` is the
/// [`Covered`] and `new()` gives the backend.
#[macro_export]
macro_rules! on_every_backend {
    (|$at:pat_param, $new:pat_param| $body:expr) => {
        for at in $crate::backends::covered() {
            let turn = at.turn();
            let $at = at;
            match &at.device {
                $crate::backends::Device::Cpu => {
                    let $new = $crate::backends::reference;
                    $body
                }
                $crate::backends::Device::Wgpu(wgpu) => {
                    let $new = || wgpu.clone();
                    $body
                }
                $crate::backends::Device::Cuda(cuda) => {
                    let $new = || cuda.clone();
                    $body
                }
            }
            drop(turn);
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_backends_are_named_or_refused() {
        let names = |list| required(list).map(|names| names.into_iter().collect::<Vec<_>>());
        assert_eq!(names(None), Ok(vec![]));
        assert_eq!(names(Some("")), Ok(vec![]));
        assert_eq!(names(Some(" reference , wgpu")), Ok(Name::ALL[..3].to_vec()));
        assert_eq!(names(Some("wgpu-core")), Ok(vec![Name::WgpuCore]));
        assert_eq!(names(Some("cpu,cuda")), Ok(vec![Name::Cpu, Name::Cuda]));
        let error = names(Some("cpu,metal")).expect_err("there is no such backend");
        assert!(error.contains("`metal`"), "{error}");
    }

    #[test]
    fn kernels_are_those_of_an_rtx_3090_unless_another_architecture_is_named() {
        assert_eq!(arch_limit(None), "sm_86".parse().map(Some));
        assert_eq!(arch_limit(Some("sm_80")), "sm_80".parse().map(Some));
        assert_eq!(arch_limit(Some("native")), Ok(None));
        assert!(arch_limit(Some("best")).is_err());
    }

    #[test]
    fn products_are_exact_unless_others_are_named() {
        let read = [None, Some("exact"), Some("fast")].map(exact_products);
        assert_eq!(read, [Ok(true), Ok(true), Ok(false)]);
        assert!(exact_products(Some("1")).is_err());
    }

    #[test]
    fn a_missing_backend_is_said_and_fails_where_it_is_required() {
        let tried = || vec![(Name::Cpu, Ok(1)), (Name::Wgpu, Err("no adapter (none)".to_owned()))];
        let (there, skipped) = cover(&required(Some("cpu")).expect("names"), tried()).expect("cpu is there");
        assert_eq!(
            (there, skipped),
            (vec![1], vec!["conformance: skipped: wgpu: no adapter (none)".to_owned()])
        );
        let error = cover(&required(Some("wgpu")).expect("names"), tried()).expect_err("wgpu is not");
        assert!(error.starts_with("wgpu is required"), "{error}");
    }

    #[test]
    fn no_backend_is_a_failure() {
        let tried: Vec<(Name, Result<(), _>)> = vec![(Name::Wgpu, Err("gone".to_owned()))];
        assert!(cover(&BTreeSet::new(), tried).is_err());
        assert!(cover::<()>(&BTreeSet::new(), vec![]).is_err());
    }
}
