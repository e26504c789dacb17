//! Keys about learning from preferences, rewards and judged steps.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::names;

names! {
    /// What is learned from preferences.
    Rl {
        /// Direct preference optimization, by the losses of `dpo_loss_type`.
        Dpo = "dpo",
        /// `dpo` with `dpo_loss_type: [ipo]`.
        Ipo = "ipo",
        /// Kahneman-Tversky optimization, from single answers with a verdict.
        Kto = "kto",
        /// Odds ratio preference optimization, without a reference model.
        Orpo = "orpo",
        /// Simple preference optimization, without a reference model.
        Simpo = "simpo",
        /// Contrastive preference optimization, without a reference model.
        Cpo = "cpo",
    }
}

names! {
    /// Losses of `rl: dpo`, under TRL's names. `c` and `r` are the log-ratios of
    /// policy to reference of the chosen and of the rejected answer.
    DpoLossType {
        /// `−log σ(β(c − r))`; with `dpo_label_smoothing` conservative DPO.
        Sigmoid = "sigmoid",
        /// `max(0, 1 − β(c − r))`.
        Hinge = "hinge",
        /// Squared distance of the difference of means over tokens from `1/(2β)`.
        Ipo = "ipo",
        /// Efficient exact optimization; needs `dpo_label_smoothing`.
        ExoPair = "exo_pair",
        /// Noise contrastive alignment.
        NcaPair = "nca_pair",
        /// Unbiased where a part `dpo_label_smoothing` of the pairs is swapped.
        Robust = "robust",
        /// A binary classifier of good and bad answers.
        BcoPair = "bco_pair",
        /// Self-play preference optimization with certain winners.
        SppoHard = "sppo_hard",
        /// Alignment via optimal transport, of pairs.
        Aot = "aot",
        /// Alignment via optimal transport, of answers that need not be pairs.
        AotUnpaired = "aot_unpaired",
        /// Anchored: raises the chosen answer, lowers the rejected one.
        ApoZero = "apo_zero",
        /// Anchored: lowers both, the rejected one more.
        ApoDown = "apo_down",
        /// Found by a search over losses.
        Discopop = "discopop",
        /// Supervised fine-tuning on the chosen answer, to be mixed with others.
        Sft = "sft",
        /// `sigmoid` of means over tokens.
        SigmoidNorm = "sigmoid_norm",
    }
}

names! {
    /// How far policy and reference are apart is measured by this divergence.
    FDivergence {
        /// The one of standard DPO.
        ReverseKl = "reverse_kl",
        /// Forward KL divergence.
        ForwardKl = "forward_kl",
        /// Jensen-Shannon divergence.
        JsDivergence = "js_divergence",
        /// α-divergence with `f_alpha_divergence_coef`.
        AlphaDivergence = "alpha_divergence",
    }
}

/// What a run learns, as `rl`, `reward_model` and `process_reward_model` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Predicting the next token.
    Sft,
    /// Preferences, by this method.
    Rl(Rl),
    /// A reward for each answer.
    RewardModel,
    /// A verdict on each step.
    ProcessRewardModel,
}

impl Task {
    /// Whether it compares the policy with a reference model.
    #[must_use]
    pub fn has_reference(self) -> bool {
        matches!(self, Self::Rl(Rl::Dpo | Rl::Ipo | Rl::Kto))
    }
}

