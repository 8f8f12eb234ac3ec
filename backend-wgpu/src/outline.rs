//! How many dispatches a step has, from shapes alone: models that no test has the memory for can be counted.

use gemma4_core::program::Program;

use crate::device::Device;
use crate::error::WgpuError;
use crate::lower::{self, Extent, Launch, Lowering};
use crate::schedule::Schedule;
use crate::{State, Weight};

/// The dispatches of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// All of them.
    pub dispatches: usize,
    /// Groups of them that overlap: what a step waits for one after another, a barrier each.
    pub levels: usize,
}

impl Outline {
    /// Of a step with `rows` rows, of which the last is at position `keys - 1`, on a device whose bindings have at most
    /// `max_binding` bytes.
    pub(crate) fn of(
        device: &Device,
        program: &Program,
        (rows, keys): (usize, u32),
        max_binding: u64,
    ) -> Result<Self, WgpuError> {
        let program = &program.ordered();
        let weights = program.weights.iter().map(|spec| Weight::outline(device, spec, max_binding));
        let weights = weights.collect::<Result<Vec<_>, _>>()?;
        let states = program.states.iter().map(|spec| State::outline(device, spec));
        let states = states.collect::<Result<Vec<_>, _>>()?;
        let mut lowering = Lowering::new(device, program, &weights, &states);
        lower::lower(&mut lowering)?;
        let schedule = Schedule::new(program, lowering.launches, &lowering.scratch);
        let extent = Extent { rows, picked: rows.min(program.picked), keys };
        let runs = |launch: &Launch| launch.grid.iter().all(|count| count.of(&extent) > 0);
        let running: Vec<usize> = schedule
            .levels
            .iter()
            .map(|level| schedule.launches[level.clone()].iter().filter(|launch| runs(launch)).count())
            .collect();
        Ok(Self {
            dispatches: running.iter().sum(),
            levels: running.iter().filter(|&&dispatches| dispatches > 0).count(),
        })
    }
}
