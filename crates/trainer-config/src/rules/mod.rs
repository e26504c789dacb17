//! Rules between keys, and values that follow from other keys.
//!
//! A rule says nothing about keys whose values are unusable already, and points
//! at every line that takes part. What "is set" means, [`Given`] says.

mod adapters;
mod checkpoint;
mod data;
mod effect;
mod generation;
mod given;
mod optimizer;
mod preference;
mod readers;
mod sampling;
mod schedule;
mod selection;
mod strategies;
mod streaming;
mod tracking;
mod vocabulary;

use std::path::PathBuf;

use crate::diagnostic::{Diagnostic, Label};
use crate::load::usable;
use crate::schema::{AutoBool, Backend, Config, OptimArgs, Optimizer, PackingStrategy};
use crate::shape::{ROOT, Shape};
use crate::validate::Findings;

pub(crate) use given::Given;

struct Rules<'a> {
    config: &'a Config,
    given: &'a Given<'a>,
    findings: &'a mut Findings,
    file: Option<PathBuf>,
}

/// Applies every rule.
pub(crate) fn apply(
    config: &Config,
    given: &Given<'_>,
    file: Option<PathBuf>,
    findings: &mut Findings,
) {
    let mut rules = Rules {
        config,
        given,
        findings,
        file,
    };
    rules.required();
    rules.adapters();
    rules.precision();
    rules.batches();
    rules.lengths();
    rules.packing();
    rules.sampling();
    rules.balance();
    rules.pose();
    rules.evaluation();
    rules.evaluation_times();
    rules.saving_times();
    rules.rolling_back();
    rules.resuming();
    rules.templates();
    rules.template_variables();
    rules.preference();
    rules.strategies();
    rules.datasets();
    rules.selection();
    rules.malformed();
    rules.order();
    rules.streaming();
    rules.adam_keys();
    rules.optimizer_arguments();
    rules.rates();
    rules.warmup();
    rules.schedule();
    rules.jagged();
    rules.generation();
    rules.samples();
    rules.vocabulary();
    rules.model_files();
    rules.tracking();
    rules.effects();
    rules.read_by_rows();
}

/// Sets what other keys decide; `follow` is told each key with the one it follows.
pub(crate) fn derive(config: &mut Config, given: &Given<'_>, mut follow: impl FnMut(&str, &str)) {
    if let Some(batch_size) = config.batch_size.take() {
        config.gradient_accumulation_steps = (batch_size / config.micro_batch_size).max(1);
        follow("gradient_accumulation_steps", "batch_size");
    }
    if config.sample_packing_sequentially {
        config.packing_strategy = PackingStrategy::Sequential;
        follow("packing_strategy", "sample_packing_sequentially");
    } else if config.curriculum_sampling
        && config.packing_strategy == PackingStrategy::BestFitDecreasing
    {
        // It takes the longest documents first, which is no curriculum.
        config.packing_strategy = PackingStrategy::FirstFit;
        follow("packing_strategy", "curriculum_sampling");
    }
    if config.optimizer == Optimizer::Muon && given.by_layers() {
        for (key, beta) in [
            ("adam_beta1", &mut config.adam_beta1),
            ("adam_beta2", &mut config.adam_beta2),
        ] {
            if !given.has(key) {
                *beta = optimizer::MUON_BETA;
                follow(key, "optimizer");
            }
        }
    }
    if let Some(OptimArgs::Text(text)) = &config.optimization.optim_args {
        // A text that cannot be read has been reported.
        let arguments = optimizer::arguments(text).unwrap_or_default();
        config.optimization.optim_args = Some(OptimArgs::Map(arguments));
        follow("optim_args", "optim_args");
    }
    if config.preference.dpo_padding_free && matches!(config.batch_flattening, AutoBool::Auto(_)) {
        config.batch_flattening = AutoBool::Bool(true);
        follow("batch_flattening", "dpo_padding_free");
    }
    if config.chat_template_jinja.is_some() && config.chat_template.is_none() {
        config.chat_template = Some("jinja".to_owned());
        follow("chat_template", "chat_template_jinja");
    }
    let lists = [
        ("datasets", Some(&mut config.datasets)),
        ("test_datasets", config.test_datasets.as_mut()),
    ];
    for (list, entries) in lists {
        for (index, entry) in entries.into_iter().flatten().enumerate() {
            if entry.chat_template_jinja.is_some() && entry.chat_template.is_none() {
                entry.chat_template = Some("jinja".to_owned());
                let path = format!("{list}.{index}");
                follow(
                    &format!("{path}.chat_template"),
                    &format!("{path}.chat_template_jinja"),
                );
            }
        }
    }
}

