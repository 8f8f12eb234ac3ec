//! How much memory a parser has allocated at once.

use std::hint::black_box;

use peak_alloc::PeakAlloc;

/// The global allocator of a program that fuzzes: the system's, which counts.
///
/// The counters belong to the process, so only one input may be run at a time.
pub type Counter = PeakAlloc;

/// The value to declare as `#[global_allocator]`.
pub const COUNTER: Counter = PeakAlloc;

/// What a parser may allocate beyond the size of its input, in bytes.
const ALLOWANCE: usize = 64 << 20;

/// Most bytes that may be allocated at once for an input of `len` bytes.
#[must_use]
pub const fn limit(len: usize) -> usize {
    ALLOWANCE.saturating_add(len)
}

/// Measures from its start on.
#[derive(Clone, Copy, Debug)]
pub struct Meter {
    before: usize,
}

impl Meter {
    /// Starts to measure, and ends what another meter measured.
    #[must_use]
    pub fn start() -> Self {
        COUNTER.reset_peak_usage();
        Self { before: COUNTER.current_usage() }
    }

    /// Most bytes allocated at once since the start, beyond what was allocated before it.
    #[must_use]
    pub fn peak(self) -> usize {
        COUNTER.peak_usage().saturating_sub(self.before)
    }
}

/// Whether this program's global allocator is the [`Counter`]: if so, something is allocated.
#[must_use]
pub fn is_counted() -> bool {
    let held = black_box(vec![1_u8; 1]);
    let counted = COUNTER.current_usage() > 0;
    drop(held);
    counted
}
