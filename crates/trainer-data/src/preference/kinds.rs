//! The kinds of samples, as the [`pipeline`](crate::pipeline) makes them: pairs,
//! answers with a verdict, judged steps.

use seqprep::{
    KtoSample, LengthOutcome, PreferencePair, StepSample, drop_long_kto, drop_long_pair,
    truncate_kto, truncate_pair, truncate_steps,
};
use serde_json::Value;
use trainer_config::ExcessLength;

use super::PreferenceObjective;
use super::encode::Encoder;
use super::layouts::{Layout, Text};
use super::steps::Steps;
use crate::ledger::DropReason;
use crate::pipeline::{Hasher, Kind, Read, Size, Task, by_length};
use crate::source::Row;
use crate::{DataError, Place};

type PreferenceTask<'a> = Task<'a, PreferenceObjective>;

/// Limits of a sequence in tokens, the longest and the shortest.
fn limits(task: &PreferenceTask<'_>) -> (usize, usize) {
    (task.limit, task.config.min_sample_len)
}

/// Whether what is too long is cut. For a reward model it always is, short of
/// `raise`.
fn cuts(task: &PreferenceTask<'_>) -> bool {
    let reward = matches!(
        task.purpose,
        PreferenceObjective::RewardModel | PreferenceObjective::ProcessRewardModel
    );
    match task.config.excess_length_strategy {
        ExcessLength::Truncate => true,
        ExcessLength::Drop => reward,
        ExcessLength::Raise => false,
    }
}

/// What became of a sample whose longest sequence had `length` tokens, and of
/// which a cut may have left nothing to learn.
fn judged<K: Kind>(
    task: &PreferenceTask<'_>,
    at: &Place,
    sample: &K,
    length: usize,
    outcome: LengthOutcome,
    teaches: bool,
) -> Result<Option<DropReason>, DataError> {
    let dropped = by_length(task, at, length, outcome)?;
    let cut = matches!(outcome, LengthOutcome::Truncated { .. });
    let nothing = (cut && !teaches) || sample.size().trained == 0;
    let reason = match cut {
        true => DropReason::CutOff,
        false => DropReason::NothingToTrain,
    };
    Ok(dropped.or_else(|| nothing.then_some(reason)))
}

fn advice(task: &PreferenceTask<'_>, reason: DropReason) -> String {
    let advice = match (reason, task.purpose) {
        (DropReason::Empty, _) => "prompts and answers have to hold text",
        (_, PreferenceObjective::ProcessRewardModel) => "`labels` has to hold a verdict",
        _ => "answers have to hold text",
    };
    advice.to_owned()
}

impl Kind for PreferencePair {
    type Reader<'a> = (Layout<'a>, Encoder<'a>);
    type Purpose = PreferenceObjective;

    fn reader<'a>(task: &PreferenceTask<'a>, first: &Row) -> Result<Self::Reader<'a>, DataError> {
        let (config, tokenizer, purpose) = (task.config, task.tokenizer, task.purpose);
        Ok((
            Layout::new(config, task.dataset, first, tokenizer, purpose)?,
            Encoder::new(tokenizer, purpose),
        ))
    }

    fn name((layout, _): &Self::Reader<'_>) -> &'static str {
        layout.name
    }

    fn read((layout, encoder): &Self::Reader<'_>, row: &Row) -> Result<Read<Self>, DataError> {
        let texts = layout.texts(row)?;
        if texts.prompt.is_empty() || texts.answers.iter().any(Text::is_empty) {
            return Ok(Vec::new().into());
        }
        let mut pair = encoder.pair(&texts).map_err(|error| error.at(&row.at))?;
        pair.margin = match row.columns.get("margin") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let margin = value.as_f64().map(|margin| margin as f32);
                let margin = margin.ok_or_else(|| row.wrong_type("margin", "a number", value))?;
                if !margin.is_finite() {
                    let message = format!("`margin` is {value}, beyond what 32 bits hold (3.4e38)");
                    let at = row.at.clone();
                    return Err(DataError::Row { at, message });
                }
                Some(margin)
            }
        };
        Ok(Read {
            samples: vec![(pair, 0)],
            notes: texts.notes,
        })
    }

    fn size(&self) -> Size {
        Size {
            tokens: self.tokens(),
            longest: self.len(),
            trained: self.chosen.len() + self.rejected.len(),
        }
    }

    fn judge(
        &mut self,
        task: &PreferenceTask<'_>,
        (_, encoder): &Self::Reader<'_>,
        at: &Place,
    ) -> Result<Option<DropReason>, DataError> {
        let length = self.len();
        let (limit, shortest) = limits(task);
        let mut outcome = drop_long_pair(self, limit, shortest);
        if cuts(task) && outcome == LengthOutcome::TooLong {
            let ends = match task.purpose {
                // A plain cut: the reward is read wherever the text ends.
                PreferenceObjective::RewardModel => (0, 0),
                _ => (encoder.ends(&self.chosen), encoder.ends(&self.rejected)),
            };
            outcome = truncate_pair(self, limit, shortest, ends);
        }
        judged(
            task,
            at,
            self,
            length,
            outcome,
            self.chosen != self.rejected,
        )
    }

    fn hash(&self, hasher: &mut Hasher) {
        hasher.ids(&self.prompt);
        hasher.ids(&self.chosen);
        hasher.ids(&self.rejected);
        hasher.field(self.margin.iter().map(|margin| margin.to_le_bytes()));
    }

    fn shown(&self) -> Option<&[u32]> {
        None
    }

    fn cuts(task: &PreferenceTask<'_>) -> bool {
        cuts(task)
    }

    fn advice(task: &PreferenceTask<'_>, reason: DropReason) -> String {
        advice(task, reason)
    }
}

