//! Rules about how rows become batches, and about their positions.

use super::Rules;
use crate::diagnostic::Diagnostic;
use crate::schema::{AutoBool, PackingStrategy};

impl Rules<'_> {
    /// `group_by_length` and `batch_flattening` against packing and file order.
    pub(super) fn sampling(&mut self) {
        let c = self.config;
        if c.group_by_length {
            if c.curriculum_sampling && self.usable(&["group_by_length", "curriculum_sampling"]) {
                let labels = [
                    self.key("group_by_length", "sorts rows by length"),
                    self.key("curriculum_sampling", "asks for file order"),
                ];
                self.error(
                    "`group_by_length` and `curriculum_sampling` contradict each other",
                    labels,
                    "keep one of them",
                );
            } else if c.sample_packing && self.usable(&["group_by_length", "sample_packing"]) {
                let labels = [
                    self.key("group_by_length", "has no effect"),
                    self.key("sample_packing", "fills rows with several documents"),
                ];
                self.report(
                    Diagnostic::warning("packed rows are all about as long: `group_by_length` does nothing with `sample_packing`"),
                    labels,
                    "remove `group_by_length`",
                );
            }
        }
        if c.batch_flattening == AutoBool::Bool(true) {
            for (key, on, note) in [
                ("sample_packing", c.sample_packing, "packs rows already"),
                (
                    "eval_sample_packing",
                    c.eval_sample_packing == Some(true),
                    "packs rows already",
                ),
                (
                    "pad_to_sequence_len",
                    c.pad_to_sequence_len == Some(true),
                    "pads each row",
                ),
            ] {
                if on && self.usable(&["batch_flattening", key]) {
                    let labels = [
                        self.key("batch_flattening", "joins the rows of a batch"),
                        self.key(key, note),
                    ];
                    self.error(
                        &format!("`batch_flattening` and `{key}` contradict each other"),
                        labels,
                        "keep one of them",
                    );
                }
            }
        }
    }

    /// `balance_labels` against the keys that fix which rows stand together.
    pub(super) fn balance(&mut self) {
        let c = self.config;
        let window = "label_balance_window_optim_steps";
        if !c.sampling.balance_labels {
            let steps = c.sampling.label_balance_window_optim_steps;
            if steps > 1 && self.usable(&["balance_labels", window]) {
                let label = self.value(window, "has no effect");
                self.error(
                    &format!("`{window}` needs `balance_labels`"),
                    [label],
                    "add `balance_labels: true`, or remove the key",
                );
            }
            return;
        }
        let sequential = c.packing_strategy == PackingStrategy::Sequential;
        for (key, on, note) in [
            (
                "curriculum_sampling",
                c.curriculum_sampling,
                "asks for file order",
            ),
            (
                "sample_packing_sequentially",
                c.sample_packing && c.sample_packing_sequentially,
                "keeps the order of the rows",
            ),
            (
                "packing_strategy",
                c.sample_packing && sequential && !c.sample_packing_sequentially,
                "keeps the order of the rows",
            ),
            (
                "group_by_length",
                c.group_by_length && !c.sample_packing,
                "takes rows of similar length for a batch",
            ),
        ] {
            if on && self.usable(&["balance_labels", key]) {
                let labels = [
                    self.key("balance_labels", "deals rows to batches"),
                    self.key(key, note),
                ];
                self.error(
                    &format!("`balance_labels` and `{key}` contradict each other"),
                    labels,
                    "keep one of them",
                );
            }
        }
    }

    /// The `pose_*` keys.
    pub(super) fn pose(&mut self) {
        let c = self.config;
        if !c.use_pose {
            return;
        }
        if !self.usable(&["use_pose", "pose_max_context_len", "sequence_len"]) {
            return;
        }
        match c.pose_max_context_len {
            None => {
                let label = self.key("use_pose", "over how many positions?");
                self.error(
                    "`use_pose` needs `pose_max_context_len`",
                    [label],
                    "add `pose_max_context_len`, the context length to train for",
                );
            }
            Some(max) if (max as usize) < c.sequence_len => {
                let labels = [
                    self.value("pose_max_context_len", "fewer positions"),
                    self.value("sequence_len", "tokens in the longest row"),
                ];
                self.error(
                    "`pose_max_context_len` is below `sequence_len`, so that long rows have no positions",
                    labels,
                    "write the context length to train for, which is larger than `sequence_len`",
                );
            }
            Some(_) => {}
        }
    }
}
