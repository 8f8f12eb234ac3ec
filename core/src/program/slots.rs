//! Liveness: which activations may share memory.

use super::{Act, Program};
use crate::ops::Op;

/// An assignment of activations to slots of scratch memory.
///
/// Two activations share a slot only if the last use of one comes before the first of the other, so an op
/// never has one slot as input and output (in-place ops name their operand once).
/// Slots are separate buffers: WebGPU forbids binding one buffer for reading and writing at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Slot of each activation.
    pub of: Vec<usize>,
    /// Elements (4 bytes each) of each slot.
    pub elements: Vec<usize>,
}

impl Slots {
    /// Colours the activations of `program`, first fit by first use.
    #[must_use]
    pub fn of(program: &Program) -> Self {
        let alone: Vec<usize> = (0..program.ops.len()).collect();
        Self::grouped(program, &alone)
    }

    /// The same where ops run together: `group[i]` is the group of op `i`, and rises with `i`. An activation that a
    /// group reads shares no slot with one that it writes.
    ///
    /// # Panics
    ///
    /// If an op has no group.
    #[must_use]
    pub fn grouped(program: &Program, group: &[usize]) -> Self {
        let lives = lives(program, group);
        let mut order: Vec<usize> = (0..lives.len()).collect();
        order.sort_by_key(|&act| lives[act].0);
        let mut slots = Self { of: vec![0; lives.len()], elements: Vec::new() };
        let mut busy_until: Vec<usize> = Vec::new();
        for act in order {
            let (first, last) = lives[act];
            let handle = Act::new(act);
            let elements = program.capacity(handle) * program.cols(handle);
            // The free slot that wastes least; growing one costs what it grows by.
            let best = (0..busy_until.len())
                .filter(|&slot| busy_until[slot] < first)
                .min_by_key(|&slot| slots.elements[slot].abs_diff(elements));
            let slot = best.unwrap_or_else(|| {
                busy_until.push(0);
                slots.elements.push(0);
                busy_until.len() - 1
            });
            busy_until[slot] = last;
            slots.elements[slot] = slots.elements[slot].max(elements);
            slots.of[act] = slot;
        }
        slots
    }

    /// Bytes of all slots.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.elements.iter().map(|&n| n as u64 * 4).sum()
    }
}

/// First and last group that touches each activation; outputs live to the end.
fn lives(program: &Program, group: &[usize]) -> Vec<(usize, usize)> {
    let mut lives = vec![(usize::MAX, 0); program.acts.len()];
    let mut touch = |act: Act, at: usize| {
        let life: &mut (usize, usize) = &mut lives[act.index()];
        *life = (life.0.min(at), life.1.max(at));
    };
    for (at, op) in program.ops.iter().enumerate() {
        for act in Op::reads(op).into_iter().chain(op.writes()) {
            touch(act, group[at]);
        }
    }
    for &act in &program.outputs {
        touch(act, usize::MAX);
    }
    lives
}
