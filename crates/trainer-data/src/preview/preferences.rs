//! Samples of preferences, rewards and judged steps as they are shown.

use seqprep::{IGNORE_INDEX, Preferences};

use super::{PreviewReport, PreviewRow, PreviewToken, texts};
use crate::{DataError, Tokenizer};

/// A part of a sample: what it is, its tokens, and which of them are trained or
/// judged.
struct Part<'a> {
    name: String,
    ids: &'a [u32],
    marked: Vec<bool>,
    /// Its position in its sequence.
    position: usize,
}

impl<'a> Part<'a> {
    fn masked(name: impl Into<String>, ids: &'a [u32], position: usize) -> Self {
        Self {
            name: name.into(),
            ids,
            marked: vec![false; ids.len()],
            position,
        }
    }

    fn trained(name: impl Into<String>, ids: &'a [u32], position: usize) -> Self {
        let mut part = Self::masked(name, ids, position);
        part.marked.fill(true);
        part
    }
}

impl PreviewRow {
    /// The first `count` samples of preferences, each with its parts: the prompt and
    /// its answers, or the tokens up to each verdict on a step.
    ///
    /// # Errors
    /// [`DataError::Encode`] where the tokenizer cannot give the text of an id.
    pub fn from_preferences(
        samples: &Preferences,
        count: usize,
        tokenizer: &Tokenizer,
    ) -> Result<Vec<Self>, DataError> {
        let samples: Vec<Vec<Part<'_>>> = match samples {
            Preferences::Pairs(pairs) => pairs[..count.min(pairs.len())]
                .iter()
                .map(|pair| {
                    let better = pair
                        .margin
                        .map_or(String::new(), |by| format!(", better by {by}"));
                    vec![
                        Part::masked("prompt", &pair.prompt, 0),
                        Part::trained(format!("chosen{better}"), &pair.chosen, pair.prompt.len()),
                        Part::trained("rejected", &pair.rejected, pair.prompt.len()),
                    ]
                })
                .collect(),
            Preferences::Kto(answers) => answers[..count.min(answers.len())]
                .iter()
                .map(|answer| {
                    let verdict = if answer.desirable { "good" } else { "bad" };
                    let name = format!("{verdict} answer (label {})", answer.desirable);
                    vec![
                        Part::masked("prompt", &answer.prompt, 0),
                        Part::trained(name, &answer.completion, answer.prompt.len()),
                    ]
                })
                .collect(),
            Preferences::Steps(samples) => samples[..count.min(samples.len())]
                .iter()
                .map(|sample| steps(&sample.input_ids, &sample.labels))
                .collect(),
        };
        let rows = samples.iter().enumerate();
        rows.map(|(index, parts)| row(index + 1, parts, tokenizer))
            .collect()
    }
}

/// The tokens up to each verdict, and those behind the last.
fn steps<'a>(ids: &'a [u32], labels: &[i32]) -> Vec<Part<'a>> {
    let mut parts = Vec::new();
    let mut from = 0;
    let verdicts = labels.iter().enumerate();
    for (at, label) in verdicts.filter(|(_, label)| **label != IGNORE_INDEX) {
        let verdict = if *label == 0 { "wrong" } else { "right" };
        let name = format!(
            "up to verdict {}: {verdict} (label {label})",
            parts.len() + 1
        );
        let mut part = Part::masked(name, &ids[from..=at], from);
        if let Some(judged) = part.marked.last_mut() {
            *judged = true;
        }
        parts.push(part);
        from = at + 1;
    }
    if from < ids.len() {
        parts.push(Part::masked("without a verdict", &ids[from..], from));
    }
    parts
}

fn row(number: usize, parts: &[Part<'_>], tokenizer: &Tokenizer) -> Result<PreviewRow, DataError> {
    let mut tokens = Vec::new();
    let mut names = Vec::new();
    let mut sequence: Vec<u32> = Vec::new();
    for part in parts.iter().filter(|part| !part.ids.is_empty()) {
        names.push(part.name.clone());
        let document = u32::try_from(names.len()).unwrap_or(u32::MAX);
        // Its text depends on what it follows.
        sequence.truncate(part.position);
        sequence.extend(part.ids);
        let said = texts(&sequence, tokenizer)?;
        for (offset, text) in said.into_iter().skip(part.position).enumerate() {
            tokens.push(PreviewToken {
                id: part.ids[offset],
                position: u32::try_from(part.position + offset).unwrap_or(u32::MAX),
                document,
                trained: part.marked[offset],
                text,
                role: None,
            });
        }
    }
    Ok(PreviewRow {
        number,
        tokens,
        parts: names,
    })
}

impl PreviewReport {
    /// Counts samples of preferences, which are not laid out in rows here. The tokens
    /// of a pair are those of its two sequences, prompts included.
    #[must_use]
    pub fn of_preferences(samples: &Preferences) -> Self {
        let (lengths, trained): (Vec<usize>, Vec<usize>) = match samples {
            Preferences::Pairs(pairs) => pairs
                .iter()
                .map(|pair| (pair.tokens(), pair.chosen.len() + pair.rejected.len()))
                .unzip(),
            Preferences::Kto(answers) => answers
                .iter()
                .map(|answer| (answer.len(), answer.completion.len()))
                .unzip(),
            Preferences::Steps(samples) => samples
                .iter()
                .map(|sample| (sample.len(), sample.judged()))
                .unzip(),
        };
        let what = match (samples, samples.len()) {
            (Preferences::Pairs(_), 1) => "pair",
            (Preferences::Pairs(_), _) => "pairs",
            (Preferences::Kto(_), 1) => "answer",
            (Preferences::Kto(_), _) => "answers",
            (Preferences::Steps(_), 1) => "row of steps",
            (Preferences::Steps(_), _) => "rows of steps",
        };
        Self {
            preferences: Some(what),
            ..Self::new::<[&[u32]; 0]>(
                &lengths,
                trained.iter().sum(),
                [],
                seqprep::PadTo::Longest,
                false,
            )
        }
    }
}
