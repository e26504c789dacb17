//! Rules about preferences, rewards and judged steps.

use super::Rules;
use crate::schema::{DpoLossType, FDivergence, PreferenceConfig, Rl, Task};

/// Keys of preference training, and the objectives that read each.
const READERS: [(&str, &[Task]); 19] = [
    ("rl_beta", ALL_RL),
    ("dpo_loss_type", DPO),
    ("dpo_loss_weights", DPO),
    ("dpo_label_smoothing", DPO),
    ("dpo_use_weighting", DPO_AND_IPO),
    ("dpo_ld_alpha", DPO_AND_IPO),
    ("rpo_alpha", DPO_AND_IPO),
    ("f_divergence_type", DPO_AND_IPO),
    ("f_alpha_divergence_coef", DPO_AND_IPO),
    ("discopop_tau", DPO),
    (
        "precompute_ref_log_probs",
        &[Task::Rl(Rl::Dpo), Task::Rl(Rl::Ipo), Task::Rl(Rl::Kto)],
    ),
    ("share_prompts", OF_PAIRS),
    ("orpo_alpha", &[Task::Rl(Rl::Orpo)]),
    ("simpo_gamma", &[Task::Rl(Rl::Simpo)]),
    ("cpo_alpha", &[Task::Rl(Rl::Simpo), Task::Rl(Rl::Cpo)]),
    ("kto_desirable_weight", &[Task::Rl(Rl::Kto)]),
    ("kto_undesirable_weight", &[Task::Rl(Rl::Kto)]),
    ("num_labels", &[Task::RewardModel, Task::ProcessRewardModel]),
    ("center_rewards_coefficient", &[Task::RewardModel]),
];

const ALL_RL: &[Task] = &[
    Task::Rl(Rl::Dpo),
    Task::Rl(Rl::Ipo),
    Task::Rl(Rl::Kto),
    Task::Rl(Rl::Orpo),
    Task::Rl(Rl::Simpo),
    Task::Rl(Rl::Cpo),
];
const OF_PAIRS: &[Task] = &[
    Task::Rl(Rl::Dpo),
    Task::Rl(Rl::Ipo),
    Task::Rl(Rl::Orpo),
    Task::Rl(Rl::Simpo),
    Task::Rl(Rl::Cpo),
    Task::RewardModel,
];
const DPO: &[Task] = &[Task::Rl(Rl::Dpo)];
const DPO_AND_IPO: &[Task] = &[Task::Rl(Rl::Dpo), Task::Rl(Rl::Ipo)];

/// How a task is asked for.
pub(super) fn key_of(task: Task) -> String {
    match task {
        Task::Sft => "supervised fine-tuning".to_owned(),
        Task::Rl(rl) => format!("rl: {rl}"),
        Task::RewardModel => "reward_model: true".to_owned(),
        Task::ProcessRewardModel => "process_reward_model: true".to_owned(),
    }
}

