//! Texts to tokens.

use std::borrow::Cow;

use seqprep::{KtoSample, PreferencePair};
use trainer_config::Config;

use super::PreferenceObjective;
use super::layouts::Texts;
use crate::strategy::plain::Plain;
use crate::{DataError, Tokenizer};

/// How the texts of an objective become tokens.
pub(crate) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    objective: PreferenceObjective,
    plain: Plain,
    /// The token that prompts begin with.
    bos: Option<u32>,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(
        config: &Config,
        tokenizer: &'a Tokenizer,
        objective: PreferenceObjective,
    ) -> Result<Self, DataError> {
        // Whether it is the tokenizer's habit to open a text with the token.
        let opens = tokenizer.encode("", true)?.first().copied();
        let bos = tokenizer.bos_id();
        Ok(Self {
            tokenizer,
            plain: Plain::new(config, tokenizer),
            objective,
            bos: match objective {
                PreferenceObjective::Orpo => bos,
                _ => bos.filter(|bos| opens == Some(*bos)),
            },
        })
    }

    pub(super) fn pair(&self, texts: &Texts) -> Result<PreferencePair, DataError> {
        let [chosen, rejected] = &texts.answers;
        if self.objective == PreferenceObjective::RewardModel && texts.rendered {
            // A reward is read from the whole text, so it is tokenized as one.
            let (prompt, chosen) = self.whole(texts, chosen)?;
            let (other, rejected) = self.whole(texts, rejected)?;
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
            prompt: self.prompt(texts)?,
            chosen: self.answer(chosen)?,
            rejected: self.answer(rejected)?,
            margin: None,
        })
    }

    pub(super) fn kto(&self, texts: &Texts, desirable: bool) -> Result<KtoSample, DataError> {
        Ok(KtoSample {
            prompt: self.prompt(texts)?,
            completion: self.answer(&texts.answers[0])?,
            desirable,
        })
    }

    /// The tokens of a prompt, with the token that begins a sequence once.
    fn prompt(&self, texts: &Texts) -> Result<Vec<u32>, DataError> {
        let (prompt, cuts) = self.unmark(texts);
        let mut ids = self.ids(&prompt, &cuts)?;
        if let Some(bos) = self.bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// The tokens of an answer, with the end of the sequence; none where there is
    /// no text.
    fn answer(&self, text: &str) -> Result<Vec<u32>, DataError> {
        let mut ids = self.tokenizer.encode(text, false)?;
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
    fn whole(&self, texts: &Texts, answer: &str) -> Result<(Vec<u32>, Vec<u32>), DataError> {
        let (prompt, cuts) = self.unmark(texts);
        let text = format!("{prompt}{answer}");
        let mut encoded = self.tokenizer.encode_cut(&text, &cuts)?;
        let before = |span: &&std::ops::Range<usize>| span.end <= prompt.len();
        let length = encoded.offsets.iter().take_while(before).count();
        let answer = encoded.ids.split_off(length);
        Ok((encoded.ids, answer))
    }

    /// The prompt without its marks, and where they stood.
    fn unmark<'t>(&self, texts: &'t Texts) -> (Cow<'t, str>, Vec<usize>) {
        if texts.marked {
            self.plain.unmark(&texts.prompt)
        } else {
            (Cow::from(&texts.prompt), Vec::new())
        }
    }

    fn ids(&self, text: &str, cuts: &[usize]) -> Result<Vec<u32>, DataError> {
        if cuts.is_empty() {
            return self.tokenizer.encode(text, false);
        }
        Ok(self.tokenizer.encode_cut(text, cuts)?.ids)
    }

    /// How many special tokens an answer ends with, which a cut leaves.
    pub(super) fn ends(&self, answer: &[u32]) -> usize {
        let special = |id: &&u32| self.tokenizer.is_special(**id);
        answer.iter().rev().take_while(special).count()
    }
}