impl Kind for KtoSample {
    type Reader<'a> = (Layout<'a>, Encoder<'a>);
    type Purpose = PreferenceObjective;

    fn reader<'a>(task: &PreferenceTask<'a>, first: &Row) -> Result<Self::Reader<'a>, DataError> {
        PreferencePair::reader(task, first)
    }

    fn name((layout, _): &Self::Reader<'_>) -> &'static str {
        layout.name
    }

    fn read((layout, encoder): &Self::Reader<'_>, row: &Row) -> Result<Read<Self>, DataError> {
        let texts = layout.texts(row)?;
        let desirable = layout.verdict(row)?;
        if texts.prompt.is_empty() || texts.answers[0].is_empty() {
            return Ok(Vec::new().into());
        }
        let sample = encoder.kto(&texts, desirable);
        Ok(Read {
            samples: vec![(sample.map_err(|error| error.at(&row.at))?, 0)],
            notes: texts.notes,
        })
    }

    fn size(&self) -> Size {
        Size {
            tokens: self.len(),
            longest: self.len(),
            trained: self.completion.len(),
        }
    }

    fn judge(
        &mut self,
        task: &PreferenceTask<'_>,
        (_, encoder): &Self::Reader<'_>,
        at: &Place,
    ) -> Result<Option<DropReason>, DataError> {
        let length = self.len();
        let (limit, shortest) = limits(task);
        let outcome = if cuts(task) {
            let end = encoder.ends(&self.completion);
            truncate_kto(self, limit, shortest, end)
        } else {
            drop_long_kto(self, limit, shortest)
        };
        judged(task, at, self, length, outcome, true)
    }

    fn hash(&self, hasher: &mut Hasher) {
        hasher.ids(&self.prompt);
        hasher.ids(&self.completion);
        hasher.ids(&[u32::from(self.desirable)]);
    }

    fn shown(&self) -> Option<&[u32]> {
        None
    }

    fn cuts(task: &PreferenceTask<'_>) -> bool {
        cuts(task)
    }

    fn advice(task: &PreferenceTask<'_>, reason: DropReason) -> String {
        advice(task, reason)
    }
}

impl Kind for StepSample {
    type Reader<'a> = Steps<'a>;
    type Purpose = PreferenceObjective;

    fn reader<'a>(task: &PreferenceTask<'a>, _: &Row) -> Result<Self::Reader<'a>, DataError> {
        Steps::new(task.dataset, task.tokenizer, task.purpose)
    }

    fn name(_: &Self::Reader<'_>) -> &'static str {
        "stepwise_supervised"
    }

    fn read(reader: &Self::Reader<'_>, row: &Row) -> Result<Read<Self>, DataError> {
        Ok(vec![reader.sample(row)?].into())
    }

    fn size(&self) -> Size {
        Size {
            tokens: self.len(),
            longest: self.len(),
            trained: self.judged(),
        }
    }

    fn judge(
        &mut self,
        task: &PreferenceTask<'_>,
        _: &Self::Reader<'_>,
        at: &Place,
    ) -> Result<Option<DropReason>, DataError> {
        let length = self.len();
        let (limit, shortest) = limits(task);
        let outcome = if cuts(task) || length <= limit {
            truncate_steps(self, limit, shortest)
        } else {
            LengthOutcome::TooLong
        };
        judged(task, at, self, length, outcome, self.judged() > 0)
    }

    fn hash(&self, hasher: &mut Hasher) {
        hasher.ids(&self.input_ids);
        hasher.labels(&self.labels);
    }

    fn shown(&self) -> Option<&[u32]> {
        None
    }

    fn cuts(task: &PreferenceTask<'_>) -> bool {
        cuts(task)
    }

    fn advice(task: &PreferenceTask<'_>, reason: DropReason) -> String {
        match (reason, task.dataset.max_completion_length) {
            (DropReason::NothingToTrain, Some(longest)) => format!(
                "`labels` has to hold a verdict, on a step within `max_completion_length` (now {longest})"
            ),
            _ => advice(task, reason),
        }
    }
}
