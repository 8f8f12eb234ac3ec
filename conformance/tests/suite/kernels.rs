//! Every CUDA kernel compiles to machine code that a 24 GB card can run, on a machine without a GPU.
//!
//! Needs NVRTC (`pip install nvidia-cuda-nvrtc`, or a CUDA toolkit). Without it this is a visible skip, and a failure where
//! `REQUIRE_NVRTC=1` is set, as CI does. `KERNEL_ARCHS=sm_86,sm_90` compiles really every unit, for these architectures.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Instant;

use gemma4_conformance::backends::{LINE, say};
use gemma4_conformance::cases;
use gemma4_conformance::tiny::Tiny;
use gemma4_core::engine::{self, CHUNK, Options};
use gemma4_core::kv_type::KvType;
use gemma4_core::model::gemma4::{KvTypes, Taps};
use gemma4_core::ops::Op;
use gemma4_core::program::Program;
use gemma4_core::tensor::DType;
use gemma4_cuda::compile::{self, KernelReport};
use gemma4_cuda::kernels::{self, Unit};
use gemma4_cuda::{Arch, LaunchReport, Prompts, launches};

/// The variable that makes a missing compiler a failure.
const REQUIRE: &str = "REQUIRE_NVRTC";
/// The variable that names architectures.
const ARCHS: &str = "KERNEL_ARCHS";

/// For this one, which a 3090 is, every unit is compiled.
const ALL_UNITS: &str = "sm_86";
/// For these every unit is but those of parts that others have: of two different types of cache, of heads of [`SMALL`], of
/// prompts that are exact, and of what [`BESIDE`] says. With them two cores would take six minutes more.
const MOST_UNITS: [&str; 4] = ["sm_80", "sm_89", "sm_90", "sm_120"];
/// Files that read weights through the header of another file, which is compiled for every type: `linear_glu`, `moe_ffn` and
/// `moe_tiles` as `linear` and `linear_tiles` do, `route` as `embed` does. These are compiled for one type of each width of codes.
const BESIDE: [&str; 4] = ["linear_glu", "moe_ffn", "moe_tiles", "route"];
const WIDTHS: [DType; 6] = [DType::F32, DType::BF16, DType::Q8_0, DType::Q4_K, DType::Q6_K, DType::Q3_K];
/// Heads that only small models of tests have, and those that use most registers.
const SMALL: &str = "128";
const LARGE: &str = "512";

/// For these, one of each size of shared memory that host and kernels choose by, launches have to give what kernels count on.
const LAUNCHED: [&str; 2] = ["sm_86", "sm_90"];

/// Shared memory of a block, in bytes: what a kernel may declare, and what it may ask for on an RTX 3090.
const DECLARED: u32 = 48 << 10;
const MOST: u32 = 99 << 10;

/// Whether there is a compiler.
fn compiler() -> bool {
    match compile::compiler_version() {
        Ok(version) => {
            say(format_args!("{LINE}kernels: NVRTC {version}"));
            true
        }
        Err(error) if std::env::var(REQUIRE).is_ok_and(|value| value == "1") => {
            panic!("{REQUIRE} is set, and {error}")
        }
        Err(error) => {
            say(format_args!("{LINE}skipped: kernels: {error}"));
            false
        }
    }
}

/// For this one each file is also compiled with products that are exact to `f32`, which conformance runs on a device.
const EXACT: &str = "sm_86";

/// An architecture by its name.
fn read(name: &str) -> Arch {
    name.trim().parse().unwrap_or_else(|error| panic!("{ARCHS}: {error}"))
}

