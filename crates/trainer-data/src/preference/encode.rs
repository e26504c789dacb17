//! Texts to tokens.

use seqprep::{KtoSample, PreferencePair};

use super::PreferenceObjective;
use super::layouts::{Text, Texts};
use crate::{DataError, Tokenizer};

/// How the texts of an objective become tokens.
pub(crate) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    objective: PreferenceObjective,
    /// The tokens that prompts begin with.
    opening: Vec<u32>,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, objective: PreferenceObjective) -> Self {
        Self {
            tokenizer,
            objective,
            opening: objective.opening(tokenizer),
        }
    }

    pub(super) fn pair(&self, texts: &Texts) -> Result<PreferencePair, DataError> {
        let [chosen, rejected] = &texts.answers;
        if self.objective == PreferenceObjective::RewardModel && texts.rendered {
            // A reward is read from the whole text, so it is tokenized as one.
            let (prompt, chosen) = self.whole(&texts.prompt, chosen)?;
            let (other, rejected) = self.whole(&texts.prompt, rejected)?;
            if prompt == other {
                return Ok(PreferencePair {
                    prompt,
                    chosen,
                    rejected,
                    margin: None,
                });
            }
            // The first characters of an answer change the tokens before it.
            return Ok(PreferencePair {
                prompt: Vec::new(),
                chosen: [prompt, chosen].concat(),
                rejected: [other, rejected].concat(),
                margin: None,
            });
        }
        Ok(PreferencePair {
            prompt: self.prompt(&texts.prompt)?,
            chosen: self.answer(chosen)?,
            rejected: self.answer(rejected)?,
            margin: None,
        })
    }

    pub(super) fn kto(&self, texts: &Texts, desirable: bool) -> Result<KtoSample, DataError> {
        Ok(KtoSample {
            prompt: self.prompt(&texts.prompt)?,
            completion: self.answer(&texts.answers[0])?,
            desirable,
        })
    }

    /// The tokens of a prompt, with the token that begins a sequence once.
    fn prompt(&self, text: &Text) -> Result<Vec<u32>, DataError> {
        let mut ids = self.ids(text)?;
        begin(&mut ids, &self.opening);
        Ok(ids)
    }

    /// The tokens of an answer, with the end of the sequence; none where there is
    /// no text.
    fn answer(&self, text: &Text) -> Result<Vec<u32>, DataError> {
        let mut ids = self.ids(text)?;
        match (self.tokenizer.eos_id(), ids.last()) {
            (Some(eos), Some(last)) if *last != eos => ids.push(eos),
            (None, Some(last)) if !self.tokenizer.is_special(*last) => {
                return Err(self.tokenizer.no_end());
            }
            _ => {}
        }
        Ok(ids)
    }

    /// The tokens of prompt and answer as one text, up to the end of the prompt and
    /// after it.
    fn whole(&self, prompt: &Text, answer: &Text) -> Result<(Vec<u32>, Vec<u32>), DataError> {
        let end = prompt.text.len();
        let text = format!("{}{}", prompt.text, answer.text);
        let mut cuts = prompt.cuts.clone();
        cuts.extend(answer.cuts.iter().map(|cut| end + cut));
        let mut encoded = self.tokenizer.encode_cut(&text, &cuts)?;
        let before = |span: &&std::ops::Range<usize>| span.end <= end;
        let length = encoded.offsets.iter().take_while(before).count();
        let answer = encoded.ids.split_off(length);
        Ok((encoded.ids, answer))
    }

    fn ids(&self, text: &Text) -> Result<Vec<u32>, DataError> {
        if text.cuts.is_empty() {
            return self.tokenizer.encode(&text.text, false);
        }
        Ok(self.tokenizer.encode_cut(&text.text, &text.cuts)?.ids)
    }

    /// How many special tokens an answer ends with, which a cut leaves.
    pub(super) fn ends(&self, answer: &[u32]) -> usize {
        let special = |id: &&u32| self.tokenizer.is_special(**id);
        answer.iter().rev().take_while(special).count()
    }
}

/// Puts what a sequence begins with in front, unless it is there.
pub(crate) fn begin(ids: &mut Vec<u32>, opening: &[u32]) {
    if !ids.starts_with(opening) {
        ids.splice(..0, opening.iter().copied());
    }
}
