//! Samples of preference and reward training: a prompt with a better and a worse
//! answer, a prompt with an answer that is good or bad, steps that are judged one
//! by one; and the length rules for them.
//!
//! Invariants: a rule never cuts a prompt, and a cut answer keeps its end, so
//! that a model still learns to stop.

use serde::{Deserialize, Serialize};

use crate::length::{LengthOutcome, outcome};
use crate::sample::{IGNORE_INDEX, Sample};

/// A prompt and two answers to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PreferencePair {
    /// Token ids of the prompt, which both answers follow.
    pub prompt: Vec<u32>,
    /// Token ids of the better answer, its end included.
    pub chosen: Vec<u32>,
    /// Token ids of the worse answer, its end included.
    pub rejected: Vec<u32>,
    /// By how much the one is better, where the data says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f32>,
}

/// A prompt and an answer that is wanted or not (Kahneman-Tversky optimization).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KtoSample {
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// Token ids of the answer, its end included.
    pub completion: Vec<u32>,
    /// Whether the answer is a good one.
    pub desirable: bool,
}

/// A prompt and steps of an answer, each judged at its last token (process reward
/// models).
///
/// This is no [`Sample`]: a label is a verdict on the token it stands at, not an
/// id that is predicted from the tokens before it, so labels are never shifted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSample {
    /// Token ids of the prompt and all steps.
    pub input_ids: Vec<u32>,
    /// 1 at the end of a good step, 0 at the end of a bad one, [`IGNORE_INDEX`]
    /// elsewhere.
    pub labels: Vec<i32>,
}

/// Samples of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preferences {
    /// Pairs of answers.
    Pairs(Vec<PreferencePair>),
    /// Single answers with a verdict.
    Kto(Vec<KtoSample>),
    /// Steps with a verdict each.
    Steps(Vec<StepSample>),
}

impl From<Vec<PreferencePair>> for Preferences {
    fn from(samples: Vec<PreferencePair>) -> Self {
        Self::Pairs(samples)
    }
}

impl From<Vec<KtoSample>> for Preferences {
    fn from(samples: Vec<KtoSample>) -> Self {
        Self::Kto(samples)
    }
}

impl From<Vec<StepSample>> for Preferences {
    fn from(samples: Vec<StepSample>) -> Self {
        Self::Steps(samples)
    }
}

impl Preferences {
    /// No samples, of the same kind.
    #[must_use]
    pub fn none_of_kind(&self) -> Self {
        match self {
            Self::Pairs(_) => Self::Pairs(Vec::new()),
            Self::Kto(_) => Self::Kto(Vec::new()),
            Self::Steps(_) => Self::Steps(Vec::new()),
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Self::Pairs(samples) => samples.len(),
            Self::Kto(samples) => samples.len(),
            Self::Steps(samples) => samples.len(),
        }
    }

    /// True when there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The prompt, masked, and the answer, trained.
fn document(prompt: &[u32], answer: &[u32]) -> Sample {
    let mut sample = Sample::all_trained([prompt, answer].concat());
    sample.labels[..prompt.len()].fill(IGNORE_INDEX);
    sample
}

impl PreferencePair {
    /// The two sequences of the pair, better and worse, with the prompt masked.
    pub fn documents(&self) -> (Sample, Sample) {
        (
            document(&self.prompt, &self.chosen),
            document(&self.prompt, &self.rejected),
        )
    }

    /// Tokens of the longer of the two sequences.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.chosen.len().max(self.rejected.len())
    }

    /// Tokens of both sequences together, the prompt counted twice.
    pub fn tokens(&self) -> usize {
        2 * self.prompt.len() + self.chosen.len() + self.rejected.len()
    }

    /// Tokens of prompt and both answers, the prompt counted once where
    /// [`collate_forked_pairs`](crate::collate_forked_pairs) lays it out once.
    pub fn forked_tokens(&self) -> usize {
        match self.rejected.is_empty() {
            true => self.tokens(),
            false => self.tokens() - self.prompt.len(),
        }
    }

    /// True when one of the answers has no token.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty() || self.rejected.is_empty()
    }
}

