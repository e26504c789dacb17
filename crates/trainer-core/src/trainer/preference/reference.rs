//! Log-probabilities under the reference model: computed once for all samples, or by
//! a second model, batch by batch.
//!
//! What is computed once is kept beside the prepared data, in a file that is named by
//! the tokens of the samples, the weights of the model and how tokens are weighted.
//! A file that does not hold what it should is computed anew.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};

use trainer_config::Config;
use trainer_model::{CausalLm, Linears, Weight, visit_values, write_atomically};

use super::Split;
use crate::adapter::Adapter;
use crate::batches::BatchSource;
use crate::error::Result;
use crate::history::Observer;

/// First bytes of a file, with the version of its layout and of the computation.
const MAGIC: &[u8; 8] = b"TRNREF1\n";

/// Two log-probabilities for each sample of a batch.
pub(super) type LogProbs = Vec<[f64; 2]>;

/// Batches whose samples have two log-probabilities each: of both answers of a pair,
/// or of an answer and a mismatched one.
pub(super) trait Compared: BatchSource {
    /// Which samples a batch holds.
    fn items(batch: &Self::Batch) -> &[u32];

    /// The log-probabilities of each sample, by a model that records no gradients.
    fn log_probs(batch: &Self::Batch, model: &CausalLm, ld_alpha: Option<f64>) -> LogProbs;
}

/// Where the log-probabilities of the reference come from.
pub(super) enum Reference {
    /// There is no reference.
    None,
    /// They will be computed once, by the model as it is before training.
    Ahead {
        /// Where they are kept, if anywhere.
        folder: Option<PathBuf>,
    },
    /// They are known, of training and of evaluation samples.
    Known { train: LogProbs, eval: LogProbs },
    /// A second model computes them.
    Model(Box<CausalLm>),
    /// The model that is trained computes them, without its adapter.
    Beneath(Box<Adapter>),
}

impl Reference {
    /// What the configuration asks for; a second model wins where there is one.
    pub(super) fn new(
        config: &Config,
        second: Option<CausalLm>,
        adapter: Option<&Adapter>,
    ) -> Self {
        let ahead = config.preference.precompute_ref_log_probs != Some(false);
        match (second, adapter) {
            (Some(model), _) => Self::Model(Box::new(model)),
            (None, Some(adapter)) if !ahead => Self::Beneath(Box::new(adapter.clone())),
            (None, _) => Self::Ahead {
                folder: config
                    .dataset_prepared_path
                    .clone()
                    .filter(|path| !path.as_os_str().is_empty()),
            },
        }
    }

    /// Whether [`prepare`](Self::prepare) looks at the model.
    pub(super) fn is_ahead(&self) -> bool {
        matches!(self, Self::Ahead { .. })
    }

    /// Computes what is computed once. `model` records no gradients and is as it was
    /// before training.
    ///
    /// # Errors
    /// When a batch cannot be made.
    pub(super) fn prepare<S: Compared>(
        &mut self,
        model: &CausalLm,
        train: Option<&dyn BatchSource<Batch = S::Batch>>,
        eval: Option<&S>,
        ld_alpha: Option<f64>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let Self::Ahead { folder } = self else {
            return Ok(());
        };
        let weights = fingerprint(model);
        let file = |batches: &dyn BatchSource<Batch = S::Batch>| -> Result<Option<PathBuf>> {
            let Some(folder) = &folder else {
                return Ok(None);
            };
            let mut hasher = blake3::Hasher::new();
            hasher.update(MAGIC);
            hasher.update(batches.digest()?.as_bytes());
            hasher.update(&weights);
            hasher.update(&ld_alpha.unwrap_or(1.0).to_le_bytes());
            let name = &hasher.finalize().to_hex()[..32];
            Ok(Some(folder.join(format!("reference-{name}.bin"))))
        };
        let mut known = |batches: &dyn BatchSource<Batch = S::Batch>| -> Result<LogProbs> {
            let file = file(batches)?;
            if let Some(found) = file.as_deref().and_then(|file| read(file, batches.len())) {
                return Ok(found);
            }
            let found = compute::<S>(batches, model, ld_alpha, observer)?;
            if let Some(file) = file {
                // It is a copy: without it, the next run computes anew.
                let _ = write(&file, &found);
            }
            Ok(found)
        };
        *self = Self::Known {
            train: match train {
                Some(batches) => known(batches)?,
                None => Vec::new(),
            },
            eval: match eval {
                Some(batches) => known(batches)?,
                None => Vec::new(),
            },
        };
        Ok(())
    }