/// What is learned from preferences, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PreferenceConfig {
    /// Learn from preferences by this method; supervised fine-tuning when absent.
    pub rl: Option<Rl>,
    /// How strongly the policy is held to the reference (`dpo`, `ipo`, `kto`), or the
    /// scale of the margin (`orpo`, `simpo`, `cpo`): 0.1 when absent. SimPO's paper
    /// takes 2 to 2.5.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub rl_beta: Option<f64>,
    /// Losses of `rl: dpo`, added up; `[sigmoid]` when absent.
    #[schemars(length(min = 1))]
    pub dpo_loss_type: Option<Vec<DpoLossType>>,
    /// Weight of each loss of `dpo_loss_type`; 1 when absent.
    #[schemars(length(min = 1))]
    pub dpo_loss_weights: Option<Vec<f64>>,
    /// Part of the preferences taken to be wrong (`sigmoid`, `exo_pair`, `robust`, `aot`,
    /// `aot_unpaired`). Of several losses, each of these reads it.
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1))]
    pub dpo_label_smoothing: Option<f64>,
    /// Weigh each pair by how likely the model is to give such answers (WPO).
    pub dpo_use_weighting: bool,
    /// Weight of the tokens of the longer answer beyond the length of the shorter one
    /// (LD-DPO); 1, which is standard DPO, when absent.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub dpo_ld_alpha: Option<f64>,
    /// Join the answers of a batch into one row, each attending to itself alone,
    /// instead of padding them: the same as `batch_flattening: true`.
    pub dpo_padding_free: bool,
    /// Weight of the loss of supervised fine-tuning on the chosen answer beside the
    /// loss of `rl: dpo` (RPO): the same as `sft` with this weight in `dpo_loss_type`.
    #[schemars(range(min = 0.0))]
    pub rpo_alpha: Option<f64>,
    /// The divergence that holds the policy to the reference; `reverse_kl` when absent.
    #[schemars(extend("x-not-in-axolotl" = true))]
    pub f_divergence_type: Option<FDivergence>,
    /// α of `f_divergence_type: alpha_divergence`; 0.5 when absent.
    #[schemars(extend("x-not-in-axolotl" = true))]
    pub f_alpha_divergence_coef: Option<f64>,
    /// τ of `dpo_loss_type: [discopop]`; 0.05 when absent.
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    #[schemars(extend("x-not-in-axolotl" = true))]
    pub discopop_tau: Option<f64>,
    /// Compute the log-probabilities of the reference, the model as it is before
    /// training, once and keep them with the prepared data: yes when absent. `false`
    /// computes them batch by batch: with a new adapter by the model without it, else
    /// by a second model in memory.
    pub precompute_ref_log_probs: Option<bool>,
    /// Lay out each pair as prompt, chosen answer and rejected answer in one row, so that
    /// the work on the prompt is done once, with the results of two documents: where
    /// nothing is against it when absent, which is the load-balancing loss of experts.
    #[schemars(extend("x-not-in-axolotl" = true))]
    pub share_prompts: Option<bool>,
    /// Weight of the odds ratio in `rl: orpo`: another name of `rl_beta` there.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub orpo_alpha: Option<f64>,
    /// Margin that the chosen answer should win by, after scaling with `rl_beta`
    /// (`rl: simpo`); 0.5 when absent.
    #[schemars(range(min = 0.0))]
    pub simpo_gamma: Option<f64>,
    /// Weight of the loss of supervised fine-tuning on the chosen answer: 1 when absent
    /// for `rl: cpo`, 0 for `rl: simpo`.
    #[schemars(range(min = 0.0))]
    pub cpo_alpha: Option<f64>,
    /// Weight of good answers (`rl: kto`).
    #[schemars(range(min = 0.0))]
    pub kto_desirable_weight: f64,
    /// Weight of bad answers (`rl: kto`).
    #[schemars(range(min = 0.0))]
    pub kto_undesirable_weight: f64,
    /// Train a reward model: a score for each answer, so that better answers score
    /// higher.
    pub reward_model: bool,
    /// Train a process reward model: a verdict on each step of an answer.
    pub process_reward_model: bool,
    /// Outputs of the model's head: 1 for a reward model, 2 for a process reward model.
    #[schemars(range(min = 1))]
    pub num_labels: Option<usize>,
    /// Weight of the squared sum of both rewards of a pair, which keeps rewards around
    /// zero (`reward_model`); 0 when absent.
    #[schemars(range(min = 0.0))]
    pub center_rewards_coefficient: Option<f64>,
}

impl Default for PreferenceConfig {
    fn default() -> Self {
        Self {
            rl: None,
            rl_beta: None,
            dpo_loss_type: None,
            dpo_loss_weights: None,
            dpo_label_smoothing: None,
            dpo_use_weighting: false,
            dpo_ld_alpha: None,
            dpo_padding_free: false,
            rpo_alpha: None,
            f_divergence_type: None,
            f_alpha_divergence_coef: None,
            discopop_tau: None,
            precompute_ref_log_probs: None,
            share_prompts: None,
            orpo_alpha: None,
            simpo_gamma: None,
            cpo_alpha: None,
            kto_desirable_weight: 1.0,
            kto_undesirable_weight: 1.0,
            reward_model: false,
            process_reward_model: false,
            num_labels: None,
            center_rewards_coefficient: None,
        }
    }
}

impl PreferenceConfig {
    /// What the run learns.
    #[must_use]
    pub fn task(&self) -> Task {
        match self.rl {
            Some(rl) => Task::Rl(rl),
            None if self.reward_model => Task::RewardModel,
            None if self.process_reward_model => Task::ProcessRewardModel,
            None => Task::Sft,
        }
    }

    /// β: `rl_beta`, or `orpo_alpha`, or 0.1.
    #[must_use]
    pub fn beta(&self) -> f64 {
        self.rl_beta.or(self.orpo_alpha).unwrap_or(0.1)
    }

    /// The losses of `rl: dpo` and `rl: ipo` with their weights.
    #[must_use]
    pub fn dpo_losses(&self) -> Vec<(DpoLossType, f64)> {
        let types = match (self.rl, &self.dpo_loss_type) {
            (Some(Rl::Ipo), _) => vec![DpoLossType::Ipo],
            (_, Some(types)) => types.clone(),
            (_, None) => vec![DpoLossType::Sigmoid],
        };
        let weights = self.dpo_loss_weights.iter().flatten().copied();
        let weights = weights.chain(std::iter::repeat(1.0));
        let rpo = self.rpo_alpha.map(|alpha| (DpoLossType::Sft, alpha));
        types.into_iter().zip(weights).chain(rpo).collect()
    }
}
