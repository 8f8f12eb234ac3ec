//! An order of the ops of a program in which those that fuse are neighbours.
//!
//! Only norms move, and none past an op that touches what it reads or writes, so every value stays what it was.

use super::{Act, Program};
use crate::ops::Op;
use crate::ops::rms_norm::RmsNorm;

impl Program {
    /// The same program; norms are beside what a backend may fuse them with.
    #[must_use]
    pub fn ordered(&self) -> Self {
        let mut program = self.clone();
        order(&mut program.ops);
        program
    }
}

fn order(ops: &mut [Op]) {
    for at in 0..ops.len() {
        let to = match &ops[at] {
            Op::RmsNorm(norm) => beside_another(ops, at, norm),
            _ => None,
        };
        if let Some(to) = to {
            ops[to..=at].rotate_right(1);
        }
    }
    for at in (0..ops.len()).rev() {
        let to = match &ops[at] {
            Op::RmsNorm(norm) => before_sum(ops, at, norm),
            _ => None,
        };
        if let Some(to) = to {
            ops[at..to].rotate_left(1);
        }
    }
}

/// Behind the norm of the same values that follows their `norm_add`.
fn beside_another(ops: &[Op], at: usize, norm: &RmsNorm) -> Option<usize> {
    let sum = ops[..at].iter().rposition(|op| op.writes().contains(&norm.x))?;
    let to = sum + 2;
    let first = matches!((&ops[sum], ops.get(sum + 1)), (Op::NormAdd(_), Some(Op::RmsNorm(first))) if first.x == norm.x);
    (first && to < at && !ops[to..at].iter().any(|op| touches(op, norm.out))).then_some(to)
}

/// In front of the `add` that has its output as its first operand.
fn before_sum(ops: &[Op], at: usize, norm: &RmsNorm) -> Option<usize> {
    let to = at + 1 + ops[at + 1..].iter().position(|op| touches(op, norm.out))?;
    let add = matches!(&ops[to], Op::Add(add) if add.x == norm.out);
    (add && !ops[at + 1..to].iter().any(|op| op.writes().contains(&norm.x))).then_some(to)
}

fn touches(op: &Op, act: Act) -> bool {
    op.reads().contains(&act) || op.writes().contains(&act)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::{Class, Elem, Rows, Weight, WeightSpec};
    use crate::tensor::DType;

    fn program() -> Program {
        let norm = WeightSpec { name: "norm".to_owned(), dtype: DType::F32, experts: 1, rows: 1, cols: 32 };
        let mut p = Program::new(Class::Decode, 1, 1, [norm].into(), [].into());
        let [residual, x] = [0, 1].map(|_| p.act(Rows::Step, 32, Elem::F32));
        let w = Weight::new(0);
        p.norm_add(residual, x, w, 1.0, 1e-6).unwrap();
        let a = p.rms_norm(residual, w, 1e-6).unwrap();
        let y = p.rms_norm(a, w, 1e-6).unwrap();
        let b = p.rms_norm(residual, w, 1e-6).unwrap();
        let e = p.rms_norm(b, w, 1e-6).unwrap();
        p.add(y, e).unwrap();
        p.norm_add(residual, y, w, 1.0, 1e-6).unwrap();
        p.rms_norm(residual, w, 1e-6).unwrap();
        p
    }

    #[test]
    fn norms_move_to_where_they_fuse() {
        let before = program();
        let after = before.ordered();
        let order: Vec<_> =
            after.ops.iter().map(|op| before.ops.iter().position(|other| other == op).unwrap()).collect();
        assert_eq!(order, [0, 1, 3, 4, 2, 5, 6, 7]);
    }

    #[test]
    fn a_norm_stays_behind_a_change_of_its_input() {
        let mut before = program();
        // What the second norm reads changes between the two.
        let Op::RmsNorm(first) = &before.ops[1] else { unreachable!() };
        let residual = first.x;
        let x = before.act(Rows::Step, 32, Elem::F32);
        before.add(residual, x).unwrap();
        let add = before.ops.pop().unwrap();
        before.ops.insert(2, add);
        let after = before.ordered();
        let at = |program: &Program| {
            let [Some(add), Some(norm)] =
                [&before.ops[2], &before.ops[4]].map(|wanted| program.ops.iter().position(|op| op == wanted))
            else {
                unreachable!()
            };
            add < norm
        };
        assert!(at(&before) && at(&after));
    }
}
