//! In which order the dispatches of a program run, which of them overlap, and which memory their buffers share.
//!
//! A barrier waits for everything before it, which costs microseconds on a GPU that a step of decoding leaves mostly idle.
//! wgpu puts one in front of a dispatch that binds a buffer in another way than it was bound last, and in front of every
//! dispatch that writes a buffer which the step has used before. So dispatches that do not depend on one another become
//! neighbours, a *level*: all that they read is made ready for reading before the first of them, and what others than the
//! first write is in buffers that nothing else uses. Then a level has one barrier.
//!
//! Prompts keep the order of their ops: their dispatches fill the device, and buffers of their own would be large.

use std::collections::HashMap;
use std::ops::Range;

use gemma4_core::program::{Act, Class, Program, State};

use crate::lower::{Bind, Launch, Scratch};

/// Most bytes of buffers that are kept apart so that dispatches overlap.
const APART: u64 = 32 << 20;

/// What dispatches wait for one another over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Resource {
    Act(Act),
    Scratch(Scratch),
    State(State),
    Sampled,
}

/// What a binding does to what; `true` if it writes. Weights and what the host sends are only read.
fn use_of(bind: &Bind) -> Option<(Resource, bool)> {
    Some(match *bind {
        Bind::Act(act) => (Resource::Act(act), false),
        Bind::ActMut(act) => (Resource::Act(act), true),
        Bind::Scratch(scratch) => (Resource::Scratch(scratch), false),
        Bind::ScratchMut(scratch) => (Resource::Scratch(scratch), true),
        Bind::State(state) => (Resource::State(state), false),
        Bind::StateMut(state) => (Resource::State(state), true),
        Bind::Sampled => (Resource::Sampled, false),
        Bind::SampledMut => (Resource::Sampled, true),
        Bind::Weight(..) | Bind::Rows | Bind::Picked | Bind::Tables | Bind::Draws => return None,
    })
}

fn uses(launch: &Launch) -> impl Iterator<Item = (Resource, bool)> {
    launch.binds.iter().filter_map(use_of)
}

/// The level of each launch: behind those of all launches that it depends on.
fn levels(launches: &[Launch]) -> Vec<usize> {
    // The first levels behind the last write and behind all reads since.
    let mut free: HashMap<Resource, [usize; 2]> = HashMap::new();
    let level = |launch: &Launch| {
        let after = |(resource, writes): (Resource, bool)| {
            let [write, read] = free.get(&resource).copied().unwrap_or_default();
            if writes { write.max(read) } else { write }
        };
        let level = uses(launch).map(after).max().unwrap_or(0);
        for (resource, writes) in uses(launch) {
            let [write, read] = free.entry(resource).or_default();
            let free = if writes { write } else { read };
            *free = (*free).max(level + 1);
        }
        level
    };
    launches.iter().map(level).collect()
}

/// Dispatches in order, and memory.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// What runs, level by level.
    pub(crate) launches: Vec<Launch>,
    /// Which of them are a level.
    pub(crate) levels: Vec<Range<usize>>,
    /// Bytes of each buffer.
    pub(crate) buffers: Vec<u64>,
    /// Which buffer each resource has.
    of: HashMap<Resource, usize>,
}

impl Schedule {
    /// Arranges `launches`, whose scratch buffers have these sizes.
    pub(crate) fn new(program: &Program, launches: Vec<Launch>, scratch: &[u64]) -> Self {
        let bytes = |resource: Resource| match resource {
            Resource::Act(act) => (program.capacity(act) * program.cols(act) * 4) as u64,
            Resource::Scratch(Scratch(i)) => scratch[i],
            Resource::State(_) | Resource::Sampled => 0,
        };
        let in_turn: Vec<usize> = (0..launches.len()).collect();
        if program.class == Class::Decode {
            let schedule = Self::by(program, launches.clone(), &levels(&launches), &bytes);
            if let Some(schedule) = schedule {
                return schedule;
            }
        }
        Self::by(program, launches, &in_turn, &bytes).expect("nothing is kept apart where nothing overlaps")
    }

