//! What a verification found, as people and programs read it.

use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::device::About;

/// The page, as `--json` prints it too.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    version: &'static str,
    /// What the program was built from, if that was known then.
    commit: Option<&'static str>,
    system: String,
    device: About,
    model: String,
    pub(super) quick: bool,
    pub(super) ops: Vec<OpLine>,
    pub(super) invariance: Vec<Property>,
    pub(super) greedy: Vec<Answer>,
    pub(super) seconds: f64,
    pub(super) failures: Vec<String>,
    /// Values that were compared, in all.
    comparisons: usize,
    /// Whether everything was compared and nothing differs.
    agrees: bool,
}

/// One op.
#[derive(Debug, Serialize)]
pub(super) struct OpLine {
    pub(super) op: &'static str,
    /// Cases of the op alone.
    pub(super) cases: usize,
    pub(super) comparisons: usize,
    /// Of the bound, used by the worst value.
    pub(super) share: Option<f64>,
    /// The case with that value.
    pub(super) worst: Option<String>,
    /// Ops of this kind that ran in the model.
    pub(super) model_ops: usize,
    pub(super) model_comparisons: usize,
    pub(super) model_share: Option<f64>,
}

/// Something that holds bit for bit.
#[derive(Debug, Serialize)]
pub(super) struct Property {
    pub(super) name: &'static str,
    pub(super) comparisons: usize,
}

/// A greedy answer.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// Tokens of the reference.
    pub(super) tokens: usize,
    /// Those that came out here too, before the first that did not.
    pub(super) equal: usize,
    /// Logits compared.
    pub(super) logits: usize,
    /// Largest difference of a logit.
    pub(super) logit_difference: f32,
    pub(super) parted: Option<Parted>,
}

/// The first token that differs.
#[derive(Debug, Serialize)]
pub(super) struct Parted {
    pub(super) at: usize,
    pub(super) want: u32,
    pub(super) got: u32,
    /// How much larger the reference's logit of its own token is than that of the other.
    pub(super) margin: f32,
    /// Whether that is so little that rounding decides.
    pub(super) tie: bool,
}

impl OpLine {
    pub(super) fn new(op: &'static str) -> Self {
        Self {
            op,
            cases: 0,
            comparisons: 0,
            share: None,
            worst: None,
            model_ops: 0,
            model_comparisons: 0,
            model_share: None,
        }
    }
}

