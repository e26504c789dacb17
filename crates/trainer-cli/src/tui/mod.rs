//! `--tui`: a run as live curves on the terminal, with keys that ask something of
//! it: `s` saves, `e` evaluates, `q` stops with a checkpoint.
//!
//! Everything is drawn by the training thread after a step, ten times a second at
//! most; a thread of the terminal reads keys.

mod terminal;

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph};
use ratatui::{Frame, Terminal, symbols};
use serde_json::Value;
use trainer_core::{LogRow, Observer, Requests, RunPlan, StepReport, TrainerError, memory};

use crate::failure::Failure;
use crate::progress::{clock, grouped, padding, samples};
use terminal::Screen;

pub(crate) use terminal::give_back;

/// Most points of a live curve; then every second one is left out.
const MOST_POINTS: usize = 2000;
/// Messages that are shown.
const MESSAGES: usize = 5;
/// Time between drawings.
const PAUSE: Duration = Duration::from_millis(100);

/// A curve that stays within bounds.
#[derive(Debug, Default)]
struct Curve {
    points: Vec<(f64, f64)>,
    /// One in so many values is kept.
    every: usize,
    seen: usize,
}

impl Curve {
    fn push(&mut self, x: f64, y: f64) {
        self.every = self.every.max(1);
        if y.is_finite() && self.seen.is_multiple_of(self.every) {
            self.points.push((x, y));
        }
        self.seen += 1;
        if self.points.len() > MOST_POINTS {
            let mut keep = false;
            self.points.retain(|_| {
                keep = !keep;
                keep
            });
            self.every *= 2;
        }
    }

    /// Takes away what comes after `x`.
    fn cut(&mut self, x: f64) {
        self.points.retain(|(at, _)| *at <= x);
    }

    /// Lowest and highest value, a little apart.
    fn bounds<'a>(curves: impl IntoIterator<Item = &'a Self>) -> [f64; 2] {
        let values = curves.into_iter().flat_map(|curve| &curve.points);
        let [low, high] = values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], (_, y)| {
            [low.min(*y), high.max(*y)]
        });
        if low > high {
            return [0.0, 1.0];
        }
        let room = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-12);
        // Room below zero would look like values there.
        let lowest = if low >= 0.0 { 0.0 } else { f64::NEG_INFINITY };
        [(low - room).max(lowest), high + room]
    }
}

/// What is known of the run.
#[derive(Debug, Default)]
struct State {
    title: String,
    plan: String,
    done: usize,
    before: usize,
    total: usize,
    now: String,
    loss: Curve,
    eval: Curve,
    rate: Curve,
    norm: Curve,
    speed: Curve,
    messages: VecDeque<String>,
}

impl State {
    fn say(&mut self, message: String) {
        self.messages.push_back(message);
        if self.messages.len() > MESSAGES {
            self.messages.pop_front();
        }
    }

