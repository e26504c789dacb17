//! Trainers that learn from preferences, rewards and judged steps.
//!
//! A forward pass gives a number for each document of a batch: log-probabilities of
//! its answer, or a reward. These few numbers go to the host, where
//! [`losses`](crate::losses) makes of them the loss and its derivatives; the sum of
//! the numbers times their derivatives goes back through the model.
//!
//! Where TRL takes a mean over the tokens of a batch (the part of ORPO, CPO and `sft`
//! that is supervised fine-tuning), so does this: these parts change with
//! `micro_batch_size`. Everything else is a mean over the pairs of a step, however
//! they are divided into batches.

mod answers;
mod heads;
mod kto;
mod largest;
mod pairs;
mod reference;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use seqprep::Preferences;
use serde_json::json;
use trainer_config::{Config, Rl, Task};
use trainer_model::{CausalLm, RewardModel, RewardTask};

use self::heads::{Rewards, Verdicts};
use self::kto::Kto;
pub(super) use self::largest::largest_batch;
use self::pairs::Pairs;
use super::AnyModel;
use super::evaluation::insert_finite;
use super::objective::{Metrics, Objective};
use super::resume::Resume;
use super::run::{Probe, Run};
use super::weights::Weights;
use crate::batch_plan::BatchOptions;
use crate::batches::BatchSource;
use crate::error::{Result, TrainerError};
use crate::feed::Feed;
use crate::history::{LogRow, Observer};
use crate::tokenizer::TrainerTokenizer;

/// Trains on preferences, by the objective that `config.preference` names.
pub struct PreferenceTrainer(Kind);

/// One run for each kind of model and batch.
enum Kind {
    Pairs(Run<Pairs>),
    Kto(Run<Kto>),
    Rewards(Run<Rewards>),
    Verdicts(Run<Verdicts>),
}

/// What every kind of run takes beside its samples.
pub(super) struct Parts {
    pub(super) tokenizer: Arc<dyn TrainerTokenizer>,
    pub(super) total_steps: Option<usize>,
    /// A reference model beside the one that is trained.
    pub(super) second: Option<CausalLm>,
    pub(super) resume: Resume,
    pub(super) weights: Weights,
}

impl Parts {
    fn run<O: Objective>(
        self,
        config: &Config,
        objective: O,
        batches: impl BatchSource<Batch = O::Batch> + 'static,
        model: O::Model,
    ) -> Result<Run<O>> {
        let feed = Feed::samples(batches);
        let (tokenizer, total_steps) = (self.tokenizer, self.total_steps);
        Run::new(
            config,
            objective,
            feed,
            model,
            tokenizer,
            total_steps,
            self.resume,
        )
    }
}

impl PreferenceTrainer {
    pub(super) fn new(
        config: &Config,
        train: Preferences,
        eval: Preferences,
        model: AnyModel,
        mut parts: Parts,
    ) -> Result<Self> {
        use Preferences as P;
        let task = config.preference.task();
        if parts.second.is_some() && !task.has_reference() {
            return Err(TrainerError::Setup(
                "this objective compares the model with no reference, and has no use for a \
                 reference model"
                    .into(),
            ));
        }
        let ids = Ids::new(&model, parts.tokenizer.pad_id());
        let second = parts.second.take();
        let weights = parts.weights.clone();
        let kind = match (task, model, train, eval) {
            (Task::Rl(Rl::Kto), AnyModel::Causal(model), P::Kto(train), P::Kto(eval)) => {
                let train = kto::batches(config, train, Split::Train, ids)?;
                let eval = held_back(eval, |eval| kto::batches(config, eval, Split::Eval, ids))?;
                let objective = Kto::new(config, eval, second, weights);
                Kind::Kto(parts.run(config, objective, train, model)?)
            }
            (Task::Rl(rl), AnyModel::Causal(model), P::Pairs(train), P::Pairs(eval))
                if rl != Rl::Kto =>
            {
                let train = pairs::batches(config, train, Split::Train, ids)?;
                let eval = held_back(eval, |eval| pairs::batches(config, eval, Split::Eval, ids))?;
                let objective = Pairs::new(config, rl, eval, second, weights);
                Kind::Pairs(parts.run(config, objective, train, model)?)
            }
            (Task::RewardModel, AnyModel::Reward(model), P::Pairs(train), P::Pairs(eval)) => {
                check_head(&model, RewardTask::Sequence, 1)?;
                let train = pairs::batches(config, train, Split::Train, ids)?;
                let eval = held_back(eval, |eval| pairs::batches(config, eval, Split::Eval, ids))?;
                let objective = Rewards::new(config, eval, weights);
                Kind::Rewards(parts.run(config, objective, train, model)?)
            }
            (
                Task::ProcessRewardModel,
                AnyModel::Reward(model),
                P::Steps(train),
                P::Steps(eval),
            ) => {
                check_head(&model, RewardTask::Token, 2)?;
                let train = heads::step_batches(config, train, Split::Train, ids)?;
                let eval = held_back(eval, |eval| {
                    heads::step_batches(config, eval, Split::Eval, ids)
                })?;
                let objective = Verdicts::new(config, eval, weights);
                Kind::Verdicts(parts.run(config, objective, train, model)?)
            }
            _ => return Err(super::setup::unfit()),
        };
        Ok(Self(kind))
    }