    /// `None` if too much would be kept apart.
    fn by(
        program: &Program,
        launches: Vec<Launch>,
        level_of: &[usize],
        bytes: &dyn Fn(Resource) -> u64,
    ) -> Option<Self> {
        let written =
            |launch: &Launch| uses(launch).filter(|(_, writes)| *writes).map(|(r, _)| bytes(r)).sum::<u64>();
        let mut order: Vec<(usize, Launch)> = level_of.iter().copied().zip(launches).collect();
        // What writes most comes first: that is what would take most memory of its own.
        order.sort_by_key(|(level, launch)| (*level, u64::MAX - written(launch)));
        let (level_of, launches): (Vec<usize>, Vec<Launch>) = order.into_iter().unzip();
        let mut levels: Vec<Range<usize>> = Vec::new();
        for (i, level) in level_of.iter().enumerate() {
            match levels.last_mut() {
                Some(last) if level_of[last.start] == *level => last.end = i + 1,
                _ => levels.push(i..i + 1),
            }
        }

        // From the first to the last level that uses it, and whether it is kept apart.
        let mut lives: HashMap<Resource, (usize, usize, bool)> = HashMap::new();
        for (number, level) in levels.iter().enumerate() {
            for (i, launch) in launches[level.clone()].iter().enumerate() {
                for (resource, writes) in uses(launch) {
                    let life = lives.entry(resource).or_insert((number, number, false));
                    life.1 = number;
                    life.2 |= writes && i > 0;
                }
            }
        }
        for &act in &program.outputs {
            lives.entry(Resource::Act(act)).or_insert((0, 0, false)).1 = usize::MAX;
        }
        lives.retain(|resource, _| matches!(resource, Resource::Act(_) | Resource::Scratch(_)));
        let apart =
            lives.iter().filter(|(_, life)| life.2).map(|(&resource, _)| bytes(resource)).sum::<u64>();
        if apart > APART {
            return None;
        }
        let (of, buffers) = share(lives, bytes);
        Some(Self { launches, levels, buffers, of })
    }

    /// The buffer of an activation.
    pub(crate) fn act(&self, act: Act) -> usize {
        self.of[&Resource::Act(act)]
    }

    /// The buffer of a scratch buffer.
    pub(crate) fn scratch(&self, scratch: Scratch) -> usize {
        self.of[&Resource::Scratch(scratch)]
    }

    /// Buffers that the launches of a level read and none of them writes; empty for a level of one launch, which waits
    /// for its own.
    pub(crate) fn read_by(&self, level: &Range<usize>) -> Vec<usize> {
        if level.len() == 1 {
            return Vec::new();
        }
        let all = || self.launches[level.clone()].iter().flat_map(uses);
        let written: Vec<_> = all().filter(|(_, writes)| *writes).map(|(resource, _)| resource).collect();
        let mut read: Vec<usize> = all()
            .filter(|(resource, writes)| !writes && !written.contains(resource))
            .filter_map(|(resource, _)| self.of.get(&resource).copied())
            .collect();
        read.sort_unstable();
        read.dedup();
        read
    }
}

/// Gives every resource a buffer: two share one only if neither is kept apart and the last level that uses one comes
/// before the first that uses the other. Then no launch has one buffer as input and output.
fn share(
    lives: HashMap<Resource, (usize, usize, bool)>,
    bytes: &dyn Fn(Resource) -> u64,
) -> (HashMap<Resource, usize>, Vec<u64>) {
    let mut lives: Vec<_> = lives.into_iter().collect();
    let number = |resource: &Resource| match resource {
        Resource::Act(act) => (0, act.index()),
        Resource::Scratch(Scratch(i)) => (1, *i),
        Resource::State(_) | Resource::Sampled => (2, 0),
    };
    lives.sort_by_key(|(resource, life)| (life.0, number(resource)));
    let (mut of, mut sizes, mut busy_until) = (HashMap::new(), Vec::<u64>::new(), Vec::<usize>::new());
    for (resource, (first, last, apart)) in lives {
        let need = bytes(resource);
        // The free buffer that wastes least; growing one costs what it grows by.
        let best = (0..sizes.len())
            .filter(|&buffer| !apart && busy_until[buffer] < first)
            .min_by_key(|&buffer| sizes[buffer].abs_diff(need));
        let buffer = best.unwrap_or_else(|| {
            sizes.push(0);
            busy_until.push(0);
            sizes.len() - 1
        });
        busy_until[buffer] = if apart { usize::MAX } else { last };
        sizes[buffer] = sizes[buffer].max(need);
        of.insert(resource, buffer);
    }
    (of, sizes)
}