/// Units and what to compile them for.
fn work() -> Vec<(Unit, Arch)> {
    let units = kernels::units();
    if let Ok(list) = std::env::var(ARCHS) {
        let archs: Vec<Arch> = list.split(',').map(read).collect();
        return archs.iter().flat_map(|&arch| units.iter().map(move |unit| (unit.clone(), arch))).collect();
    }
    let mut first: BTreeMap<&str, &Unit> = BTreeMap::new();
    let value = |unit: &Unit, name: &str| {
        unit.defines.iter().find(|(define, _)| *define == name).map(|(_, value)| value.clone())
    };
    let dim_is = |unit: &Unit, dim: &str| value(unit, "DIM").as_deref() == Some(dim);
    let (large, others): (Vec<_>, Vec<_>) = units.iter().partition(|unit| dim_is(unit, LARGE));
    for unit in large.into_iter().chain(others) {
        first.entry(unit.file).or_insert(unit);
    }
    let alike = |unit: &&Unit| value(unit, "K_KIND") == value(unit, "V_KIND") && !dim_is(unit, SMALL);
    let of_width = |unit: &&Unit| {
        let weight = value(unit, "WEIGHT");
        !BESIDE.contains(&unit.file) || WIDTHS.iter().any(|dtype| weight.as_deref() == Some(dtype.name()))
    };
    let all = units.iter().map(|unit| (unit.clone(), read(ALL_UNITS)));
    let rounds = |unit: &&Unit| value(unit, "EXACT").as_deref() != Some("1");
    let most: Vec<&Unit> = units.iter().filter(alike).filter(of_width).filter(rounds).collect();
    let most = MOST_UNITS.iter().flat_map(|arch| most.iter().map(move |&unit| (unit.clone(), read(arch))));
    let exact = first.values().map(|unit| (*unit).clone().exact()).filter(|unit| !units.contains(unit));
    all.chain(most).chain(exact.map(|unit| (unit, read(EXACT)))).collect()
}

/// What came of a unit, or why not.
type Outcome = Result<Vec<KernelReport>, String>;

/// Everything compiled, on all cores and once; none if there is no compiler.
static COMPILED: LazyLock<Option<Vec<(Unit, Arch, Outcome)>>> = LazyLock::new(|| {
    if !compiler() {
        return None;
    }
    let (work, start) = (work(), Instant::now());
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            // The compiler walks expressions recursively.
            let builder = std::thread::Builder::new().stack_size(16 << 20);
            let run = || {
                while let Some((unit, arch)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = compile::report(unit, *arch).map_err(|error| error.to_string());
                    done.lock().expect("nobody panics").push((unit.clone(), *arch, report));
                }
            };
            builder.spawn_scoped(scope, run).expect("threads can be started");
        }
    });
    let (seconds, done) = (start.elapsed().as_secs_f64(), done.into_inner().expect("nobody panics"));
    let kernels: usize = done.iter().filter_map(|(.., report)| report.as_ref().ok()).map(Vec::len).sum();
    let units = done.len();
    say(format_args!("{LINE}kernels: {units} units with {kernels} kernels compiled in {seconds:.1} s"));
    Some(done)
});

#[test]
fn every_kernel_compiles_and_neither_spills_nor_needs_more_shared_memory_than_a_3090_has() {
    let Some(compiled) = &*COMPILED else { return };
    let mut complaints = Vec::new();
    for (unit, arch, outcome) in compiled {
        let reports = match outcome {
            Ok(reports) if reports.is_empty() => {
                complaints.push(format!("{unit}, {arch}: no kernel"));
                continue;
            }
            Ok(reports) => reports,
            Err(error) => {
                complaints.push(error.clone());
                continue;
            }
        };
        for KernelReport { entry, spilled, shared, .. } in reports {
            if *spilled > 0 {
                complaints.push(format!("{unit}, {arch}: {entry} spills {spilled} bytes"));
            }
            if *shared > DECLARED {
                complaints.push(format!("{unit}, {arch}: {entry} declares {shared} bytes of shared memory"));
            }
        }
    }
    complaints.sort();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    assert!(!compiled.is_empty(), "nothing was compiled");
}

/// Programs of small models in both classes with every type of cache, and those of the cases: every op, with every type of
/// weight and whatever else it may be asked.
fn programs() -> Vec<Program> {
    let library = cases::library_cases();
    let mut programs: Vec<Program> =
        Op::ALL.iter().flat_map(|op| cases::of(op)).chain(library).map(|case| case.program).collect();
    for tiny in Tiny::all() {
        for kv in KvType::ALL {
            let model = tiny.model();
            if model.config.layers.iter().any(|layer| kv.row_bytes(layer.head_dim).is_none()) {
                continue;
            }
            let types = KvTypes { k: kv, v: kv };
            let options = Options {
                context: 4096,
                sequences: 1,
                kv_local: types,
                kv_global: types,
                chunk: CHUNK,
                snapshots: 0,
                pool: None,
            };
            let (_, layout) = engine::layout(&model.config, &options).expect("the sizes work");
            let states = model.states(&layout);
            for rows in [1, 2, 8, 32, CHUNK] {
                let prefill = model.prefill(&states, rows, 1, Taps::None).expect("it can be recorded");
                programs.push(prefill.program);
                if rows < CHUNK {
                    let verify = model.verify(&states, rows, Taps::Hidden).expect("it can be recorded");
                    programs.push(verify.program);
                }
            }
        }
    }
    programs
}