    pub(super) fn total_steps(&self) -> usize {
        match &self.0 {
            Kind::Pairs(run) => run.total_steps(),
            Kind::Kto(run) => run.total_steps(),
            Kind::Rewards(run) => run.total_steps(),
            Kind::Verdicts(run) => run.total_steps(),
        }
    }

    pub(super) fn lock(&mut self) -> Result<()> {
        match &mut self.0 {
            Kind::Pairs(run) => run.lock(),
            Kind::Kto(run) => run.lock(),
            Kind::Rewards(run) => run.lock(),
            Kind::Verdicts(run) => run.lock(),
        }
    }

    pub(super) fn probe(self) -> Result<Probe> {
        match self.0 {
            Kind::Pairs(run) => run.probe(),
            Kind::Kto(run) => run.probe(),
            Kind::Rewards(run) => run.probe(),
            Kind::Verdicts(run) => run.probe(),
        }
    }

    pub(super) fn train(self, observer: &mut dyn Observer) -> Result<(AnyModel, LogRow)> {
        Ok(match self.0 {
            Kind::Pairs(run) => with_kind(run.train(observer)?, AnyModel::Causal),
            Kind::Kto(run) => with_kind(run.train(observer)?, AnyModel::Causal),
            Kind::Rewards(run) => with_kind(run.train(observer)?, AnyModel::Reward),
            Kind::Verdicts(run) => with_kind(run.train(observer)?, AnyModel::Reward),
        })
    }
}

/// Values of a model on `eval`, under the names that a run logs them by.
///
/// `model` records no gradients. `reference` is the model that DPO, IPO and KTO
/// compare it with.
///
/// # Errors
/// When the parts do not fit the objective of the configuration or one another, or
/// there are no samples; when a value is not finite.
pub fn evaluate_preferences(
    config: &Config,
    eval: Preferences,
    model: impl Into<AnyModel>,
    reference: Option<CausalLm>,
    pad_id: u32,
) -> Result<LogRow> {
    use Preferences as P;
    let (task, model) = (config.preference.task(), model.into());
    if task.has_reference() && reference.is_none() {
        return Err(TrainerError::Setup(
            "this objective compares the model with a reference, and there is none".into(),
        ));
    }
    let (split, ids) = (Split::Eval, Ids::new(&model, pad_id));
    let weights = Weights::new(config, None);
    match (task, model, eval) {
        (Task::Rl(Rl::Kto), AnyModel::Causal(model), P::Kto(eval)) => {
            let eval = Some(kto::batches(config, eval, split, ids)?);
            Kto::new(config, eval, reference, weights).evaluate(&model)
        }
        (Task::Rl(rl), AnyModel::Causal(model), P::Pairs(eval)) if rl != Rl::Kto => {
            let eval = Some(pairs::batches(config, eval, split, ids)?);
            Pairs::new(config, rl, eval, reference, weights).evaluate(&model)
        }
        (Task::RewardModel, AnyModel::Reward(model), P::Pairs(eval)) => {
            check_head(&model, RewardTask::Sequence, 1)?;
            let eval = Some(pairs::batches(config, eval, split, ids)?);
            Rewards::new(config, eval, weights).evaluate(&model)
        }
        (Task::ProcessRewardModel, AnyModel::Reward(model), P::Steps(eval)) => {
            check_head(&model, RewardTask::Token, 2)?;
            let eval = Some(heads::step_batches(config, eval, split, ids)?);
            Verdicts::new(config, eval, weights).evaluate(&model)
        }
        _ => Err(super::setup::unfit()),
    }
}