    /// The log-probabilities of the samples of a batch; zeros without a reference.
    /// `model` is the one that is trained, recording no gradients.
    pub(super) fn log_probs<S: Compared>(
        &self,
        model: &CausalLm,
        batch: &S::Batch,
        split: Split,
        ld_alpha: Option<f64>,
    ) -> LogProbs {
        let items = S::items(batch);
        let look_up = |known: &LogProbs| {
            let item = |item: &u32| known.get(*item as usize).copied().unwrap_or_default();
            items.iter().map(item).collect()
        };
        match (self, split) {
            (Self::None | Self::Ahead { .. }, _) => vec![[0.0; 2]; items.len()],
            (Self::Known { train, .. }, Split::Train) => look_up(train),
            (Self::Known { eval, .. }, Split::Eval) => look_up(eval),
            (Self::Model(second), _) => S::log_probs(batch, second, ld_alpha),
            (Self::Beneath(adapter), _) => {
                S::log_probs(batch, &adapter.switched_off(model), ld_alpha)
            }
        }
    }
}

/// All log-probabilities, in the batches of the first epoch: training starts with the
/// same batches, and so with exactly the reference's numbers.
fn compute<S: Compared>(
    batches: &dyn BatchSource<Batch = S::Batch>,
    model: &CausalLm,
    ld_alpha: Option<f64>,
    observer: &mut dyn Observer,
) -> Result<LogProbs> {
    let mut all = vec![[0.0; 2]; batches.len()];
    let plan = batches.plan(0)?;
    let total = plan.num_batches();
    for (done, rows) in plan.batches().enumerate() {
        let batch = batches.collate(&rows)?;
        let found = S::log_probs(&batch, model, ld_alpha);
        for (item, log_probs) in S::items(&batch).iter().zip(found) {
            all[*item as usize] = log_probs;
        }
        observer.preparing("reference log-probabilities", done + 1, total);
    }
    Ok(all)
}

/// Hash of the weights of a model, those in few bits among them, and of its
/// configuration.
fn fingerprint(model: &CausalLm) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    let config = serde_json::to_vec(&model.config().raw).unwrap_or_default();
    hasher.update(&config);
    let hashed = visit_values(model, |name, value| -> Result<(), Infallible> {
        hasher.update(name.as_bytes());
        value
            .pieces()
            .for_each(|piece| add(&mut hasher, piece.as_ref()));
        Ok(())
    });
    match hashed {
        Ok(()) => {}
        Err(never) => match never {},
    }
    // These are no parameters.
    let hashed = model.clone().each_linear("", &mut |name, linear| {
        if let Weight::Quantized(quantized) = &linear.weight {
            hasher.update(name.as_bytes());
            for (start, rows) in quantized.matrix.blocks() {
                add(&mut hasher, &quantized.matrix.rows(start, rows));
            }
        }
        Ok(())
    });
    debug_assert!(hashed.is_ok(), "the closure gives no error");
    hasher.finalize().into()
}

fn add(hasher: &mut blake3::Hasher, numbers: &[f32]) {
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    hasher.update(&bytes);
}

fn write(path: &Path, log_probs: &[[f64; 2]]) -> Result<()> {
    let numbers = log_probs.iter().flatten().flat_map(|x| x.to_le_bytes());
    let body: Vec<u8> = MAGIC.iter().copied().chain(numbers).collect();
    let hash = blake3::hash(&body);
    let bytes = [&body[..], hash.as_bytes()].concat();
    Ok(write_atomically(path, |temporary| {
        fs::write(temporary, &bytes).map_err(|source| trainer_model::ModelError::Io {
            path: path.to_path_buf(),
            source,
        })
    })?)
}

/// What a file holds, if it holds what it should.
fn read(path: &Path, samples: usize) -> Option<LogProbs> {
    let bytes = fs::read(path).ok()?;
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    let numbers = body.strip_prefix(MAGIC)?;
    if blake3::hash(body).as_bytes() != hash || numbers.len() != samples.checked_mul(16)? {
        return None;
    }
    let (numbers, _) = numbers.as_chunks::<8>();
    let (pairs, _) = numbers.as_chunks::<2>();
    Some(
        pairs
            .iter()
            .map(|pair| pair.map(f64::from_le_bytes))
            .collect(),
    )
}