/// What is wrong with a launch on a device of an architecture.
fn complain(launch: &LaunchReport, arch: Arch, listed: &[Unit]) -> Option<String> {
    let LaunchReport { unit, entry, arguments, threads, shared, .. } = launch;
    if !unit.is_one_of(listed) {
        return Some(format!("{entry}: {unit} is not listed"));
    }
    if arch == read(ALL_UNITS) && *shared > MOST {
        return Some(format!("{entry} asks for {shared} bytes of shared memory"));
    }
    if !(1..=1024).contains(threads) {
        return Some(format!("{entry} has blocks of {threads} threads"));
    }
    let (.., reports) =
        COMPILED.as_ref()?.iter().find(|(other, compiled_for, _)| other == unit && *compiled_for == arch)?;
    let Some(kernel) = reports.as_ref().ok()?.iter().find(|kernel| kernel.entry == *entry) else {
        return Some(format!("{unit} has no entry point {entry}"));
    };
    let takes = &kernel.parameters;
    if takes != arguments {
        return Some(format!("{entry} takes arguments of {takes:?} bytes and is given {arguments:?}"));
    }
    // What rows of norms are kept in follows from the launch.
    let dynamic = kernel.dynamic.or(entry.starts_with("norm_add").then_some(*shared)).unwrap_or(0);
    (dynamic != *shared).then(|| {
        format!("{unit} for {arch}: {entry} counts on {dynamic} bytes of shared memory and is given {shared}")
    })
}

#[test]
fn every_program_becomes_launches_that_their_kernels_take_and_a_3090_can_run() {
    let listed = kernels::units();
    let (mut count, mut long, mut complaints) = (0, 0, BTreeSet::new());
    let ways = [(true, Prompts::Tiles), (false, Prompts::Tiles), (false, Prompts::Library)];
    for program in programs() {
        for (arch, (exact, prompts)) in LAUNCHED.iter().flat_map(|arch| ways.map(|way| (read(arch), way))) {
            match launches(&program, exact, prompts, arch) {
                Ok(launches) => {
                    count += launches.len();
                    long +=
                        launches.iter().filter(|launch| launch.unit.to_string().contains("-DLONG=1")).count();
                    complaints.extend(launches.iter().filter_map(|launch| complain(launch, arch, &listed)));
                }
                Err(error) => {
                    complaints.insert(error.to_string());
                }
            }
        }
    }
    say(format_args!("{LINE}kernels: {count} launches, {long} of them in equal shares"));
    assert!(complaints.is_empty(), "{}", complaints.into_iter().collect::<Vec<_>>().join("\n"));
    assert!(count > 0, "nothing was launched");
    assert!(long > 0, "no case is long enough for equal shares");
}

#[test]
fn what_a_step_of_several_rows_has_for_itself_is_where_it_gains() {
    let (mut sorted, mut known) = (0, 0);
    for program in programs() {
        let launches = launches(&program, false, Prompts::Tiles, read(ALL_UNITS)).unwrap_or_default();
        known += launches.iter().filter(|launch| launch.entry == "attn_prepare__rows").count();
        if !program.ops.iter().any(|op| matches!(op, Op::Route(_))) {
            continue;
        }
        // Pairs are sorted as soon as experts are chosen, so that the dense branch hides it.
        for pair in launches.windows(2).filter(|pair| pair[1].entry == "moe_ffn__group") {
            assert_eq!(pair[0].op, "route", "pairs are sorted behind {}", pair[0].entry);
            sorted += 1;
        }
    }
    assert!(sorted > 0, "no program sorts pairs of rows and experts");
    assert!(known > 0, "no program prepares heads of several rows by the kernel that knows them");
}
