//! How full the rows are, how long the samples, and who says how much.

use std::fmt;

use seqprep::PadTo;

/// Tokens of one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleCount {
    /// The role; `(template)` is what stands between the turns.
    pub role: String,
    /// Tokens of its turns.
    pub tokens: usize,
    /// Those that are targets.
    pub trained: usize,
}

/// Numbers on the training data.
#[derive(Debug, Clone, PartialEq)]
pub struct PreviewReport {
    /// Samples.
    pub samples: usize,
    /// Rows that hold them, in one epoch.
    pub rows: usize,
    /// Tokens in the samples.
    pub tokens: usize,
    /// Tokens of the samples that are targets.
    pub trained: usize,
    /// Places for tokens in the rows.
    pub slots: usize,
    /// Whether several samples share a row.
    pub packed: bool,
    /// Length of the shortest, the median and the longest sample, in tokens.
    pub lengths: [usize; 3],
    /// Longest length of a group of samples, in tokens, and their number. Each
    /// group is twice as wide as the one before it.
    pub histogram: Vec<(usize, usize)>,
    /// Tokens by role, most first; empty where there are no conversations.
    pub roles: Vec<RoleCount>,
    /// What the samples are where they are preferences, which are counted without
    /// the rows that they are laid out in.
    pub preferences: Option<&'static str>,
}

impl PreviewReport {
    /// Counts samples, of which the lengths are given and the number of targets
    /// in all of them, in the batches of one epoch: each is a list of rows, each
    /// a list of indices of samples.
    #[must_use]
    pub fn new<B>(
        lengths: &[usize],
        trained: usize,
        batches: impl IntoIterator<Item = B>,
        pad_to: PadTo,
        packed: bool,
    ) -> Self
    where
        B: IntoIterator<Item: AsRef<[u32]>>,
    {
        let length = |index: &u32| lengths.get(*index as usize).copied().unwrap_or(0);
        let (mut rows, mut slots) = (0, 0);
        for batch in batches {
            let (mut count, mut longest) = (0, 0);
            for row in batch {
                count += 1;
                longest = longest.max(row.as_ref().iter().map(length).sum());
            }
            let width = match pad_to {
                PadTo::Longest => longest,
                PadTo::MultipleOf(multiple) => longest.next_multiple_of(multiple.max(1)),
                PadTo::Fixed(width) => width,
            };
            rows += count;
            slots += count * width;
        }
        let mut sorted = lengths.to_vec();
        sorted.sort_unstable();
        let at = |place: usize| sorted.get(place).copied().unwrap_or(0);
        Self {
            samples: lengths.len(),
            rows,
            tokens: sorted.iter().sum(),
            trained,
            slots,
            packed,
            lengths: [
                at(0),
                at(sorted.len() / 2),
                at(sorted.len().saturating_sub(1)),
            ],
            histogram: histogram(&sorted),
            roles: Vec::new(),
            preferences: None,
        }
    }

    /// Tokens over places, from 0 to 1; 1 where there are none.
    #[must_use]
    pub fn efficiency(&self) -> f64 {
        match self.slots {
            0 => 1.0,
            slots => self.tokens as f64 / slots as f64,
        }
    }

    /// The lines of the report: a name and a value.
    #[must_use]
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let [shortest, median, longest] = self.lengths;
        let mut lines = Vec::new();
        lines.push(match (self.preferences, self.packed) {
            (Some(what), _) => ("samples", format!("{} {what}", self.samples)),
            (None, true) => {
                let of = format!("{} packed of {} samples", self.rows, self.samples);
                ("rows", of)
            }
            (None, false) => ("rows", format!("{}, one sample each", self.rows)),
        });
        lines.push((
            "tokens",
            format!(
                "{}, {} of them trained ({})",
                self.tokens,
                self.trained,
                percent(self.trained, self.tokens)
            ),
        ));
        if self.preferences.is_none() {
            lines.push((
                "efficiency",
                format!(
                    "{} of {} places hold a token ({})",
                    self.tokens,
                    self.slots,
                    percent(self.tokens, self.slots)
                ),
            ));
        }
        lines.push((
            "lengths",
            format!("{shortest} to {longest} tokens, median {median}"),
        ));
        lines
    }

    /// The groups of the histogram by name, with their number of samples and a
    /// length from 0 to 1.
    #[must_use]
    pub fn bars(&self) -> Vec<(String, usize, f64)> {
        let most = self.histogram.iter().map(|(_, count)| *count).max();
        let mut from = 0;
        self.histogram
            .iter()
            .map(|&(to, count)| {
                let name = match from + 1 >= to {
                    true => to.to_string(),
                    false => format!("{}-{to}", from + 1),
                };
                from = to;
                (name, count, count as f64 / most.unwrap_or(1).max(1) as f64)
            })
            .collect()
    }
}

