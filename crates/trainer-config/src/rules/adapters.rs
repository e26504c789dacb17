//! Rules about adapters.

use super::Rules;
use crate::schema::InitLoraWeights;

impl Rules<'_> {
    pub(super) fn adapters(&mut self) {
        let c = &self.config.adapters;
        // Keys that ask for something, by their values: `false` and `null` do not.
        let set = [
            ("lora_r", c.lora_r.is_some()),
            ("lora_alpha", c.lora_alpha.is_some()),
            ("lora_dropout", c.lora_dropout.is_some_and(|p| p > 0.0)),
            ("lora_target_linear", c.lora_target_linear),
            ("lora_target_modules", c.lora_target_modules.is_some()),
            ("lora_modules_to_save", c.lora_modules_to_save.is_some()),
            ("lora_rank_pattern", c.lora_rank_pattern.is_some()),
            ("lora_alpha_pattern", c.lora_alpha_pattern.is_some()),
            ("lora_model_dir", c.lora_model_dir.is_some()),
            (
                "peft_layers_to_transform",
                c.peft_layers_to_transform.is_some(),
            ),
            ("peft_layers_pattern", c.peft_layers_pattern.is_some()),
            ("peft_use_rslora", c.peft_use_rslora),
            ("peft_use_dora", c.peft_use_dora),
            ("peft_init_lora_weights", c.peft_init_lora_weights.is_some()),
        ];
        if !self.usable(&["adapter"]) {
            return;
        }
        if c.adapter.is_none() {
            for (key, _) in set.into_iter().filter(|(_, set)| *set) {
                let label = self.key(key, "is about an adapter");
                self.error(
                    &format!("`{key}` needs `adapter`"),
                    [label],
                    "add `adapter: lora`, or remove the key: all weights are trained",
                );
            }
            return;
        }
        if self.config.parameters.unfrozen_parameters.is_some()
            && self.usable(&["unfrozen_parameters"])
        {
            let labels = [
                self.key("unfrozen_parameters", "has no effect with an adapter"),
                self.value("adapter", "freezes all weights"),
            ];
            self.error(
                "`unfrozen_parameters` and `adapter` contradict each other",
                labels,
                "name modules that are trained beside the adapter in `lora_modules_to_save`",
            );
        }
        if c.peft_init_lora_weights == Some(InitLoraWeights::Default(false)) {
            let label = self.value("peft_init_lora_weights", "a second factor other than zero");
            self.error(
                "`peft_init_lora_weights: false` starts from another model than `base_model`",
                [label],
                "write `true`, or the name of a method",
            );
        }
        let ranks = c.lora_rank_pattern.iter().flatten();
        let ranks = ranks.map(|(name, &r)| ("lora_rank_pattern", name, r > 0));
        let alphas = c.lora_alpha_pattern.iter().flatten();
        let alphas = alphas.map(|(name, &alpha)| ("lora_alpha_pattern", name, alpha > 0.0));
        for (key, name, positive) in ranks.chain(alphas) {
            let key = format!("{key}.{name}");
            if !positive {
                let label = self.value(&key, "must be above 0");
                self.error(&format!("`{key}` is out of range"), [label], "raise it");
            }
        }
        if c.peft_layers_pattern.is_some() && c.peft_layers_to_transform.is_none() {
            let label = self.key("peft_layers_pattern", "counts which layers?");
            self.error(
                "`peft_layers_pattern` needs `peft_layers_to_transform`",
                [label],
                "add the numbers of the layers, or remove the key",
            );
        }
        if c.lora_model_dir.is_some() {
            return;
        }
        for (key, given, example) in [
            ("lora_r", c.lora_r.is_some(), "lora_r: 16"),
            ("lora_alpha", c.lora_alpha.is_some(), "lora_alpha: 32"),
        ] {
            if !given && self.usable(&[key]) {
                let label = self.value("adapter", "a new adapter");
                self.error(
                    &format!("`{key}` is missing"),
                    [label],
                    &format!("add a line such as `{example}`"),
                );
            }
        }
        if !c.lora_target_linear
            && c.lora_target_modules
                .as_ref()
                .is_none_or(|names| names.as_slice().is_empty())
            && self.usable(&["lora_target_linear", "lora_target_modules"])
        {
            let label = self.value("adapter", "on which maps?");
            self.error(
                "an adapter needs `lora_target_linear` or `lora_target_modules`",
                [label],
                "add `lora_target_linear: true`, or a list of names such as \
                 `lora_target_modules: [q_proj, v_proj]`",
            );
        }
    }
}
