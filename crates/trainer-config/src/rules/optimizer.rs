//! Rules about the optimizer and about learning rates of parts of the model.

use serde_json::{Map, Value};

use super::Rules;
use crate::scalar::{self, Scalar};
use crate::schema::{Config, OptimArgs};

/// Both decays of the AdamW beside Muon, as in Axolotl's.
pub(super) const MUON_BETA: f64 = 0.95;

/// The learning rate of LoRA on embeddings under LoRA+ that is no choice: it is
/// in every dump of a configuration.
const LORAPLUS_EMBEDDING: f64 = 1e-6;

/// Reads `name=value,name=value`.
pub(super) fn arguments(text: &str) -> Result<Map<String, Value>, String> {
    let mut read = Map::new();
    for part in text.split(',').map(str::trim) {
        if part.is_empty() {
            continue;
        }
        let Some((name, value)) = part.split_once('=') else {
            return Err(format!("`{part}` has no `=`"));
        };
        let (name, value) = (name.trim(), value.trim());
        let value = match scalar::resolve(value) {
            Scalar::Null => Value::Null,
            Scalar::Bool(value) => value.into(),
            Scalar::Integer(whole) => match i64::try_from(whole) {
                Ok(value) => value.into(),
                Err(_) => (whole as f64).into(),
            },
            Scalar::Float(value) => value.into(),
            Scalar::Text => value.into(),
        };
        if read.insert(name.to_owned(), value).is_some() {
            return Err(format!("`{name}` is there twice"));
        }
    }
    Ok(read)
}

impl Rules<'_> {
    /// Keys of Adam with an optimizer that does not read them. Their defaults ask
    /// for nothing: they are in every dump of a configuration.
    pub(super) fn adam_keys(&mut self) {
        let (c, default) = (self.config, Config::default());
        let optimizer = c.optimizer;
        if !self.usable(&["optimizer"]) {
            return;
        }
        for (key, differs) in [
            ("adam_beta1", c.adam_beta1 != default.adam_beta1),
            ("adam_beta2", c.adam_beta2 != default.adam_beta2),
            ("adam_epsilon", c.adam_epsilon != default.adam_epsilon),
        ] {
            if differs && !optimizer.adam_keys().contains(&key) && self.usable(&[key]) {
                let labels = [
                    self.key(key, "has no effect"),
                    self.value("optimizer", "does not read it"),
                ];
                self.error(
                    &format!("`optimizer: {optimizer}` does not read `{key}`"),
                    labels,
                    "remove it; arguments of this optimizer go into `optim_args`",
                );
            }
        }
    }

    /// `optim_args` as a text. Which names an optimizer takes is checked where it
    /// is built.
    pub(super) fn optimizer_arguments(&mut self) {
        let Some(OptimArgs::Text(text)) = &self.config.optimization.optim_args else {
            return;
        };
        if let Err(message) = arguments(text)
            && self.usable(&["optim_args"])
        {
            let label = self.value("optim_args", &message);
            self.error(
                "`optim_args` cannot be read",
                [label],
                "write `name=value,name=value`, or a mapping",
            );
        }
    }

    /// Learning rates of parts of the model: LoRA+, groups, embeddings.
    pub(super) fn rates(&mut self) {
        for (first, second, help) in [
            (
                "embedding_lr",
                "embedding_lr_scale",
                "keep one: both set the learning rate of the embeddings",
            ),
            (
                "loraplus_lr_ratio",
                "lr_groups",
                "keep one: both divide the parameters into groups",
            ),
            (
                "loraplus_lr_ratio",
                "embedding_lr",
                "under LoRA+ the rate of embeddings is `loraplus_lr_embedding`",
            ),
            (
                "loraplus_lr_ratio",
                "embedding_lr_scale",
                "under LoRA+ the rate of embeddings is `loraplus_lr_embedding`",
            ),
        ] {
            self.exclusive(first, second, help);
        }
        let c = &self.config.optimization;
        if let Some(rate) = c.loraplus_lr_embedding
            && rate != LORAPLUS_EMBEDDING
            && c.loraplus_lr_ratio.is_none()
            && self.usable(&["loraplus_lr_embedding", "loraplus_lr_ratio"])
        {
            let label = self.key("loraplus_lr_embedding", "belongs to LoRA+");
            self.error(
                "`loraplus_lr_embedding` needs `loraplus_lr_ratio`",
                [label],
                "add a line such as `loraplus_lr_ratio: 16`, or remove the key",
            );
        }
        let names: Vec<&str> = c
            .lr_groups
            .iter()
            .flatten()
            .map(|group| group.name.as_str())
            .collect();
        for (index, name) in names.iter().enumerate() {
            let first = names.iter().position(|other| other == name);
            let (key, earlier) = (
                format!("lr_groups.{index}.name"),
                format!("lr_groups.{}.name", first.unwrap_or(index)),
            );
            if first != Some(index) && self.usable(&[&key, &earlier]) {
                let labels = [
                    self.value(&key, "the name of another group"),
                    self.value(&earlier, "this one"),
                ];
                self.error(
                    &format!("two groups of `lr_groups` are called `{name}`"),
                    labels,
                    "give each group a name of its own",
                );
            }
        }
    }
}