impl KtoSample {
    /// The sequence, with the prompt masked.
    pub fn document(&self) -> Sample {
        document(&self.prompt, &self.completion)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.completion.len()
    }

    /// True when the answer has no token.
    pub fn is_empty(&self) -> bool {
        self.completion.is_empty()
    }
}

impl StepSample {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.input_ids.len()
    }

    /// True when there is no token.
    pub fn is_empty(&self) -> bool {
        self.input_ids.is_empty()
    }

    /// Number of steps that are judged.
    pub fn judged(&self) -> usize {
        crate::labels::trained_tokens(&self.labels)
    }
}

/// Cuts an answer to `room` tokens out of its middle: its last `end` tokens stay,
/// as far as there is room. Returns how many tokens were cut.
///
/// ```
/// # use seqprep::truncate_answer;
/// let mut answer = vec![1, 2, 3, 4, 9];
/// assert_eq!(truncate_answer(&mut answer, 3, 1), 2);
/// assert_eq!(answer, [1, 2, 9]);
/// ```
pub fn truncate_answer(answer: &mut Vec<u32>, room: usize, end: usize) -> usize {
    let length = answer.len();
    if length <= room {
        return 0;
    }
    let end = end.min(room).min(length);
    answer.drain(room - end..length - end);
    length - room
}

/// Keeps a pair of which both sequences have `min_sequence_len..=sequence_len`
/// tokens. A `min_sequence_len` of 0 stands for [`DEFAULT_MIN_SEQUENCE_LEN`](crate::DEFAULT_MIN_SEQUENCE_LEN).
pub fn drop_long_pair(
    pair: &PreferencePair,
    sequence_len: usize,
    min_sequence_len: usize,
) -> LengthOutcome {
    let shortest = pair.prompt.len() + pair.chosen.len().min(pair.rejected.len());
    let limits = (sequence_len, min_sequence_len);
    outcome(pair.is_empty(), shortest, pair.len(), limits)
}

/// As [`drop_long_pair`], but cuts answers to what the prompt leaves of
/// `sequence_len`. The last `ends` tokens of the better and the worse answer
/// stay. A pair whose prompt leaves no room is still too long.
pub fn truncate_pair(
    pair: &mut PreferencePair,
    sequence_len: usize,
    min_sequence_len: usize,
    ends: (usize, usize),
) -> LengthOutcome {
    let outcome = drop_long_pair(pair, sequence_len, min_sequence_len);
    let room = sequence_len.saturating_sub(pair.prompt.len());
    if outcome != LengthOutcome::TooLong || room == 0 {
        return outcome;
    }
    let removed = truncate_answer(&mut pair.chosen, room, ends.0)
        + truncate_answer(&mut pair.rejected, room, ends.1);
    LengthOutcome::Truncated { removed }
}

/// Keeps a sample of `min_sequence_len..=sequence_len` tokens. A
/// `min_sequence_len` of 0 stands for [`DEFAULT_MIN_SEQUENCE_LEN`](crate::DEFAULT_MIN_SEQUENCE_LEN).
pub fn drop_long_kto(
    sample: &KtoSample,
    sequence_len: usize,
    min_sequence_len: usize,
) -> LengthOutcome {
    let limits = (sequence_len, min_sequence_len);
    outcome(sample.is_empty(), sample.len(), sample.len(), limits)
}

/// As [`drop_long_kto`], but cuts the answer to what the prompt leaves of
/// `sequence_len`; its last `end` tokens stay.
pub fn truncate_kto(
    sample: &mut KtoSample,
    sequence_len: usize,
    min_sequence_len: usize,
    end: usize,
) -> LengthOutcome {
    let outcome = drop_long_kto(sample, sequence_len, min_sequence_len);
    let room = sequence_len.saturating_sub(sample.prompt.len());
    if outcome != LengthOutcome::TooLong || room == 0 {
        return outcome;
    }
    let removed = truncate_answer(&mut sample.completion, room, end);
    LengthOutcome::Truncated { removed }
}

