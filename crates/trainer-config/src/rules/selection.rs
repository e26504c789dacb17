//! Rules about which rows of the data sets are used, and in which order.

use super::Rules;
use crate::diagnostic::Diagnostic;
use crate::schema::MalformedRows;
use crate::split::SplitSpec;

impl Rules<'_> {
    /// `split`, `shards`, `weight` of each data set; shards of the prepared data.
    pub(super) fn selection(&mut self) {
        let c = self.config;
        for (list, entries) in [
            ("datasets", Some(&c.datasets)),
            ("test_datasets", c.test_datasets.as_ref()),
        ] {
            for (index, entry) in entries.into_iter().flatten().enumerate() {
                let path = |key: &str| format!("{list}.{index}.{key}");
                if let Some(Err(message)) = entry.split.as_deref().map(SplitSpec::parse) {
                    let key = path("split");
                    let label = self.value(&key, &message);
                    self.error(
                        &format!("`{key}` is no split"),
                        [label],
                        "write a name such as `train`, or a part of it: `train[:1%]`, `train[100:200]`, `train[-5%:]`",
                    );
                }
                self.part(
                    &path("shards"),
                    entry.shards,
                    &path("shards_idx"),
                    entry.shards_idx,
                );
                let weight = path("weight");
                if list == "test_datasets"
                    && entry.weight.is_some_and(|weight| weight > 1.0)
                    && self.usable(&[&weight])
                {
                    let label = self.value(&weight, "repeats rows");
                    self.error(
                        &format!("`{weight}` is above 1, and an evaluation gains nothing from repeated rows"),
                        [label],
                        "write 1 or less, or remove the key",
                    );
                }
            }
        }
        self.part(
            "dataset_shard_num",
            c.dataset_shard_num,
            "dataset_shard_idx",
            c.dataset_shard_idx,
        );
    }

    /// `malformed_rows: skip` with data that is read as it is trained on.
    pub(super) fn malformed(&mut self) {
        let c = self.config;
        let streamed = if c.streaming {
            "streaming"
        } else {
            "pretraining_dataset"
        };
        if c.malformed_rows == MalformedRows::Skip
            && (c.streaming || c.pretraining_dataset.is_some())
        {
            let labels = [
                self.value("malformed_rows", "counts the rows that it leaves out"),
                self.key(streamed, "counts rows to find its place again"),
            ];
            self.error(
                &format!("`malformed_rows: skip` cannot be combined with `{streamed}`"),
                labels,
                "write `malformed_rows: raise`, and mend the rows that it names",
            );
        }
    }

    /// A number of parts, and which of them is used.
    fn part(&mut self, number: &str, parts: Option<usize>, index: &str, part: Option<usize>) {
        let Some(part) = part else { return };
        if !self.usable(&[number, index]) {
            return;
        }
        match parts {
            None => {
                let label = self.key(index, "a part of how many?");
                self.error(
                    &format!("`{index}` needs `{number}`"),
                    [label],
                    &format!("add `{}`, or remove `{}`", last(number), last(index)),
                );
            }
            Some(parts) if part >= parts => {
                let labels = [
                    self.value(index, &format!("the last part is {}", parts.max(1) - 1)),
                    self.value(number, "the number of parts"),
                ];
                self.error(
                    &format!("`{index}` counts from 0 and has to be below `{number}`"),
                    labels,
                    &format!("write a number from 0 to {}", parts.max(1) - 1),
                );
            }
            Some(_) => {}
        }
    }

    /// `curriculum_sampling` against the keys that shuffle.
    pub(super) fn order(&mut self) {
        let c = self.config;
        if !c.curriculum_sampling {
            return;
        }
        if c.shuffle_before_merging_datasets
            && self.usable(&["shuffle_before_merging_datasets", "curriculum_sampling"])
        {
            let labels = [
                self.key("shuffle_before_merging_datasets", "shuffles each data set"),
                self.key("curriculum_sampling", "asks for file order"),
            ];
            self.error(
                "`curriculum_sampling` and `shuffle_before_merging_datasets` contradict each other",
                labels,
                "keep one of them",
            );
        }
        if c.shuffle_merged_datasets && self.is_set("shuffle_merged_datasets") {
            let labels = [
                self.value("shuffle_merged_datasets", "has no effect"),
                self.key("curriculum_sampling", "asks for file order"),
            ];
            self.report(
                Diagnostic::warning(
                    "rows are taken in file order: `curriculum_sampling` comes before `shuffle_merged_datasets`",
                ),
                labels,
                "write `shuffle_merged_datasets: false`, or remove `curriculum_sampling`",
            );
        }
    }
}

/// The key without the path to its entry.
fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}
