//! Shows a run: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use trainer_core::{LogRow, Observer, Requests, RunPlan, StepReport};

use crate::wishes::Wishes;

/// Prints the run to standard error.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    wishes: Wishes,
}

impl Progress {
    pub(crate) fn new(wishes: Wishes) -> Self {
        Self { bar: None, wishes }
    }

    fn print(&self, line: String) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

impl Observer for Progress {
    fn started(&mut self, plan: &RunPlan) {
        let eval = match plan.eval_samples {
            0 => String::new(),
            n => format!(", {n} for evaluation"),
        };
        eprintln!(
            "{}{eval}; {} trainable parameters; {} steps",
            plan.samples
                .map_or_else(|| "a stream".to_owned(), |n| format!("{n} samples")),
            grouped(plan.trainable_parameters),
            plan.total_steps
        );
        if plan.steps_done > 0 {
            eprintln!("going on after step {}", plan.steps_done);
        }
        if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template(
                "{bar:30} {pos}/{len} {msg} [{elapsed_precise} left {eta_precise}]",
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
        if let Some(bar) = &self.bar {
            bar.set_message(format!(
                "loss {:.4}  lr {:.2e}  {:.0} tokens/s",
                step.loss,
                step.learning_rate,
                step.tokens as f64 / step.seconds.max(1e-9)
            ));
            bar.set_position(step.step as u64);
        }
    }

    fn saved(&mut self, checkpoint: &Path) {
        self.print(format!("checkpoint {}", checkpoint.display()));
    }

    fn warned(&mut self, message: &str) {
        self.print(format!("warning: {message}"));
    }

    fn requests(&mut self) -> Requests {
        self.wishes.take()
    }

    fn logged(&mut self, row: &LogRow) {
        let number = |key: &str| row.get(key).and_then(Value::as_f64);
        let step = number("step").unwrap_or(0.0);
        if let Some(loss) = number("loss") {
            let mut line = format!("step {step:>5}  loss {loss:.4}");
            for (key, name) in [("grad_norm", "grad norm"), ("learning_rate", "lr")] {
                if let Some(value) = number(key) {
                    line += &if name == "lr" {
                        format!("  lr {value:.3e}")
                    } else {
                        format!("  {name} {value:.3}")
                    };
                }
            }
            if let Some(rate) = number("tokens/train_per_sec_per_gpu") {
                line += &format!("  {rate:.0} tokens/s");
            }
            self.print(line);
        } else if let Some(loss) = number("eval_loss") {
            self.print(format!("step {step:>5}  eval loss {loss:.4}"));
        } else if let Some(seconds) = number("train_runtime") {
            if let Some(bar) = self.bar.take() {
                bar.finish_and_clear();
            }
            let loss = number("train_loss").unwrap_or(f64::NAN);
            self.print(format!(
                "{step} steps in {seconds:.1} s, mean loss {loss:.4}"
            ));
        }
    }
}

/// 1234567 as 1,234,567.
fn grouped(n: usize) -> String {
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
    use super::grouped;

    #[test]
    fn groups_digits_by_three() {
        let got = [0, 999, 1_000, 988_288, 1_234_567].map(grouped);
        assert_eq!(got, ["0", "999", "1,000", "988,288", "1,234,567"]);
    }
}