/// What batches need to know of a model and its tokenizer.
#[derive(Debug, Clone, Copy)]
struct Ids {
    vocab_size: usize,
    pad: u32,
    /// Whether a part of the loss is taken over all tokens: the one that balances
    /// experts.
    balances: bool,
}

impl Ids {
    fn new(model: &AnyModel, pad: u32) -> Self {
        let config = match model {
            AnyModel::Causal(model) => model.config(),
            AnyModel::Reward(model) => model.config(),
        };
        let experts = config.experts.as_ref();
        Self {
            vocab_size: model.vocab_size(),
            pad,
            balances: experts.is_some_and(|experts| experts.balance.is_some()),
        }
    }
}

/// Which samples are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    Train,
    Eval,
}

impl Split {
    /// How its samples become batches.
    fn options(self, config: &Config, ids: Ids) -> Result<BatchOptions> {
        match self {
            Self::Train => BatchOptions::training(config, ids.pad),
            Self::Eval => Ok(BatchOptions::evaluation(config, ids.pad)),
        }
    }

    /// How messages call it.
    fn name(self) -> &'static str {
        match self {
            Self::Train => "training",
            Self::Eval => "evaluation",
        }
    }
}

/// Batches of the samples that are evaluated on, if there are any.
fn held_back<T, B>(
    samples: Vec<T>,
    batches: impl FnOnce(Vec<T>) -> Result<B>,
) -> Result<Option<B>> {
    match samples.is_empty() {
        true => Ok(None),
        false => batches(samples).map(Some),
    }
}

fn with_kind<M>((model, row): (M, LogRow), kind: fn(M) -> AnyModel) -> (AnyModel, LogRow) {
    (kind(model), row)
}

/// Whether the head of a model gives what the objective takes.
fn check_head(model: &RewardModel, task: RewardTask, labels: usize) -> Result<()> {
    let found = model.config().num_labels;
    if model.task() == task && found == labels {
        return Ok(());
    }
    let wanted = match task {
        RewardTask::Sequence => "one number for each answer",
        RewardTask::Token => "two numbers for each token",
    };
    Err(TrainerError::Setup(format!(
        "the head of the model must give {wanted}, but it gives {found} {}",
        match model.task() {
            RewardTask::Sequence => "for each answer",
            RewardTask::Token => "for each token",
        }
    )))
}

/// What a batch contributes to an evaluation.
struct Evaluated {
    /// Mean loss of its samples.
    loss: f64,
    samples: usize,
    metrics: Metrics,
}

/// Values over all batches of the evaluation data: `eval_loss` is the mean over the
/// samples.
fn evaluate<S: BatchSource>(
    batches: &S,
    mut step: impl FnMut(&S::Batch) -> Result<Evaluated>,
) -> Result<LogRow> {
    let started = Instant::now();
    let plan = batches.plan(0)?;
    let (mut loss_sum, mut samples) = (0.0, 0);
    let mut metrics = Metrics::default();
    for rows in plan.batches() {
        let batch = step(&batches.collate(&rows)?)?;
        loss_sum += batch.loss * batch.samples as f64;
        samples += batch.samples;
        metrics.merge(batch.metrics);
    }
    let seconds = started.elapsed().as_secs_f64().max(1e-9);
    let mut row = LogRow::new();
    insert_finite(&mut row, "eval_loss", loss_sum / samples.max(1) as f64)?;
    for (name, value) in metrics.means() {
        insert_finite(&mut row, &format!("eval_{name}"), value)?;
    }
    row.insert("eval_runtime".into(), json!(seconds));
    let per_second = |n: usize| json!(n as f64 / seconds);
    row.insert("eval_samples_per_second".into(), per_second(batches.len()));
    row.insert(
        "eval_steps_per_second".into(),
        per_second(plan.num_batches()),
    );
    Ok(row)
}

/// The load-balancing loss of a batch of `samples`, which is in the loss times its
/// coefficient, as TRL logs it.
fn watch_balance(model: &CausalLm, balance: f64, samples: usize, metrics: &mut Metrics) {
    let experts = model.config().experts.as_ref();
    if let Some(coefficient) = experts.and_then(|experts| experts.balance) {
        metrics.add("aux_loss", balance / coefficient, samples as f64);
    }
}

/// Tokens seen so far, under the name that TRL gives them.
fn count_tokens(row: &mut LogRow) {
    if let Some(tokens) = row.get("tokens/total").cloned() {
        row.insert("num_tokens".into(), tokens);
    }
}