impl Rules<'_> {
    /// Whether the configuration names the data; a program may bring its own.
    fn names_data(&self) -> bool {
        let c = self.config;
        self.given.by_layers() || !c.datasets.is_empty() || c.pretraining_dataset.is_some()
    }

    /// Whether there is something to evaluate on, as far as the configuration says.
    fn has_evaluation_data(&self) -> bool {
        let c = self.config;
        c.val_set_size > 0.0
            || c.test_datasets.is_some()
            || !self.usable(&["val_set_size", "test_datasets"])
            || !self.names_data()
    }

    fn is_set(&self, key: &str) -> bool {
        self.given.has(key)
    }

    /// Whether nothing is wrong with the values of these keys so far.
    fn usable(&self, keys: &[&str]) -> bool {
        usable(&self.findings.failed, keys)
    }

    fn key(&self, key: &str, note: &str) -> Option<Label> {
        self.given.site(key).map(|site| site.at_key(note))
    }

    fn value(&self, key: &str, note: &str) -> Option<Label> {
        self.given.site(key).map(|site| site.at_value(note))
    }

    fn report<const N: usize>(
        &mut self,
        mut diagnostic: Diagnostic,
        labels: [Option<Label>; N],
        help: &str,
    ) {
        diagnostic.labels.extend(labels.into_iter().flatten());
        let diagnostic = diagnostic.in_file(self.file.clone());
        self.findings.diagnostics.push(diagnostic.help(help));
    }

    fn error<const N: usize>(&mut self, message: &str, labels: [Option<Label>; N], help: &str) {
        self.report(Diagnostic::error(message), labels, help);
    }

    /// Two keys that say the same thing in different ways.
    fn exclusive(&mut self, first: &str, second: &str, help: &str) {
        if !self.is_set(first) || !self.is_set(second) || !self.usable(&[first, second]) {
            return;
        }
        let mut error = Diagnostic::error(format!("`{first}` and `{second}` are both set"));
        error.help.push(help.to_owned());
        if let (Some(one), Some(other)) = (self.given.site(first), self.given.site(second)) {
            if one.source.kind != other.source.kind {
                let help = "`null` as a value takes back what a lower layer sets";
                error.help.push(help.to_owned());
            }
            error.labels = vec![other.at_key("set here"), one.at_key("and here")];
        }
        self.findings.diagnostics.push(error);
    }

    fn required(&mut self) {
        let Shape::Struct {
            required,
            properties,
        } = &*ROOT
        else {
            return;
        };
        let examples = [
            ("base_model", "base_model: path/to/model"),
            ("datasets", "datasets: [{path: data.jsonl, type: alpaca}]"),
            ("learning_rate", "learning_rate: 2e-4"),
        ];
        // Either of two keys brings the data. A program brings model and data itself.
        let elsewhere = |key: &str| match key {
            "datasets" => self.is_set("pretraining_dataset") || !self.given.by_layers(),
            "base_model" => !self.given.by_layers(),
            _ => false,
        };
        for key in required
            .iter()
            .filter(|key| !elsewhere(key))
            .collect::<Vec<_>>()
        {
            if !self.is_set(key) && self.usable(&[key]) {
                let example = examples
                    .iter()
                    .find(|(name, _)| name == key)
                    .map_or(key.as_str(), |(_, line)| line);
                self.error(
                    &format!("`{key}` is missing"),
                    [],
                    &format!("add a line such as `{example}`"),
                );
            }
        }
        for list in [
            "datasets",
            "test_datasets",
            "pretraining_dataset",
            "lr_groups",
        ] {
            let Some((_, Shape::List { items, .. })) =
                properties.iter().find(|(name, _)| name == list)
            else {
                continue;
            };
            let Shape::Struct { required, .. } = &**items else {
                continue;
            };
            let count = match list {
                "datasets" => self.config.datasets.len(),
                "test_datasets" => self.config.test_datasets.as_ref().map_or(0, Vec::len),
                "lr_groups" => {
                    let groups = self.config.optimization.lr_groups.as_ref();
                    groups.map_or(0, Vec::len)
                }
                _ => self.config.pretraining_dataset.as_ref().map_or(0, Vec::len),
            };
            for index in 0..count {
                for key in required {
                    let entry = format!("{list}.{index}");
                    let full = format!("{entry}.{key}");
                    if !self.is_set(&full) && self.usable(&[&full]) {
                        let label = self
                            .value(&entry, "this entry has none")
                            .or_else(|| self.key_inside(&entry, "this entry has none"));
                        self.error(
                            &format!("`{full}` is missing"),
                            [label],
                            &format!("add `{key}: ...` to the entry"),
                        );
                    }
                }
            }
        }
        if self.is_set("base_model") && self.config.base_model.as_os_str().is_empty() {
            let label = self.value("base_model", "no name");
            self.error(
                "`base_model` is empty",
                [label],
                "give the folder of a model",
            );
        }
    }

    fn key_inside(&self, path: &str, note: &str) -> Option<Label> {
        self.given.inside(path).map(|site| site.at_key(note))
    }

    /// What a backend can do is found out when there is one.
    fn precision(&mut self) {
        let compute = &self.config.compute;
        if compute.fp16 {
            let label = self.value("fp16", "asks for float16");
            self.error(
                "no backend trains in float16, whose gradients vanish unless they are scaled",
                [label],
                "write `bf16: true`, which has the range of float32, or `fp16: false`",
            );
        }
        if compute.bf16 == AutoBool::Bool(true) && self.config.backend == Backend::Ndarray {
            let labels = [
                self.value("bf16", "asks for bfloat16"),
                self.value("backend", "has float32 only"),
            ];
            self.error(
                "the backend `ndarray` cannot compute in bfloat16",
                labels,
                "write `backend: flex` or `backend: cuda`, or `bf16: auto`",
            );
            self.findings.failed.insert("bf16".to_owned());
        }
    }

    fn batches(&mut self) {
        // In Rust, each field has a value; whether these agree is looked at elsewhere.
        if self.given.by_layers() {
            self.exclusive(
                "gradient_accumulation_steps",
                "batch_size",
                "keep one: `batch_size` is `micro_batch_size` times `gradient_accumulation_steps`",
            );
        }
        let (Some(batch), micro) = (self.config.batch_size, self.config.micro_batch_size) else {
            return;
        };
        if !batch.is_multiple_of(micro) && self.usable(&["batch_size", "micro_batch_size"]) {
            let labels = [
                self.value("batch_size", &format!("not a multiple of {micro}")),
                self.value("micro_batch_size", "rows in one forward pass"),
            ];
            let below = batch / micro * micro;
            self.error(
                "`batch_size` must be a multiple of `micro_batch_size`",
                labels,
                &format!("use {}", if below == 0 { micro } else { below }),
            );
        }
    }

    fn lengths(&mut self) {
        let c = self.config;
        for (key, longest) in [
            ("sequence_len", Some(c.sequence_len)),
            ("eval_sequence_len", c.eval_sequence_len),
        ] {
            if longest.is_some_and(|longest| c.min_sample_len > longest)
                && self.usable(&["min_sample_len", key])
            {
                let labels = [
                    self.value("min_sample_len", "shortest row that is kept"),
                    self.value(key, "longest row that is kept"),
                ];
                self.error(
                    &format!("`min_sample_len` is above `{key}`, so that no row is kept"),
                    labels,
                    "lower `min_sample_len`",
                );
            }
        }
    }

    fn packing(&mut self) {
        let other = self.config.packing_strategy != PackingStrategy::Sequential
            && self.is_set("packing_strategy");
        if self.config.sample_packing_sequentially && other && self.usable(&["packing_strategy"]) {
            let labels = [
                self.value("packing_strategy", "another strategy"),
                self.key("sample_packing_sequentially", "asks for `sequential`"),
            ];
            self.error(
                "`sample_packing_sequentially` and `packing_strategy` contradict each other",
                labels,
                "remove `sample_packing_sequentially`, or write `packing_strategy: sequential`",
            );
        }
        let reorders = self.config.packing_strategy == PackingStrategy::BestFitDecreasing
            && self.is_set("packing_strategy");
        if self.config.sample_packing
            && self.config.curriculum_sampling
            && reorders
            && self.usable(&["packing_strategy", "curriculum_sampling"])
        {
            let labels = [
                self.value("packing_strategy", "takes the longest documents first"),
                self.key("curriculum_sampling", "asks for file order"),
            ];
            self.error(
                "`curriculum_sampling` and `packing_strategy: best_fit_decreasing` contradict each \
                 other",
                labels,
                "write `packing_strategy: first_fit` or `sequential`",
            );
        }
    }
}
