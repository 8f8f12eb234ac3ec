//! One answer: generation, with its progress and its pieces on the screen.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::time::Duration;

use gemma4_core::chat::Delta;
use gemma4_core::dialogue::Update;
use gemma4_core::session::{Ended, Generated};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::delayed::Delayed;
use super::interrupt::Interrupt;
use super::screen::Screen;

/// Prompts that take no longer than this show no progress.
const PATIENCE: Duration = Duration::from_millis(500);

/// Watches an answer come: shows it, and stops it when the user wants that or when nobody reads it.
pub(super) struct Watch<'a> {
    /// Nothing is shown without one.
    screen: Option<&'a mut Screen>,
    stop: &'a Interrupt,
    progress: Option<Progress>,
    output: io::Result<()>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(screen: Option<&'a mut Screen>, stop: &'a Interrupt) -> Self {
        Self { screen, stop, progress: Some(Progress::new()), output: Ok(()) }
    }

    /// Something happened.
    pub(super) fn update(&mut self, update: &Update) -> ControlFlow<()> {
        match update {
            Update::Prefill { done, total } => self.prefill(*done, *total),
            Update::Token(_) => self.token(),
            Update::Delta(delta) => self.show(|screen| screen.delta(delta)),
        }
    }

    /// Prompt tokens were computed.
    pub(super) fn prefill(&mut self, done: usize, total: usize) -> ControlFlow<()> {
        if let Some(progress) = &self.progress {
            progress.at(done, total);
        }
        self.go_on()
    }

    /// A token was chosen.
    pub(super) fn token(&mut self) -> ControlFlow<()> {
        self.progress = None;
        self.go_on()
    }

    /// There is text without a structure.
    pub(super) fn text(&mut self, text: &str) -> ControlFlow<()> {
        self.show(|screen| screen.delta(&Delta::Content(text.to_owned())))
    }

    fn show(&mut self, show: impl FnOnce(&mut Screen) -> io::Result<()>) -> ControlFlow<()> {
        if let (Some(screen), Ok(())) = (&mut self.screen, &self.output) {
            self.output = show(screen);
        }
        self.go_on()
    }

    fn go_on(&self) -> ControlFlow<()> {
        if self.stop.raised() || self.output.is_err() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Ends the last line.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.progress = None;
        self.output?;
        self.screen.map_or(Ok(()), Screen::end)
    }
}

/// A bar for prompts that take long, where somebody is watching.
struct Progress {
    bar: ProgressBar,
    delayed: Option<Delayed>,
}

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("reading the prompt {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        let delayed = io::stderr().is_terminal().then(|| {
            let bar = bar.clone();
            Delayed::new(PATIENCE, move || {
                bar.set_draw_target(ProgressDrawTarget::stderr());
                bar.enable_steady_tick(Duration::from_millis(100));
            })
        });
        Self { bar, delayed }
    }

    fn at(&self, done: usize, total: usize) {
        if self.bar.length().is_none() {
            let template = "reading the prompt {bar:30} {pos}/{len} tokens {elapsed}, {eta} left";
            let style = ProgressStyle::with_template(template);
            self.bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        }
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // First, or it might draw once more.
        self.delayed = None;
        self.bar.finish_and_clear();
    }
}

/// Counts and rates in one line.
pub(super) fn summary(generated: &Generated) -> String {
    let reused = match generated.reused {
        0 => String::new(),
        reused => format!(" ({reused} reused)"),
    };
    let new = generated.tokens.len();
    let rate = match new {
        0 | 1 => String::new(),
        _ => format!(", {:.1} tok/s", generated.decode_rate()),
    };
    format!(
        "{} prompt tokens, {:.1} tok/s{reused}; {new} new token{}{rate}",
        generated.prompt,
        generated.prefill_rate(),
        if new == 1 { "" } else { "s" },
    )
}

/// Why an answer is shorter than the model wanted, if it is.
pub(super) fn cut(ended: Ended, context: usize) -> Option<String> {
    match ended {
        Ended::Token(_) => None,
        Ended::Stopped => Some("Stopped.".to_owned()),
        Ended::MaxTokens => Some("Stopped at --max-tokens.".to_owned()),
        Ended::ContextFull => Some(format!("The context of {context} tokens is full.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_leaves_out_what_says_nothing() {
        let mut generated = Generated {
            prompt: 30,
            reused: 0,
            tokens: vec![1; 11],
            ended: Ended::MaxTokens,
            prefill: Duration::from_millis(500),
            decode: Duration::from_secs(4),
        };
        assert_eq!(summary(&generated), "30 prompt tokens, 60.0 tok/s; 11 new tokens, 2.5 tok/s");
        generated.reused = 25;
        generated.tokens.truncate(1);
        assert_eq!(summary(&generated), "30 prompt tokens, 10.0 tok/s (25 reused); 1 new token");
    }
}