    fn draw(&self, frame: &mut Frame<'_>, elapsed: Duration) {
        let [head, gauge, upper, lower, messages, keys] = Layout::vertical([
            Constraint::Length(2),
            Constraint::Length(1),
            Constraint::Min(6),
            Constraint::Min(6),
            Constraint::Length(MESSAGES as u16),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let head_lines = vec![
            Line::styled(format!("{}  {}", self.title, self.plan), bold),
            Line::raw(self.now.as_str()),
        ];
        frame.render_widget(Paragraph::new(head_lines), head);
        let part = self.done as f64 / self.total.max(1) as f64;
        let taken = self.done.saturating_sub(self.before);
        let left = match taken {
            0 => String::new(),
            taken => {
                let seconds = elapsed.as_secs_f64() / taken as f64;
                format!(
                    ", left {}",
                    clock(seconds * self.total.saturating_sub(self.done) as f64)
                )
            }
        };
        let gauge_widget = Gauge::default()
            .ratio(part.clamp(0.0, 1.0))
            .gauge_style(Style::new().fg(Color::Blue))
            .label(format!("{} of {}{left}", self.done, self.total));
        frame.render_widget(gauge_widget, gauge);
        let halves = |area| Layout::horizontal([Constraint::Fill(1); 2]).areas::<2>(area);
        let ([a, b], [c, d]) = (halves(upper), halves(lower));
        let loss = [
            ("loss", &self.loss, Color::Blue),
            ("evaluation", &self.eval, Color::Yellow),
        ];
        self.chart(frame, a, "loss", &loss);
        let one = |curve| [("", curve, Color::Green)];
        self.chart(frame, b, "gradient norm", &one(&self.norm));
        self.chart(frame, c, "learning rate", &one(&self.rate));
        self.chart(frame, d, "tokens per second", &one(&self.speed));
        let lines: Vec<Line<'_>> = self
            .messages
            .iter()
            .map(|it| Line::raw(it.as_str()))
            .collect();
        frame.render_widget(Paragraph::new(lines), messages);
        let help = Line::styled(" s save   e evaluate   q stop with a checkpoint", bold);
        frame.render_widget(Paragraph::new(help), keys);
    }

    fn chart(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        title: &str,
        curves: &[(&str, &Curve, Color)],
    ) {
        let datasets = curves
            .iter()
            .filter(|(_, curve, _)| !curve.points.is_empty());
        let datasets = datasets
            .map(|(name, curve, color)| {
                Dataset::default()
                    .name(*name)
                    .marker(symbols::Marker::Braille)
                    .graph_type(GraphType::Line)
                    .style(Style::new().fg(*color))
                    .data(&curve.points)
            })
            .collect();
        let [low, high] = Curve::bounds(curves.iter().map(|(_, curve, _)| *curve));
        let label = |value: f64| match value.abs() {
            0.0 => "0".to_owned(),
            size if !(1e-3..1e5).contains(&size) => format!("{value:.1e}"),
            size if size >= 1e3 => format!("{value:.0}"),
            _ => format!("{value:.3}"),
        };
        let end = self.total.max(1) as f64;
        let x = Axis::default()
            .bounds([self.before as f64, end])
            .labels([self.before.to_string(), self.total.to_string()]);
        let y = Axis::default()
            .bounds([low, high])
            .labels([label(low), label(high)]);
        let chart = Chart::new(datasets)
            .block(Block::bordered().title(title))
            .x_axis(x)
            .y_axis(y);
        frame.render_widget(chart, area);
    }
}

/// Draws the run.
pub(crate) struct Tui {
    terminal: Option<Terminal<Screen>>,
    keys: Receiver<u8>,
    state: State,
    began: Instant,
    drawn: Option<Instant>,
    warnings: Vec<String>,
}

impl Tui {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn open(title: &Path) -> Result<Self, Failure> {
        if !terminal::is_there() {
            return Err(Failure::new(
                "--tui draws on a terminal, and standard input or output is none; without \
                 it, one line a log row is printed",
            ));
        }
        let wrong = |error: io::Error| Failure::new(format!("--tui: {error}"));
        let (screen, keys) = Screen::open().map_err(wrong)?;
        Ok(Self {
            terminal: Some(Terminal::new(screen).map_err(wrong)?),
            keys,
            state: State {
                title: title.display().to_string(),
                ..State::default()
            },
            began: Instant::now(),
            drawn: None,
            warnings: Vec::new(),
        })
    }

    fn draw(&mut self, at_once: bool) {
        let due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= PAUSE);
        if let Some(terminal) = self.terminal.as_mut().filter(|_| due || at_once) {
            let (state, elapsed) = (&self.state, self.began.elapsed());
            // A terminal that cannot be drawn on does not end the training.
            let _ = terminal.draw(|frame| state.draw(frame, elapsed));
            self.drawn = Some(Instant::now());
        }
    }
}

impl Observer for Tui {
    fn started(&mut self, plan: &RunPlan) {
        self.began = Instant::now();
        let state = &mut self.state;
        (state.done, state.before, state.total) =
            (plan.steps_done, plan.steps_done, plan.total_steps);
        let samples = plan
            .samples
            .map_or("a stream".to_owned(), |n| format!("{n} samples"));
        state.plan = format!(
            "{samples}, {} trainable parameters",
            grouped(plan.trainable_parameters)
        );
        self.draw(true);
    }

    fn stepped(&mut self, step: &StepReport) {
        let speed = step.tokens as f64 / step.seconds.max(1e-9);
        let state = &mut self.state;
        state.done = step.step;
        let x = step.step as f64;
        state.loss.push(x, step.loss);
        state.norm.push(x, step.grad_norm);
        state.rate.push(x, step.learning_rate);
        state.speed.push(x, speed);
        let memory = memory::resident().map_or_else(String::new, |memory| {
            format!("  {:.2} GiB", memory::gib(memory.now))
        });
        state.now = format!(
            "loss {:.4}  lr {:.3e}  norm {:.3}  {speed:.0} tokens/s{}{memory}",
            step.loss,
            step.learning_rate,
            step.grad_norm,
            padding(step.tokens, step.slots)
        );
        self.draw(false);
    }