impl Rules<'_> {
    pub(super) fn preference(&mut self) {
        let c = self.config;
        if !self.usable(&["rl", "reward_model", "process_reward_model"]) {
            return;
        }
        self.one_task();
        self.readers();
        if c.preference.task() == Task::Sft {
            return;
        }
        self.exclusive(
            "rl_beta",
            "orpo_alpha",
            "keep one: both are the weight of the odds ratio",
        );
        self.labels_of_head();
        self.not_of_preferences();
        if c.preference.rl == Some(Rl::Dpo) && self.usable(&["dpo_loss_type"]) {
            self.loss_weights();
            self.smoothing();
        }
        if matches!(c.preference.rl, Some(Rl::Dpo | Rl::Ipo)) && self.usable(&["dpo_loss_type"]) {
            self.weighting();
            self.divergence();
        }
    }

    fn one_task(&mut self) {
        let p = &self.config.preference;
        let set: Vec<&str> = [
            ("rl", p.rl.is_some()),
            ("reward_model", p.reward_model),
            ("process_reward_model", p.process_reward_model),
        ]
        .into_iter()
        .filter_map(|(key, on)| on.then_some(key))
        .collect();
        if let [first, second, ..] = *set {
            let labels = [
                self.key(first, "trains one thing"),
                self.key(second, "trains another"),
            ];
            self.error(
                &format!("`{first}` and `{second}` are both set"),
                labels,
                "a run has one objective: keep one of them",
            );
        }
    }

    /// Keys that nothing reads.
    fn readers(&mut self) {
        let task = self.config.preference.task();
        let json = |preference| serde_json::to_value(preference).unwrap_or_default();
        let here = json(&self.config.preference);
        let default = json(&PreferenceConfig::default());
        for (key, readers) in READERS {
            // What the default says may always be written.
            if here[key] == default[key] || readers.contains(&task) || !self.usable(&[key]) {
                continue;
            }
            let wanted: Vec<String> = readers
                .iter()
                .map(|task| format!("`{}`", key_of(*task)))
                .collect();
            let wanted = wanted.join(" or ");
            let what = match task {
                Task::Sft => format!("`{key}` has no effect on supervised fine-tuning"),
                _ => format!("`{key}` has no effect with `{}`", key_of(task)),
            };
            let labels = [
                self.key(key, &format!("read with {wanted}")),
                self.key("rl", "another method"),
            ];
            self.error(&what, labels, &format!("remove the key, or set {wanted}"));
        }
        if self.config.preference.dpo_padding_free
            && !matches!(task, Task::Rl(Rl::Dpo | Rl::Ipo))
            && self.usable(&["dpo_padding_free"])
        {
            let label = self.key("dpo_padding_free", "for `rl: dpo`");
            self.error(
                "`dpo_padding_free` has no effect here",
                [label],
                "write `batch_flattening: true`, which says the same for every objective",
            );
        }
    }

    fn labels_of_head(&mut self) {
        let p = &self.config.preference;
        let (wanted, what) = match p.task() {
            Task::RewardModel => (1, "a reward model scores an answer with one number"),
            Task::ProcessRewardModel => (2, "a step is right or wrong"),
            _ => return,
        };
        if p.num_labels.is_some_and(|labels| labels != wanted) && self.usable(&["num_labels"]) {
            let label = self.value("num_labels", &format!("must be {wanted}"));
            let help = format!("{what}: write `num_labels: {wanted}`, or remove the key");
            self.error("`num_labels` does not fit the objective", [label], &help);
        }
    }

    /// Settings of supervised fine-tuning that mean nothing here.
    fn not_of_preferences(&mut self) {
        let c = self.config;
        let task = key_of(c.preference.task());
        let streamed = "data of preferences is prepared as a whole: remove it";
        let off: [(&str, bool, &str); 6] = [
            ("streaming", c.streaming, streamed),
            (
                "pretraining_dataset",
                c.pretraining_dataset.is_some(),
                streamed,
            ),
            (
                "train_on_inputs",
                c.train_on_inputs,
                "only answers are compared: remove it",
            ),
            ("use_pose", c.use_pose, "remove it"),
            (
                "balance_labels",
                c.sampling.balance_labels,
                "pairs are not dealt out by what they train: remove it",
            ),
            (
                "eval_sample_packing",
                c.eval_sample_packing
                    .is_some_and(|packing| packing != c.sample_packing),
                "evaluation rows are packed as training rows are: remove it",
            ),
        ];
        for (key, on, help) in off {
            if on && self.usable(&[key]) {
                let labels = [
                    self.key(key, "not with this objective"),
                    self.task_label("the objective"),
                ];
                let message = format!("`{key}` and `{task}` cannot be combined");
                self.error(&message, labels, help);
            }
        }
    }

    pub(super) fn task_label(&self, note: &str) -> Option<crate::diagnostic::Label> {
        ["rl", "reward_model", "process_reward_model"]
            .into_iter()
            .find_map(|key| self.key(key, note))
    }

    fn loss_weights(&mut self) {
        let p = &self.config.preference;
        let Some(weights) = &p.dpo_loss_weights else {
            return;
        };
        let types = p.dpo_loss_type.as_ref().map_or(0, Vec::len);
        if types == weights.len() || !self.usable(&["dpo_loss_weights"]) {
            return;
        }
        let labels = [
            self.key("dpo_loss_weights", &format!("{} weights", weights.len())),
            self.key("dpo_loss_type", &format!("{types} losses")),
        ];
        self.error(
            "`dpo_loss_weights` needs one weight for each loss of `dpo_loss_type`",
            labels,
            "write lists of the same length",
        );
    }

    fn smoothing(&mut self) {
        use DpoLossType::{Aot, AotUnpaired, ExoPair, Robust, Sigmoid};
        let p = &self.config.preference;
        if !self.usable(&["dpo_label_smoothing"]) {
            return;
        }
        let losses = p.dpo_losses();
        let has = |wanted| losses.iter().any(|(loss, _)| *loss == wanted);
        let epsilon = p.dpo_label_smoothing.unwrap_or(0.0);
        if has(ExoPair) && epsilon == 0.0 {
            let labels = [
                self.value("dpo_loss_type", "`exo_pair` takes its logarithm"),
                self.value("dpo_label_smoothing", "must be above 0"),
            ];
            self.error(
                "`exo_pair` needs a `dpo_label_smoothing` above 0",
                labels,
                "add a line such as `dpo_label_smoothing: 0.001`",
            );
        }
        if has(Robust) && epsilon >= 0.5 {
            let labels = [
                self.value("dpo_label_smoothing", "half of the preferences, or more"),
                self.value("dpo_loss_type", "`robust` needs less than 0.5"),
            ];
            self.error(
                "`robust` needs a `dpo_label_smoothing` below 0.5",
                labels,
                "where half of the pairs are swapped, they say nothing",
            );
        }
        // Those that have it published.
        let smoothed = [Sigmoid, ExoPair, Robust, Aot, AotUnpaired];
        if epsilon > 0.0 && !smoothed.into_iter().any(has) {
            let labels = [
                self.key("dpo_label_smoothing", "no loss reads it"),
                self.value("dpo_loss_type", "these losses do not"),
            ];
            self.error(
                "`dpo_label_smoothing` has no effect on the losses of `dpo_loss_type`",
                labels,
                "remove it, or use `sigmoid` (conservative DPO), `exo_pair`, `robust`, `aot` or \
                 `aot_unpaired`",
            );
        }
    }

    fn weighting(&mut self) {
        let p = &self.config.preference;
        let losses = p.dpo_losses();
        let sorting = losses
            .iter()
            .map(|(loss, _)| *loss)
            .find(|loss| matches!(loss, DpoLossType::Aot | DpoLossType::AotUnpaired));
        if let Some(loss) = sorting.filter(|_| p.dpo_use_weighting) {
            let labels = [
                self.key("dpo_use_weighting", "weighs pairs"),
                self.value("dpo_loss_type", &format!("`{loss}` takes pairs apart")),
            ];
            self.error(
                &format!("`dpo_use_weighting` and `{loss}` cannot be combined"),
                labels,
                "keep one of them",
            );
        }
        let tau = self.is_set("discopop_tau") && p.rl == Some(Rl::Dpo);
        let searched = losses
            .iter()
            .any(|(loss, _)| *loss == DpoLossType::Discopop);
        if tau && !searched {
            let label = self.key("discopop_tau", "no loss reads it");
            self.error(
                "`discopop_tau` needs `discopop` in `dpo_loss_type`",
                [label],
                "remove it, or add `discopop`",
            );
        }
    }

    fn divergence(&mut self) {
        use DpoLossType as T;
        let p = &self.config.preference;
        if !self.usable(&["f_divergence_type", "f_alpha_divergence_coef"]) {
            return;
        }
        let divergence = p.f_divergence_type.unwrap_or(FDivergence::ReverseKl);
        if p.f_alpha_divergence_coef.is_some() && divergence != FDivergence::AlphaDivergence {
            let label = self.key("f_alpha_divergence_coef", "no divergence reads it");
            self.error(
                "`f_alpha_divergence_coef` needs `f_divergence_type: alpha_divergence`",
                [label],
                "remove it, or set `f_divergence_type: alpha_divergence`",
            );
        }
        if divergence == FDivergence::ReverseKl {
            return;
        }
        // A term of the derivation cancels in differences between two answers only.
        let unfit = p.dpo_losses().into_iter().find(|(loss, _)| {
            matches!(
                loss,
                T::NcaPair
                    | T::BcoPair
                    | T::SppoHard
                    | T::Aot
                    | T::AotUnpaired
                    | T::ApoZero
                    | T::ApoDown
            )
        });
        if let Some((loss, _)) = unfit {
            let labels = [
                self.value("f_divergence_type", "another divergence"),
                self.value(
                    "dpo_loss_type",
                    &format!("`{loss}` is defined for `reverse_kl`"),
                ),
            ];
            self.error(
                &format!("`f_divergence_type: {divergence}` and `{loss}` cannot be combined"),
                labels,
                "it fits sigmoid, sigmoid_norm, hinge, ipo, exo_pair, robust, discopop and sft",
            );
        }
    }
}