impl Report {
    pub(super) fn new(device: About, model: String, quick: bool) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("GEMMA4_COMMIT"),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            device,
            model,
            quick,
            ops: Vec::new(),
            invariance: Vec::new(),
            greedy: Vec::new(),
            seconds: 0.0,
            failures: Vec::new(),
            comparisons: 0,
            agrees: false,
        }
    }

    /// Comes to the verdict.
    pub(super) fn finish(mut self, seconds: f64) -> Self {
        self.seconds = seconds;
        self.comparisons = self.count();
        self.agrees = self.complete() && self.failures.is_empty();
        self
    }

    fn count(&self) -> usize {
        let ops: usize = self.ops.iter().map(|line| line.comparisons + line.model_comparisons).sum();
        let bits: usize = self.invariance.iter().map(|property| property.comparisons).sum();
        let tokens: usize = self.greedy.iter().map(|answer| answer.equal).sum();
        ops + bits + tokens
    }

    /// Whether something was compared everywhere.
    fn complete(&self) -> bool {
        let ops = self.ops.iter().all(|line| line.comparisons > 0);
        let model = self.ops.iter().any(|line| line.model_comparisons > 0);
        let bits = self.invariance.iter().all(|property| property.comparisons > 0);
        let tokens = self.greedy.iter().all(|answer| answer.logits > 0);
        let any = !self.ops.is_empty() && !self.invariance.is_empty() && !self.greedy.is_empty();
        any && ops && model && bits && tokens
    }

    /// The verdict.
    pub(super) fn agrees(&self) -> bool {
        self.agrees
    }

    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        let Self { version, system, device, model, .. } = self;
        let commit = self.commit.map_or(String::new(), |commit| format!(", commit {commit}"));
        writeln!(out, "gemma4    {version}{commit}, {system}")?;
        writeln!(out, "device    {}, backend {}", device.device, device.backend)?;
        if let Some(driver) = &device.driver {
            let features = device.features.join(", ");
            writeln!(out, "driver    {driver}")?;
            writeln!(
                out,
                "features  {}",
                if features.is_empty() { "core features alone" } else { &features }
            )?;
        }
        let quick = if self.quick { ", quick" } else { "" };
        writeln!(out, "model     {model}{quick}\n")?;
        self.write_ops(&mut out)?;
        writeln!(out, "\n{:<25} {:>12}", "equal bit for bit", "comparisons")?;
        for Property { name, comparisons } in &self.invariance {
            writeln!(out, "{name:<25} {comparisons:>12}")?;
        }
        self.write_greedy(&mut out)?;
        writeln!(out)?;
        for failure in &self.failures {
            writeln!(out, "DIFFERS  {failure}")?;
        }
        let verdict = match (self.agrees, self.failures.is_empty()) {
            (true, _) => "agrees",
            (false, false) => "differs",
            (false, true) => "differs: not everything was compared",
        };
        writeln!(out, "{verdict}: {} comparisons in {:.1} s", self.comparisons, self.seconds)?;
        Ok(out)
    }

    fn write_ops(&self, out: &mut String) -> fmt::Result {
        writeln!(out, "{:<13} {:^34}   {:^34}", "", "alone", "in the model")?;
        let heads = ["comparisons", "of the bound"];
        let [count, share] = heads;
        writeln!(
            out,
            "{:<13} {:>7} {count:>12} {share:>13}   {:>7} {count:>12} {share:>13}",
            "op", "cases", "ops"
        )?;
        let percent = |share: Option<f64>| {
            share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share))
        };
        for line in &self.ops {
            let (alone, model) = (percent(line.share), percent(line.model_share));
            writeln!(
                out,
                "{:<13} {:>7} {:>12} {alone:>13}   {:>7} {:>12} {model:>13}",
                line.op, line.cases, line.comparisons, line.model_ops, line.model_comparisons
            )?;
        }
        Ok(())
    }

    fn write_greedy(&self, out: &mut String) -> fmt::Result {
        let (equal, tokens) = self
            .greedy
            .iter()
            .fold((0, 0), |(equal, all), answer| (equal + answer.equal, all + answer.tokens));
        let apart = self.greedy.iter().map(|answer| answer.logit_difference).fold(0.0, f32::max);
        let answers = self.greedy.len();
        let s = if answers == 1 { "" } else { "s" };
        writeln!(
            out,
            "\ngreedy: {equal} of {tokens} tokens equal in {answers} answer{s}; logits differ by at most {apart:.1e}"
        )?;
        for (answer, number) in self.greedy.iter().zip(1..) {
            if let Some(Parted { at, want, got, margin, tie }) = &answer.parted {
                let tie = if *tie { ", a tie that rounding decides" } else { "" };
                writeln!(
                    out,
                    "  answer {number} parts at token {at}: {got} instead of {want}, {margin:.4} apart{tie}"
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Report {
        let device = About { backend: "cpu", device: "one".to_owned(), driver: None, features: Vec::new() };
        let mut report = Report::new(device, "model".to_owned(), false);
        report.ops.push(OpLine { comparisons: 5, model_comparisons: 2, ..OpLine::new("add") });
        report.invariance.push(Property { name: "chunks", comparisons: 3 });
        report.greedy.push(Answer { tokens: 4, equal: 4, logits: 40, logit_difference: 0.0, parted: None });
        report
    }

    #[test]
    fn nothing_compared_is_no_agreement() {
        let report = complete().finish(1.0);
        assert!(report.agrees());
        assert!(report.text().unwrap().ends_with("\nagrees: 14 comparisons in 1.0 s\n"));
        let spoil: [fn(&mut Report); 7] = [
            |report| report.ops.clear(),
            |report| report.ops[0].comparisons = 0,
            |report| report.ops[0].model_comparisons = 0,
            |report| report.invariance.clear(),
            |report| report.invariance[0].comparisons = 0,
            |report| report.greedy.clear(),
            |report| report.greedy[0].logits = 0,
        ];
        for spoil in spoil {
            let mut report = complete();
            spoil(&mut report);
            let report = report.finish(1.0);
            assert!(!report.agrees());
            assert!(report.text().unwrap().contains("not everything was compared"));
        }
    }

    #[test]
    fn a_failure_is_on_the_page_and_in_the_verdict() {
        let mut report = complete();
        report.failures.push("add: element 3 is 1, expected 2".to_owned());
        let report = report.finish(1.0);
        assert!(!report.agrees());
        let text = report.text().unwrap();
        assert!(text.contains("DIFFERS  add: element 3") && text.contains("\ndiffers: "), "{text}");
    }
}