    fn logged(&mut self, row: &LogRow) {
        let number = |key: &str| row.get(key).and_then(Value::as_f64);
        if let (Some(step), Some(loss)) = (number("step"), number("eval_loss")) {
            self.state.eval.push(step, loss);
            self.state
                .say(format!("step {step}: evaluation loss {loss:.4}"));
            self.draw(true);
        }
        for sample in samples(row) {
            let line = sample.completion.replace('\n', " ");
            self.state.say(format!("sample: {line}"));
            self.draw(true);
        }
    }

    fn preparing(&mut self, what: &str, done: usize, total: usize) {
        self.state.now = format!("{what}: {done} of {total} batches");
        self.draw(done == total);
    }

    /// The curves end where the run goes on from; later steps come anew.
    fn went_back(&mut self, step: usize) {
        let state = &mut self.state;
        state.done = step;
        let State {
            loss,
            eval,
            norm,
            rate,
            speed,
            ..
        } = state;
        for curve in [loss, eval, norm, rate, speed] {
            curve.cut(step as f64);
        }
        self.draw(true);
    }

    fn saved(&mut self, checkpoint: &Path) {
        self.state
            .say(format!("checkpoint {}", checkpoint.display()));
        self.draw(true);
    }

    fn warned(&mut self, message: &str) {
        self.warnings.push(message.to_owned());
        self.state.say(format!("warning: {message}"));
        self.draw(true);
    }

    fn requests(&mut self) -> Requests {
        let mut requests = Requests::default();
        while let Ok(key) = self.keys.try_recv() {
            let said = match key {
                b's' => {
                    requests.save = true;
                    "writing a checkpoint"
                }
                b'e' => {
                    requests.evaluate = true;
                    "evaluating"
                }
                b'q' => {
                    requests.stop = true;
                    "writing a checkpoint, then ending"
                }
                _ => continue,
            };
            self.state.say(said.to_owned());
            self.draw(true);
        }
        requests
    }

    fn ended(&mut self, _error: Option<&TrainerError>) {
        self.terminal = None;
        for warning in &self.warnings {
            eprintln!("warning: {warning}");
        }
        eprintln!(
            "{} of {} steps in {}; {}",
            self.state.done,
            self.state.total,
            clock(self.began.elapsed().as_secs_f64()),
            self.state.now
        );
    }
}

#[cfg(test)]
mod tests {
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn the_screen_shows_the_run() {
        let mut state = State {
            title: "model-out/run".into(),
            plan: "10 samples".into(),
            done: 5,
            total: 10,
            now: "loss 1.0000".into(),
            ..State::default()
        };
        for step in 0..5_u32 {
            state.loss.push(f64::from(step), 5.0 - f64::from(step));
        }
        state.say("step 5: evaluation loss 1.5".into());
        let mut terminal = Terminal::new(TestBackend::new(80, 30)).unwrap();
        let elapsed = Duration::from_secs(10);
        terminal.draw(|frame| state.draw(frame, elapsed)).unwrap();
        let text = terminal.backend().to_string();
        for part in [
            "model-out/run  10 samples",
            "5 of 10, left 0:10",
            "gradient norm",
            "step 5: evaluation loss 1.5",
            "q stop with a checkpoint",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        // A curve is drawn of Braille characters.
        assert!(
            text.chars().any(|c| ('\u{2801}'..='\u{28FF}').contains(&c)),
            "{text}"
        );
        // A terminal of any size.
        for (width, height) in [(1, 1), (20, 5), (300, 100)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| state.draw(frame, elapsed)).unwrap();
        }
    }

    #[test]
    fn curves_stay_bounded() {
        let mut curve = Curve::default();
        for x in 0..100_000 {
            curve.push(f64::from(x), 1.0);
        }
        assert!(curve.points.len() <= MOST_POINTS + 1);
        let mut positive = Curve::default();
        positive.push(0.0, 0.5);
        positive.push(1.0, 100.0);
        assert_eq!(Curve::bounds([&positive])[0], 0.0);
        assert_eq!(Curve::bounds([&curve]), [0.999, 1.001]);
        assert_eq!(curve.points[0].0, 0.0);
        assert!(curve.points.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn curves_go_back() {
        let mut curve = Curve::default();
        for x in [1.0, 2.0, 3.0, 4.0] {
            curve.push(x, 1.0);
        }
        curve.cut(2.0);
        curve.push(3.0, 7.0);
        assert_eq!(curve.points, [(1.0, 1.0), (2.0, 1.0), (3.0, 7.0)]);
    }
}