/// Cuts judged steps on the right to `sequence_len` tokens.
pub fn truncate_steps(
    sample: &mut StepSample,
    sequence_len: usize,
    min_sequence_len: usize,
) -> LengthOutcome {
    let length = sample.len();
    let limits = (sequence_len, min_sequence_len);
    let outcome = outcome(sample.is_empty(), length, length, limits);
    if outcome != LengthOutcome::TooLong || sequence_len == 0 {
        return outcome;
    }
    sample.input_ids.truncate(sequence_len);
    sample.labels.truncate(sequence_len);
    LengthOutcome::Truncated {
        removed: length - sequence_len,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(prompt: usize, chosen: usize, rejected: usize) -> PreferencePair {
        PreferencePair {
            prompt: vec![1; prompt],
            chosen: (10..10 + chosen as u32).collect(),
            rejected: (50..50 + rejected as u32).collect(),
            margin: None,
        }
    }

    #[test]
    fn both_sequences_have_to_fit() {
        use LengthOutcome::{Empty, Kept, TooLong, TooShort};
        let drop = |p, c, r| drop_long_pair(&pair(p, c, r), 10, 2);
        assert_eq!(drop(3, 2, 2), Kept);
        assert_eq!(drop(5, 10, 2), TooLong);
        assert_eq!(drop(5, 2, 10), TooLong);
        assert_eq!(drop(5, 5, 5), Kept);
        assert_eq!(drop(5, 5, 0), Empty);
        assert_eq!(drop(0, 5, 1), TooShort);
        let kto = |prompt, completion| KtoSample {
            prompt: vec![1; prompt],
            completion: vec![2; completion],
            desirable: true,
        };
        assert_eq!(drop_long_kto(&kto(3, 2), 10, 0), Kept);
        assert_eq!(drop_long_kto(&kto(5, 10), 10, 0), TooLong);
        let mut long = kto(5, 10);
        let cut = truncate_kto(&mut long, 10, 0, 1);
        assert_eq!(
            (cut, long.len()),
            (LengthOutcome::Truncated { removed: 5 }, 10)
        );
    }

    #[test]
    fn a_cut_answer_keeps_its_end_and_the_prompt() {
        let mut long = pair(5, 10, 3);
        assert_eq!(
            truncate_pair(&mut long, 10, 2, (2, 2)),
            LengthOutcome::Truncated { removed: 5 }
        );
        assert_eq!(long.chosen, [10, 11, 12, 18, 19]);
        assert_eq!((long.prompt.len(), long.rejected.len()), (5, 3));
        // A prompt that leaves no room, and one that leaves room for the end alone.
        let mut full = pair(10, 3, 3);
        assert_eq!(
            truncate_pair(&mut full, 10, 2, (1, 1)),
            LengthOutcome::TooLong
        );
        assert_eq!(full, pair(10, 3, 3));
        let mut narrow = pair(9, 3, 3);
        truncate_pair(&mut narrow, 10, 2, (2, 2));
        assert_eq!((narrow.chosen, narrow.rejected), (vec![12], vec![52]));
    }

    #[test]
    fn documents_train_the_answers() {
        let (chosen, rejected) = pair(2, 2, 1).documents();
        assert_eq!(chosen.input_ids, [1, 1, 10, 11]);
        assert_eq!(chosen.labels, [-100, -100, 10, 11]);
        assert_eq!(rejected.labels, [-100, -100, 50]);
        assert_eq!((pair(2, 2, 1).len(), pair(2, 2, 1).tokens()), (4, 7));
    }

    #[test]
    fn steps_are_cut_with_their_verdicts() {
        let mut steps = StepSample {
            input_ids: vec![1, 2, 3, 4],
            labels: vec![-100, 1, -100, 0],
        };
        assert_eq!(steps.judged(), 2);
        assert_eq!(
            truncate_steps(&mut steps, 3, 2),
            LengthOutcome::Truncated { removed: 1 }
        );
        assert_eq!((steps.len(), steps.judged()), (3, 1));
        assert_eq!(truncate_steps(&mut steps, 9, 4), LengthOutcome::TooShort);
    }
}
