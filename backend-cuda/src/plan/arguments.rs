//! Entry points and addresses: a launch that can be enqueued.

use super::Plan;
use super::needs::Thing;
use crate::device::Device;
use crate::driver::{Algorithm, Call, Function, Operands, Shape};
use crate::error::CudaError;
use crate::lower::{Arg, Prepared, Scratch, Work};

/// A launch or a product with all its addresses.
#[derive(Debug)]
pub(super) enum Bound {
    Call(Call),
    Product { shape: Shape, algorithm: Algorithm, operands: Operands },
}

impl Plan {
    /// A launch or a product with all its addresses on one side, with scratch memory at `base`.
    pub(super) fn bind(
        &self,
        device: &Device,
        work: &Work,
        function: Option<&Function>,
        (base, side): (u64, usize),
    ) -> Result<Bound, CudaError> {
        let argument = |arg: &Arg| self.argument(device, arg, (work.entry(), base, side));
        match (work, function) {
            (Work::Launch(launch), Some(function)) => {
                let arguments = launch.args.iter().map(argument).collect::<Result<Vec<_>, _>>()?;
                let (block, shared, follows) = (launch.block, launch.shared, device.follows);
                let call = Call::new(function.clone(), &arguments, block, shared, follows)?;
                Ok(Bound::Call(call.in_clusters(launch.cluster())))
            }
            (Work::Launch(_), None) => unreachable!("every launch has an entry point"),
            (Work::Product(product), _) => {
                let address = |arg: &Arg| {
                    let bytes = argument(arg)?.try_into().expect("an address has eight bytes");
                    Ok::<_, CudaError>(u64::from_ne_bytes(bytes))
                };
                let shape = product.shape;
                let algorithm = device.algorithm(shape)?.ok_or_else(|| CudaError::Launch {
                    entry: work.entry().to_owned(),
                    what: format!("{shape:?} was to be tiles"),
                })?;
                let operands = Operands {
                    weight: address(&Arg::Scratch(product.weight))?,
                    x: address(&Arg::Scratch(product.x))?,
                    out: address(&Arg::Act(product.out))? + u64::from(product.first) * 4,
                    workspace: address(&Arg::Scratch(product.workspace))?,
                };
                Ok(Bound::Product { shape, algorithm, operands })
            }
        }
    }

    /// The bytes of an argument of `entry` on one side, with scratch memory at `base`.
    fn argument(
        &self,
        device: &Device,
        arg: &Arg,
        (entry, base, side): (&str, u64, usize),
    ) -> Result<Vec<u8>, CudaError> {
        let nowhere = || CudaError::Launch { entry: entry.to_owned(), what: format!("{arg:?} has no place") };
        let place = |thing| self.places.start(thing).map(|start| base + start).ok_or_else(nowhere);
        let weight = |weight: gemma4_core::program::Weight| &self.weights[weight.index()];
        let step = self.step.address();
        let address = match arg {
            Arg::Params(bytes) => return Ok(bytes.clone()),
            Arg::NoPrepared => return Ok(Prepared::none()),
            Arg::Prepared(act) => {
                return Ok(self.forms[act.index()].argument(place(Thing::Prepared(*act))?));
            }
            Arg::PreparedIn(scratch, form) => {
                let Scratch::Op(at) = scratch else { return Err(nowhere()) };
                return Ok(form.argument(place(Thing::Scratch(*at))?));
            }
            Arg::View(matrix) => return Ok(weight(*matrix).view(device)?.to_vec()),
            Arg::Views(matrices) => {
                let views = matrices.iter().map(|&matrix| weight(matrix).view(device));
                return Ok(views.collect::<Result<Vec<_>, _>>()?.concat());
            }
            Arg::Act(act) => match self.outputs.iter().find(|output| output.act == *act) {
                Some(output) => output.memory[side].address(),
                None => place(Thing::Act(*act))?,
            },
            Arg::Scratch(Scratch::Op(at)) => place(Thing::Scratch(*at))?,
            Arg::Scratch(Scratch::Plan(at)) => self.kept[*at].address(),
            Arg::Null => 0,
            Arg::Weight(vector) => weight(*vector).vector(device)?,
            Arg::HostTable(table) => weight(*table).table(device)?,
            Arg::State(state) => self.states[state.index()].buffer().address(),
            Arg::Rows => step + self.sections.rows,
            Arg::Picked => step + self.sections.picked,
            Arg::Tables => step + self.sections.tables,
            Arg::Draws => step + self.sections.draws,
            Arg::Sampled => self.sampled.address(),
            Arg::Step => step,
        };
        Ok(address.to_ne_bytes().to_vec())
    }
}

/// The entry point of each launch.
pub(super) fn functions(device: &Device, work: &[Work]) -> Result<Vec<Option<Function>>, CudaError> {
    let units: Vec<_> = work.iter().filter_map(Work::launch).map(|launch| launch.unit.clone()).collect();
    let mut modules = device.modules(&units)?.into_iter();
    let function = |work: &Work| {
        let module = work.launch().and_then(|launch| Some((launch, modules.next()?)));
        module.map(|(launch, module)| module.function(launch.entry)).transpose()
    };
    work.iter().map(function).collect()
}
