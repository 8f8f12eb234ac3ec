//! The time of a step among others.

use std::time::Instant;

/// Hears of every token of plain steps, and says what a step takes while one follows the other: without the wait for the
/// first, for which the device had nothing to do meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock {
    first: Option<Instant>,
    last: Option<Instant>,
    ticks: u32,
}

/// Steps that say what one takes.
const ENOUGH: u32 = 3;

impl Clock {
    /// A token is there.
    pub fn tick(&mut self) {
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.ticks += 1;
    }

    /// Seconds of a step, if there were enough.
    #[must_use]
    pub fn each(&self) -> Option<f64> {
        let time = self.last?.duration_since(self.first?);
        (self.ticks > ENOUGH).then(|| time.as_secs_f64() / f64::from(self.ticks - 1))
    }
}
