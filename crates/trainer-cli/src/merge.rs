//! An adapter worked into the weights of its model, and the proof that it was.

use std::path::Path;

use trainer_model::{
    CausalLm, LoraAdapter, Pretrained, RewardModel, RewardTask, Tokens, check_finite,
};

use crate::failure::Failure;

/// Rows and tokens that models are compared on.
const PROBE: (usize, usize) = (4, 32);

/// Largest difference that is put down to rounding, as a part of the largest value, and the
/// smallest that is taken for more where an adapter changes little.
const ROUNDING: (f32, f32) = (1e-4, 1e-5);

/// Models whose outputs are compared.
pub(crate) trait Probe: Pretrained {
    /// What the outputs are called.
    const OUTPUTS: &'static str;

    /// The outputs on a few rows of tokens that are spread over the vocabulary.
    fn probe(&self) -> Vec<f32>;
}

impl Probe for CausalLm {
    const OUTPUTS: &'static str = "logits";

    fn probe(&self) -> Vec<f32> {
        let hidden_btd = with_tokens(self, |tokens| self.hidden(&self.input(tokens)));
        self.logits(hidden_btd).into_data().iter::<f32>().collect()
    }
}

impl Probe for RewardModel {
    const OUTPUTS: &'static str = "scores";

    fn probe(&self) -> Vec<f32> {
        let hidden_btd = with_tokens(self, |tokens| self.hidden(&self.input(tokens)));
        let (rows, width) = (PROBE.0 as u32, PROBE.1 as u32);
        let positions: Vec<u32> = match self.task() {
            RewardTask::Sequence => (1..=rows).map(|row| row * width - 1).collect(),
            RewardTask::Token => (0..rows * width).collect(),
        };
        let scores_nc = self.scores(hidden_btd, &positions);
        scores_nc.into_data().iter::<f32>().collect()
    }
}

fn with_tokens<M: Pretrained, T>(model: &M, f: impl FnOnce(&Tokens<'_>) -> T) -> T {
    let (rows, width) = PROBE;
    let vocab = model.config().vocab_size as u64;
    let input_ids: Vec<u32> = (1..=(rows * width) as u64)
        .map(|n| ((n * 2_654_435_761) % vocab) as u32)
        .collect();
    let position_ids: Vec<u32> = (0..rows).flat_map(|_| 0..width as u32).collect();
    f(&Tokens {
        rows,
        width,
        input_ids: &input_ids,
        position_ids: &position_ids,
        segment_ids: &vec![1; rows * width],
    })
}

/// A model with its adapter worked in.
pub(crate) struct Merged<M> {
    pub(crate) model: M,
    /// Its outputs.
    pub(crate) outputs: Vec<f32>,
    pub(crate) compared: Compared,
}

/// How the outputs of a merged model compare with those of model and adapter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Compared {
    /// The largest output of model and adapter.
    pub(crate) largest: f32,
    /// What the adapter changes at most.
    pub(crate) change: f32,
    /// By how much the merged model differs at most.
    pub(crate) difference: f32,
}

/// Merges the adapter of a folder into `base`, whose weights are no codes, and compares the
/// outputs.
pub(crate) fn merge<M: Probe>(base: M, folder: &Path) -> Result<Merged<M>, Failure> {
    let before = base.probe();
    let (model, adapter) = LoraAdapter::load(base, folder)?;
    let adapted = model.probe();
    let model = adapter.merged(model);
    check_finite(&model)?;
    let outputs = model.probe();
    let compared = compare(&before, &adapted, &outputs).map_err(|message| {
        Failure::new(format!(
            "{}: the {} of the merged model {message}; nothing is saved",
            folder.display(),
            M::OUTPUTS
        ))
    })?;
    Ok(Merged {
        model,
        outputs,
        compared,
    })
}

/// Compares the outputs of a model before and with its adapter, and merged with it. NaN
/// would pass for a small difference, and a merge without the adapter differs by what the
/// adapter changes: neither may pass.
fn compare(before: &[f32], adapted: &[f32], merged: &[f32]) -> Result<Compared, String> {
    check_outputs(&[before, adapted, merged])?;
    let largest = adapted.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
    let found = Compared {
        largest,
        change: difference(before, adapted),
        difference: difference(adapted, merged),
    };
    let (most, least) = (ROUNDING.0 * largest, ROUNDING.1 * largest);
    let allowed = (0.5 * found.change).clamp(least, most);
    match found.difference <= allowed {
        true => Ok(found),
        false => Err(format!(
            "differ from those of model and adapter by {:.1e} (the adapter changes them by {:.1e}, the \
             largest is {:.1e})",
            found.difference, found.change, found.largest
        )),
    }
}

/// Checks that outputs are finite.
pub(crate) fn check_outputs(all: &[&[f32]]) -> Result<(), String> {
    let outputs = || all.iter().flat_map(|outputs| outputs.iter());
    let wrong = outputs().filter(|output| !output.is_finite()).count();
    match wrong {
        0 => Ok(()),
        wrong => Err(format!(
            "cannot be compared: {wrong} of {} numbers are not finite",
            outputs().count()
        )),
    }
}

/// The largest difference.
pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    let pairs = a.iter().zip(b);
    pairs.fold(0.0, |max, (a, b)| max.max((a - b).abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_that_drops_its_adapter_fails() {
        let before = [1.0, -8.0, 3.0];
        for change in [1.0, 1e-2, 1e-3, 2e-4] {
            let adapted = before.map(|x| x + change);
            let found = compare(&before, &adapted, &adapted).unwrap();
            assert_eq!(found.difference, 0.0);
            // What rounding does is no reason to refuse.
            let rounded = adapted.map(|x| x * (1.0 + 2e-6));
            assert!(compare(&before, &adapted, &rounded).is_ok(), "{change}");
            let dropped = compare(&before, &adapted, &before).unwrap_err();
            assert!(dropped.starts_with("differ from those"), "{dropped}");
        }
        // An adapter that does nothing yet.
        assert!(compare(&before, &before, &before).is_ok());
        // One that changes everything does not excuse a large difference.
        let adapted = before.map(|x| -100.0 * x);
        let merged = adapted.map(|x| 1.01 * x);
        assert!(compare(&before, &adapted, &merged).is_err());
    }

    #[test]
    fn what_is_not_finite_fails() {
        let good = [1.0, 2.0];
        for wrong in [f32::NAN, f32::INFINITY] {
            let wrong = [1.0, wrong];
            for (before, adapted, merged) in [
                (&wrong, &good, &good),
                (&good, &wrong, &good),
                (&good, &good, &wrong),
                (&wrong, &wrong, &wrong),
            ] {
                let error = compare(before, adapted, merged).unwrap_err();
                assert!(error.contains("are not finite"), "{error}");
            }
        }
    }
}
