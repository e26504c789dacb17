//! Rules about adapters.

use super::Rules;
use crate::schema::{AdapterKind, InitLoraWeights, LORA_INITS, is_lora_init};

impl Rules<'_> {
    /// How factors begin.
    fn first_values(&mut self) {
        const KEY: &str = "peft_init_lora_weights";
        let c = &self.config.adapters;
        let Some(InitLoraWeights::Named(name)) = &c.peft_init_lora_weights else {
            return;
        };
        if !self.usable(&[KEY]) {
            return;
        }
        if !is_lora_init(name) {
            let label = self.value(KEY, "not a way to begin");
            let help = format!("write `true`, or one of {}", LORA_INITS.join(", "));
            self.error(&format!("`{KEY}: {name}` is not known"), [label], &help);
        } else if name != "gaussian" && (c.load_in_4bit || c.load_in_8bit) {
            let bits = match c.load_in_4bit {
                true => "load_in_4bit",
                false => "load_in_8bit",
            };
            let labels = [
                self.value(KEY, "makes factors of the weights"),
                self.key(bits, "has no weights but codes"),
            ];
            let message = format!("`{KEY}: {name}` needs weights that are not quantized");
            self.error(&message, labels, "remove one of the keys");
        }
    }

    /// How frozen weights are kept.
    fn quantization(&mut self) {
        let c = &self.config.adapters;
        if !self.usable(&["load_in_4bit", "load_in_8bit"]) {
            return;
        }
        if c.load_in_4bit && c.load_in_8bit {
            let labels = [
                self.key("load_in_4bit", "4 bits"),
                self.key("load_in_8bit", "8 bits"),
            ];
            let help = "remove one of them: 4 bits take half the memory, 8 bits are nearer to the \
                        weights";
            self.error("frozen weights have 4 bits or 8, not both", labels, help);
        } else if c.adapter == Some(AdapterKind::Qlora) && !c.load_in_4bit {
            let label = self.value("adapter", "has frozen weights in 4 bits");
            let help = match c.load_in_8bit {
                true => "write `adapter: lora` for weights in 8 bits, or `load_in_4bit: true`",
                false => "add `load_in_4bit: true`, or write `adapter: lora`",
            };
            self.error("`adapter: qlora` needs `load_in_4bit`", [label], help);
        }
        let key = match c.load_in_4bit {
            true => "load_in_4bit",
            false => "load_in_8bit",
        };
        if (c.load_in_4bit || c.load_in_8bit) && self.config.reinit_weights {
            let labels = [
                self.key("reinit_weights", "random weights"),
                self.key(key, "which stay as they are"),
            ];
            self.error(
                &format!("`{key}` freezes weights that `reinit_weights` draws at random"),
                labels,
                "remove one of the keys",
            );
        }
    }

    pub(super) fn adapters(&mut self) {
        let c = &self.config.adapters;
        // Keys that ask for something, by their values: `false` and `null` do not.
        let set = [
            ("load_in_4bit", c.load_in_4bit),
            ("load_in_8bit", c.load_in_8bit),
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
        self.quantization();
        if c.peft_init_lora_weights == Some(InitLoraWeights::Default(false)) {
            let label = self.value("peft_init_lora_weights", "a second factor other than zero");
            self.error(
                "`peft_init_lora_weights: false` starts from another model than `base_model`",
                [label],
                "write `true`, or the name of a method",
            );
        }
        self.first_values();
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