#[cfg(test)]
mod tests {
    use gemma4_core::program::{Elem, Rows};

    use super::*;
    use crate::lower::ONE;
    use crate::shaders::{self, Shader};

    fn launch(binds: Vec<Bind>) -> Launch {
        let shader = Shader::new(&[shaders::ADD], "add");
        Launch { op: "add", shader, binds, params: Vec::new(), grid: [ONE; 3] }
    }

    /// Acts 0 to 4 of 4, 8, 12, 16 and 20 bytes a row.
    fn program(class: Class, rows: usize) -> (Program, [Act; 5]) {
        let mut program = Program::new(class, rows, 1, [].into(), [].into());
        let acts = [1, 2, 3, 4, 5].map(|cols| program.act(Rows::Step, cols, Elem::F32));
        program.output(acts[4]);
        (program, acts)
    }

    /// Two chains that start from act 0 and meet in act 4.
    fn diamond([a, b, c, d, e]: [Act; 5]) -> Vec<Launch> {
        vec![
            launch(vec![Bind::ActMut(a)]),
            launch(vec![Bind::Act(a), Bind::ActMut(b)]),
            launch(vec![Bind::Act(b), Bind::ScratchMut(Scratch(0))]),
            launch(vec![Bind::Act(a), Bind::ActMut(c)]),
            launch(vec![Bind::Act(c), Bind::ActMut(d)]),
            launch(vec![Bind::Scratch(Scratch(0)), Bind::Act(d), Bind::ActMut(e)]),
        ]
    }

    #[test]
    fn what_does_not_depend_on_one_another_is_one_level() {
        let (program, acts) = program(Class::Decode, 1);
        let schedule = Schedule::new(&program, diamond(acts), &[4]);
        assert_eq!(schedule.levels, [0..1, 1..3, 3..5, 5..6]);
        // What the second launch of a level writes nobody shares.
        let [a, b, c, d, e] = acts.map(|act| schedule.act(act));
        let scratch = schedule.scratch(Scratch(0));
        for (apart, others) in [(b, [a, c, d, e, scratch]), (scratch, [a, b, c, d, e])] {
            assert!(!others.contains(&apart), "{apart} of {others:?}");
        }
        assert_eq!(schedule.read_by(&schedule.levels[1]), [a]);
        assert_eq!(schedule.read_by(&schedule.levels[3]), [0usize; 0]);
    }

    #[test]
    fn writes_wait_for_reads_and_writes() {
        let (program, acts) = program(Class::Decode, 1);
        let [a, b, c, d, e] = acts;
        let launches = vec![
            launch(vec![Bind::ActMut(a)]),
            launch(vec![Bind::Act(a), Bind::ActMut(b)]),
            // In place: behind the read above.
            launch(vec![Bind::ActMut(a), Bind::ActMut(c)]),
            // Other columns of the same.
            launch(vec![Bind::ActMut(c), Bind::ActMut(d)]),
            launch(vec![Bind::Act(a), Bind::ActMut(e)]),
        ];
        let schedule = Schedule::new(&program, launches, &[]);
        assert_eq!(schedule.levels, [0..1, 1..2, 2..3, 3..5]);
        let twice = schedule.launches.iter().any(|launch| {
            let used: Vec<_> = uses(launch).map(|(resource, _)| schedule.of[&resource]).collect();
            used.iter().enumerate().any(|(i, buffer)| used[..i].contains(buffer))
        });
        assert!(!twice, "a launch has one buffer twice");
    }

    #[test]
    fn prompts_and_large_buffers_run_in_turn() {
        for (class, rows) in [(Class::Prefill, 1), (Class::Decode, 1 << 24)] {
            let (program, acts) = program(class, rows);
            let schedule = Schedule::new(&program, diamond(acts), &[4]);
            assert_eq!(schedule.levels.len(), 6);
            assert_eq!(schedule.launches[2].binds.len(), 2);
        }
    }
}
