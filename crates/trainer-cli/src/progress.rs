//! Shows a run: a bar on a terminal, plain lines elsewhere, JSON lines for
//! programs.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use trainer_core::{LogRow, Observer, RunPlan, SAMPLES, StepReport, TrainerError, memory};

/// Prints the run to standard error.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    /// Warnings only.
    quiet: bool,
    /// When this process began with the run, after how many steps, of how many.
    began: (Instant, usize, usize),
    /// Tokens and places since the last log row.
    tokens: usize,
    slots: usize,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        Self {
            bar: None,
            quiet,
            began: (Instant::now(), 0, 0),
            tokens: 0,
            slots: 0,
        }
    }

    fn print(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            self.print(line);
        }
    }

    /// The line of a training row.
    fn line(&mut self, row: &LogRow, loss: f64) -> String {
        let number = |key: &str| row.get(key).and_then(Value::as_f64);
        let step = number("step").unwrap_or(0.0);
        let mut line = format!("step {step:>5}  loss {loss:.4}");
        if let Some(norm) = number("grad_norm") {
            line += &format!("  grad norm {norm:.3}");
        }
        if let Some(rate) = number("learning_rate") {
            line += &format!("  lr {rate:.3e}");
        }
        if let Some(rate) = number("tokens/train_per_sec_per_gpu") {
            line += &format!("  {rate:.0} tokens/s");
        }
        let (tokens, slots) = (
            std::mem::take(&mut self.tokens),
            std::mem::take(&mut self.slots),
        );
        line += &padding(tokens, slots);
        if let Some(gib) = number("memory/device_reserved (GiB)") {
            line += &format!("  {gib:.2} GiB");
        }
        let (began, before, total) = self.began;
        let taken = step as usize - before.min(step as usize);
        if self.bar.is_none() && taken > 0 {
            let left = total.saturating_sub(step as usize) as f64;
            let seconds = began.elapsed().as_secs_f64() / taken as f64 * left;
            line += &format!("  left {}", clock(seconds));
        }
        line
    }
}

/// The share of places without a token, where places are counted.
pub(crate) fn padding(tokens: usize, slots: usize) -> String {
    match slots {
        0 => String::new(),
        slots => {
            let share = 100.0 * slots.saturating_sub(tokens) as f64 / slots as f64;
            format!("  padding {share:.0}%")
        }
    }
}

/// Seconds as hours, minutes and seconds.
pub(crate) fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds / 3600 {
        0 => format!("{}:{:02}", seconds / 60, seconds % 60),
        hours => format!("{hours}:{:02}:{:02}", seconds / 60 % 60, seconds % 60),
    }
}

impl Observer for Progress {
    fn started(&mut self, plan: &RunPlan) {
        self.began = (Instant::now(), plan.steps_done, plan.total_steps);
        let eval = match plan.eval_samples {
            0 => String::new(),
            n => format!(", {n} for evaluation"),
        };
        self.say(&format!(
            "{}{eval}; {} trainable parameters; {} steps",
            plan.samples
                .map_or_else(|| "a stream".to_owned(), |n| format!("{n} samples")),
            grouped(plan.trainable_parameters),
            plan.total_steps
        ));
        if plan.steps_done > 0 {
            self.say(&format!("going on after step {}", plan.steps_done));
        }
        if std::io::stderr().is_terminal() && !self.quiet {
            let style = ProgressStyle::with_template(
                "{bar:12} {pos}/{len} {msg} [{elapsed_precise} left {eta_precise}]",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::with_draw_target(
                Some(plan.total_steps as u64),
                ProgressDrawTarget::stderr_with_hz(10),
            );
            self.bar = Some(bar.with_style(style).with_position(plan.steps_done as u64));
        }
    }

    fn stepped(&mut self, step: &StepReport) {
        self.tokens += step.tokens;
        self.slots += step.slots;
        if let Some(bar) = &self.bar {
            let memory = memory::resident().map_or_else(String::new, |memory| {
                format!("  {:.2} GiB", memory::gib(memory.now))
            });
            bar.set_message(format!(
                "loss {:.4}  lr {:.2e}  norm {:.2}  {:.0} tokens/s{}{memory}",
                step.loss,
                step.learning_rate,
                step.grad_norm,
                step.tokens as f64 / step.seconds.max(1e-9),
                padding(step.tokens, step.slots),
            ));
            bar.set_position(step.step as u64);
        }
    }

    fn preparing(&mut self, what: &str, done: usize, total: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{what} {done}/{total}"));
        } else if done == total {
            self.say(&format!("{what}: {total} batches"));
        }
    }

