//! What a plan takes of the memory of a device, and which of its things share some.

use gemma4_core::abi::step::Sections;
use gemma4_core::program::{Act, Elem, Program};

use super::memory::Places;
use super::{DRAWS, KEPT_STEPS};
use crate::device::Device;
use crate::driver;
use crate::error::CudaError;
use crate::lower::{self, Arg, Lowering, Scratch, Work};

/// What has a place in the scratch memory of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Thing {
    Act(Act),
    Prepared(Act),
    Scratch(usize),
}

/// Memory of the device that a plan takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanBytes {
    /// Scratch memory, of which plans share the largest.
    pub shared: u64,
    /// Outputs and other memory of its own.
    pub own: u64,
}

/// Memory that a device takes for the code of all kernels and for captured steps, in bytes, as measured.
pub(crate) const FIXED_BYTES: u64 = 96 << 20;

/// Memory that a device takes for NVIDIA's library and the code of its kernels, in bytes: an estimate.
pub(crate) const LIBRARY_BYTES: u64 = 64 << 20;

/// What a plan of `program` will take.
pub(crate) fn needs(device: &Device, program: &Program) -> Result<PlanBytes, CudaError> {
    let program = program.ordered();
    let weights: Vec<_> = program.weights.iter().map(crate::Weight::planned).collect();
    let states: Vec<_> = program.states.iter().map(crate::State::planned).collect();
    let mut lowering = Lowering::new(&device.info, device, &program, &weights, &states);
    lower::lower(&mut lowering)?;
    let shared = places(&lowering).bytes;
    let of_plan: u64 = lowering.kept.iter().map(|(bytes, _)| bytes).sum();
    let outputs = program.outputs.iter().filter(|&&act| program.spec(act).elem == Elem::F32);
    let bytes = |&act: &Act| act_bytes(&lowering, act);
    let outputs = outputs.map(bytes).sum::<u64>() * KEPT_STEPS as u64;
    Ok(PlanBytes { shared, own: of_plan + outputs + Sections::of(&program, DRAWS).end })
}

/// Bytes of an activation with all planes that it ever has; the library writes whole groups of rows.
pub(super) fn act_bytes(lowering: &Lowering<'_>, act: Act) -> u64 {
    let by_library = |work: &Work| matches!(work, Work::Product(product) if product.out == act);
    let capacity = lower::narrow(lowering.program.capacity(act));
    let rows = if lowering.work.iter().any(by_library) { driver::padded(capacity) } else { capacity };
    u64::from(rows) * lowering.program.cols(act) as u64 * 4 * u64::from(lowering.most_planes(act))
}

/// Where everything is that launches name.
pub(super) fn places(lowering: &Lowering<'_>) -> Places<Thing> {
    let program = lowering.program;
    let bytes = |thing: Thing| match thing {
        Thing::Act(act) => act_bytes(lowering, act),
        Thing::Prepared(act) => lowering.prepared_form(act).bytes(),
        Thing::Scratch(at) => lowering.scratch[at],
    };
    Places::of(lowering.work.iter().map(|work| things(program, work)), bytes)
}

/// What a launch or a product names that has a place in scratch memory.
fn things(program: &Program, work: &Work) -> Vec<Thing> {
    let thing = |arg: &Arg| match *arg {
        Arg::Act(act) if !program.outputs.contains(&act) => Some(Thing::Act(act)),
        Arg::Prepared(act) => Some(Thing::Prepared(act)),
        Arg::Scratch(Scratch::Op(at)) | Arg::PreparedIn(Scratch::Op(at), _) => Some(Thing::Scratch(at)),
        _ => None,
    };
    match work {
        Work::Launch(launch) => launch.args.iter().filter_map(thing).collect(),
        Work::Product(product) => {
            let scratch = [product.x, product.weight, product.workspace].map(Arg::Scratch);
            scratch.iter().chain(&[Arg::Act(product.out)]).filter_map(thing).collect()
        }
    }
}
