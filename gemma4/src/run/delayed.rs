//! Something that is done if it takes too long.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Does something after a while, unless it is dropped before.
#[derive(Debug)]
pub(super) struct Delayed {
    cancel: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Delayed {
    /// Calls `act` once `delay` has passed.
    pub(super) fn new(delay: Duration, act: impl FnOnce() + Send + 'static) -> Self {
        let (cancel, cancelled) = mpsc::channel();
        let thread = thread::spawn(move || {
            if cancelled.recv_timeout(delay) == Err(RecvTimeoutError::Timeout) {
                act();
            }
        });
        Self { cancel: Some(cancel), thread: Some(thread) }
    }
}

impl Drop for Delayed {
    /// Returns when it is certain that nothing more will be done.
    fn drop(&mut self) {
        self.cancel.take();
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported there.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_in_time_is_not_done() {
        let (done, seen) = mpsc::channel();
        let slow = done.clone();
        drop(Delayed::new(Duration::from_mins(10), move || slow.send("slow").unwrap()));
        let _quick = Delayed::new(Duration::ZERO, move || done.send("quick").unwrap());
        assert_eq!(seen.recv().unwrap(), "quick");
        assert!(seen.recv().is_err(), "nothing else is sent");
    }
}
