//! Rules about data that is read while training: `streaming` and
//! `pretraining_dataset`.

use super::Rules;
use crate::schema::EvalStrategy;

impl Rules<'_> {
    pub(super) fn streaming(&mut self) {
        let c = self.config;
        self.exclusive(
            "pretraining_dataset",
            "datasets",
            "keep one: `pretraining_dataset` is read as a stream of plain text, `datasets` with \
             `streaming: true` as a stream of any type",
        );
        let key = match (c.streaming, c.pretraining_dataset.is_some()) {
            (_, true) => "pretraining_dataset",
            (true, false) => "streaming",
            (false, false) => return,
        };
        if !self.usable(&[key]) {
            return;
        }
        if c.max_steps.is_none() && self.usable(&["max_steps"]) {
            let label = self.key(key, "has no end");
            self.error(
                &format!("`{key}` needs `max_steps`"),
                [label],
                "add a line such as `max_steps: 1000`: the length of a stream is not known",
            );
        }
        // What needs all samples at once.
        let whole: [(&str, bool, &str); 9] = [
            (
                "val_set_size",
                c.val_set_size > 0.0,
                "give `test_datasets` in its place",
            ),
            (
                "evals_per_epoch",
                c.evals_per_epoch.is_some(),
                "write `eval_steps` in its place",
            ),
            (
                "eval_strategy",
                c.eval_strategy == Some(EvalStrategy::Epoch),
                "write `eval_steps` in its place",
            ),
            (
                "dataset_exact_deduplication",
                c.dataset_exact_deduplication,
                "deduplicate the files beforehand",
            ),
            (
                "dataset_shard_num",
                c.dataset_shard_num.is_some(),
                "use `shards` of the data set",
            ),
            ("group_by_length", c.group_by_length, "remove it"),
            ("use_pose", c.use_pose, "remove it"),
            ("balance_labels", c.sampling.balance_labels, "remove it"),
            (
                "shuffle_before_merging_datasets",
                c.shuffle_before_merging_datasets,
                "remove it: samples are shuffled as they come",
            ),
        ];
        for (other, set, help) in whole {
            if set && self.usable(&[other]) {
                let labels = [
                    self.key(other, "needs all samples at once"),
                    self.key(key, "reads them while training"),
                ];
                self.error(
                    &format!("`{other}` and `{key}` cannot be combined"),
                    labels,
                    help,
                );
            }
        }
    }
}