    fn saved(&mut self, checkpoint: &Path) {
        self.say(&format!("checkpoint {}", checkpoint.display()));
    }

    fn warned(&mut self, message: &str) {
        self.print(&format!("warning: {message}"));
    }

    fn logged(&mut self, row: &LogRow) {
        let number = |key: &str| row.get(key).and_then(Value::as_f64);
        let step = number("step").unwrap_or(0.0);
        if let Some(loss) = number("loss") {
            let line = self.line(row, loss);
            self.say(&line);
        } else if let Some(loss) = number("eval_loss") {
            let mut line = format!("step {step:>5}  eval loss {loss:.4}");
            for (key, name) in [
                ("eval_rewards/accuracies", "reward accuracy"),
                ("eval_rewards/margins", "reward margin"),
                ("eval_accuracy", "accuracy"),
            ] {
                if let Some(value) = number(key) {
                    line += &format!("  {name} {value:.3}");
                }
            }
            self.say(&line);
        } else if let Some(seconds) = number("train_runtime") {
            if let Some(bar) = self.bar.take() {
                bar.finish_and_clear();
            }
            let loss = number("train_loss").unwrap_or(f64::NAN);
            self.say(&format!(
                "{step} steps in {seconds:.1} s, mean loss {loss:.4}"
            ));
        }
        for sample in samples(row) {
            self.say(&format!(
                "  sample after {:?}\n    {:?}",
                shortened(&sample.prompt, true),
                shortened(&sample.completion, false)
            ));
        }
    }

    fn ended(&mut self, _error: Option<&TrainerError>) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// What the model wrote after a prompt.
pub(crate) struct Written {
    pub(crate) prompt: String,
    pub(crate) completion: String,
    pub(crate) expected: String,
}

/// The samples of a log row.
pub(crate) fn samples(row: &LogRow) -> Vec<Written> {
    let samples = row.get(SAMPLES).and_then(Value::as_array);
    let text = |sample: &Value, key: &str| sample[key].as_str().unwrap_or_default().to_owned();
    let written = |sample: &Value| Written {
        prompt: text(sample, "prompt"),
        completion: text(sample, "completion"),
        expected: text(sample, "expected"),
    };
    samples.into_iter().flatten().map(written).collect()
}

/// The end or the beginning of a text, in one line of a terminal.
fn shortened(text: &str, end: bool) -> String {
    const CHARACTERS: usize = 100;
    let count = text.chars().count();
    match (count > CHARACTERS, end) {
        (false, _) => text.to_owned(),
        (true, true) => {
            let tail: String = text.chars().skip(count - CHARACTERS).collect();
            format!("…{tail}")
        }
        (true, false) => {
            let head: String = text.chars().take(CHARACTERS).collect();
            format!("{head}…")
        }
    }
}

/// Prints log rows to standard output, one JSON object a line.
pub(crate) struct JsonLines;

impl Observer for JsonLines {
    fn logged(&mut self, row: &LogRow) {
        // A reader that went away does not end the training.
        let _ = writeln!(std::io::stdout(), "{}", Value::Object(row.clone()));
    }
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{clock, grouped, padding};

    #[test]
    fn groups_digits_by_three() {
        let got = [0, 999, 1_000, 988_288, 1_234_567].map(grouped);
        assert_eq!(got, ["0", "999", "1,000", "988,288", "1,234,567"]);
    }

    #[test]
    fn shares_and_times() {
        assert_eq!(padding(75, 100), "  padding 25%");
        assert_eq!(padding(75, 0), "");
        assert_eq!(
            [59.6, 75.0, 3_700.0].map(clock),
            ["1:00", "1:15", "1:01:40"]
        );
    }
}
