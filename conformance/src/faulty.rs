//! A backend that makes a mistake: to see that a test notices it and says where.

use bytemuck::Pod;
use gemma4_core::backend::{Backend, Step, Ticket};
use gemma4_core::ops::Op;
use gemma4_core::program::{Act, Program, StateSpec};
use gemma4_core::tensor::{Bytes, DType, Tensor};

/// The mistake.
#[derive(Clone, Copy, Debug)]
pub enum Mistake {
    /// Values of the weight of this name are changed on their way to the device; it must be of `f32`.
    Weight(&'static str, fn(&mut [f32])),
    /// Ops are changed before they are compiled.
    Op(fn(&Program, &mut Op)),
}

/// A backend with a mistake.
#[derive(Clone, Debug)]
pub struct Faulty<B> {
    /// What computes.
    pub backend: B,
    /// What it gets wrong.
    pub mistake: Mistake,
}

impl<B: Backend> Backend for Faulty<B> {
    type Weight = B::Weight;
    type State = B::State;
    type Plan = B::Plan;
    type Error = B::Error;

    fn upload(&self, tensor: &Tensor) -> Result<B::Weight, B::Error> {
        match self.mistake {
            Mistake::Weight(name, change) if tensor.name == name && tensor.dtype == DType::F32 => {
                let words = tensor.data.as_chunks::<4>().0;
                let mut values: Vec<f32> = words.iter().map(|b| f32::from_le_bytes(*b)).collect();
                change(&mut values);
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                let mut tensor = tensor.clone();
                tensor.data = Bytes::from_owner(bytes);
                self.backend.upload(&tensor)
            }
            _ => self.backend.upload(tensor),
        }
    }

    fn state(&self, spec: &StateSpec) -> Result<B::State, B::Error> {
        self.backend.state(spec)
    }

    fn compile(
        &self,
        program: &Program,
        weights: &[B::Weight],
        states: &[B::State],
    ) -> Result<B::Plan, B::Error> {
        let Mistake::Op(change) = self.mistake else {
            return self.backend.compile(program, weights, states);
        };
        let mut wrong = program.clone();
        wrong.ops.iter_mut().for_each(|op| change(program, op));
        self.backend.compile(&wrong, weights, states)
    }

    fn run(&self, plan: &mut B::Plan, step: &Step<'_>) -> Result<Ticket, B::Error> {
        self.backend.run(plan, step)
    }

    fn read<T: Pod>(
        &self,
        plan: &B::Plan,
        ticket: Ticket,
        output: Act,
        into: &mut [T],
    ) -> Result<(), B::Error> {
        self.backend.read(plan, ticket, output, into)
    }

    fn read_page(&self, state: &B::State, page: u32, into: &mut [u8]) -> Result<(), B::Error> {
        self.backend.read_page(state, page, into)
    }

    fn write_page(&self, state: &B::State, page: u32, from: &[u8]) -> Result<(), B::Error> {
        self.backend.write_page(state, page, from)
    }
}