impl fmt::Display for PreviewReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.lines() {
            writeln!(f, "{name:<10}  {value}")?;
        }
        let bars = self.bars();
        let wide = bars
            .iter()
            .map(|bar| bar.0.len())
            .max()
            .unwrap_or(0)
            .max(10);
        for (name, count, part) in &bars {
            let bar = "#".repeat((part * 40.0).ceil() as usize);
            let gap = if bar.is_empty() { "" } else { " " };
            writeln!(f, "{name:>wide$}  {bar}{gap}{count}")?;
        }
        if !self.roles.is_empty() {
            let wide = self
                .roles
                .iter()
                .map(|role| role.role.chars().count())
                .max();
            let wide = wide.unwrap_or(0).max(10);
            writeln!(f, "{:<wide$}  {:>10}  {:>10}", "role", "tokens", "trained")?;
            for count in &self.roles {
                writeln!(
                    f,
                    "{:<wide$}  {:>10}  {:>10}",
                    count.role, count.tokens, count.trained
                )?;
            }
        }
        Ok(())
    }
}

pub(super) fn percent(part: usize, whole: usize) -> String {
    match whole {
        0 => "none".to_owned(),
        whole => format!("{:.1}%", 100.0 * part as f64 / whole as f64),
    }
}

/// Groups up to 1, 2, 4, 8, ... tokens; those before the first and after the
/// last sample are left out.
fn histogram(sorted: &[usize]) -> Vec<(usize, usize)> {
    let mut groups: Vec<(usize, usize)> = Vec::new();
    let mut rest = sorted;
    let mut to = 1usize;
    while !rest.is_empty() {
        let inside = rest.partition_point(|length| *length <= to);
        groups.push((to, inside));
        rest = &rest[inside..];
        to = to.saturating_mul(2);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_groups() {
        let lengths = [5, 4, 3, 2, 1, 6];
        let rows = [vec![vec![0, 2], vec![1, 3, 4]], vec![vec![5]]];
        let report =
            |pad_to| PreviewReport::new(&lengths, 15, rows.iter().map(Vec::as_slice), pad_to, true);
        assert_eq!(report(PadTo::Longest).slots, 8 + 8 + 6);
        assert_eq!(report(PadTo::MultipleOf(5)).slots, 10 + 10 + 10);
        let report = report(PadTo::Fixed(8));
        assert_eq!(report.efficiency(), 0.875);
        assert_eq!(report.histogram, [(1, 1), (2, 1), (4, 2), (8, 2)]);
        assert_eq!(
            report.to_string(),
            "\
rows        3 packed of 6 samples
tokens      21, 15 of them trained (71.4%)
efficiency  21 of 24 places hold a token (87.5%)
lengths     1 to 6 tokens, median 4
         1  #################### 1
         2  #################### 1
       3-4  ######################################## 2
       5-8  ######################################## 2
"
        );
    }

    #[test]
    fn of_nothing() {
        let report = PreviewReport::new::<[&[u32]; 0]>(&[], 0, [], PadTo::Longest, false);
        assert_eq!(report.efficiency(), 1.0);
        assert_eq!(
            report.to_string(),
            "\
rows        0, one sample each
tokens      0, 0 of them trained (none)
efficiency  0 of 0 places hold a token (none)
lengths     0 to 0 tokens, median 0
"
        );
    }
}
