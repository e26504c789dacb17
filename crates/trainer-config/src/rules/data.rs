//! Rules about data sets, chat templates and evaluation.

use super::Rules;
use crate::diagnostic::Diagnostic;
use crate::keys::{TABLE, nearest};
use crate::schema::{CHAT_TEMPLATES, EvalStrategy, is_chat_template};
use crate::validate::suggestion;

impl Rules<'_> {
    pub(super) fn evaluation(&mut self) {
        let size = self.config.val_set_size;
        if self.is_set("val_set_size") && size == 1.0 {
            let label = self.value("val_set_size", "one row, or all rows?");
            self.error(
                "`val_set_size` of 1 has two meanings",
                [label],
                "below 1 it is a fraction of the rows (0.05), from 2 on a number of rows (100)",
            );
        } else if size > 1.0 && size.fract() != 0.0 {
            let label = self.value(
                "val_set_size",
                "neither a fraction below 1 nor a whole number",
            );
            self.error(
                "`val_set_size` above 1 must be a whole number of rows",
                [label],
                "below 1 it is a fraction of the rows (0.05), above 1 a number of rows (100)",
            );
        }
        if size > 0.0
            && self.config.test_datasets.is_some()
            && self.usable(&["val_set_size", "test_datasets"])
        {
            let labels = [
                self.value("val_set_size", "takes rows off the training data"),
                self.key("test_datasets", "names evaluation data"),
            ];
            self.error(
                "`val_set_size` and `test_datasets` are both set",
                labels,
                "keep `test_datasets` and write `val_set_size: 0`, or remove `test_datasets`",
            );
        }
    }

    pub(super) fn evaluation_times(&mut self) {
        let c = self.config;
        self.exclusive(
            "eval_steps",
            "evals_per_epoch",
            "keep one: both say how often to evaluate",
        );
        if c.eval_steps
            .is_some_and(|steps| steps > 1.0 && steps.fract() != 0.0)
        {
            let label = self.value(
                "eval_steps",
                "neither a fraction below 1 nor a whole number",
            );
            self.error(
                "`eval_steps` above 1 must be a whole number of steps",
                [label],
                "below 1 it is a fraction of all steps (0.1), above 1 a number of steps (50)",
            );
        }
        if !self.usable(&["eval_strategy", "eval_steps", "evals_per_epoch"]) {
            return;
        }
        let cadence = ["eval_steps", "evals_per_epoch"]
            .into_iter()
            .find(|key| self.is_set(key));
        match (c.eval_strategy, cadence) {
            (Some(strategy @ (EvalStrategy::No | EvalStrategy::Epoch)), Some(key)) => {
                let labels = [
                    self.value(
                        "eval_strategy",
                        &format!(
                            "evaluates {}",
                            if strategy == EvalStrategy::No {
                                "never"
                            } else {
                                "after each epoch"
                            }
                        ),
                    ),
                    self.key(key, "asks for evaluations during the epoch"),
                ];
                self.error(
                    &format!("`{key}` and `eval_strategy: {strategy}` contradict each other"),
                    labels,
                    &format!("remove `{key}`, or write `eval_strategy: steps`"),
                );
            }
            (Some(EvalStrategy::Steps), None) => {
                let label = self.value("eval_strategy", "every how many steps?");
                self.error(
                    "`eval_strategy: steps` needs `eval_steps` or `evals_per_epoch`",
                    [label],
                    "add a line such as `eval_steps: 50`",
                );
            }
            _ => {}
        }
        if self.has_evaluation_data() {
            return;
        }
        let wanted = if c.eval_strategy == Some(EvalStrategy::No) {
            None
        } else {
            cadence.or_else(|| self.is_set("eval_strategy").then_some("eval_strategy"))
        };
        if let Some(key) = wanted {
            let labels = [
                self.key(key, "asks for evaluations"),
                self.value("val_set_size", "keeps no rows for them"),
            ];
            self.error(
                &format!("`{key}` is set, but there is no data to evaluate on"),
                labels,
                "set `val_set_size` (such as 0.05) or `test_datasets`",
            );
        }
    }

    /// `chat_template` and `chat_template_jinja`, at the top and in each data set.
    pub(super) fn templates(&mut self) {
        let c = self.config;
        let mut places = vec![(
            String::new(),
            c.chat_template.clone(),
            c.chat_template_jinja.is_some(),
        )];
        for (list, entries) in [
            ("datasets", Some(&c.datasets)),
            ("test_datasets", c.test_datasets.as_ref()),
        ] {
            for (index, entry) in entries.into_iter().flatten().enumerate() {
                let jinja = entry.chat_template_jinja.is_some();
                places.push((
                    format!("{list}.{index}."),
                    entry.chat_template.clone(),
                    jinja,
                ));
            }
        }
        for (prefix, template, jinja) in places {
            let name = format!("{prefix}chat_template");
            let text = format!("{prefix}chat_template_jinja");
            if !self.usable(&[&name, &text]) {
                continue;
            }
            match template.as_deref() {
                Some(other) if !is_chat_template(other) => {
                    self.unknown_template(&name, other);
                }
                // A data set may leave the text to the top level.
                Some("jinja") if !jinja && c.chat_template_jinja.is_none() => {
                    let label = self.value(&name, "which template?");
                    self.error(
                        &format!("`{name}: jinja` needs `{text}`"),
                        [label],
                        "add `chat_template_jinja` with the template or the path of its file",
                    );
                }
                Some(other) if other != "jinja" && jinja => {
                    let labels = [
                        self.value(&name, "another template"),
                        self.key(&text, "a template of your own"),
                    ];
                    self.error(
                        &format!("`{name}` and `{text}` contradict each other"),
                        labels,
                        "keep one, or write `chat_template: jinja`",
                    );
                }
                _ => {}
            }
        }
    }

    fn unknown_template(&mut self, key: &str, written: &str) {
        let label = self.value(key, "not a known template");
        let theirs = TABLE.values("chat_template").map(|(name, _)| (name, false));
        let names = CHAT_TEMPLATES
            .iter()
            .map(|name| (*name, true))
            .chain(theirs);
        let known: Vec<String> = CHAT_TEMPLATES
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        let mut error = Diagnostic::error(format!("unknown value for `{key}`"));
        if let Some(name) = nearest(written, names) {
            error = error.help(suggestion(
                name,
                TABLE.get(&format!("chat_template={name}")),
            ));
        }
        let help = format!(
            "known values: {}; a template of your own is `chat_template_jinja`",
            known.join(", ")
        );
        self.report(error, [label], &help);
    }

    /// Variables of the chat template that the program sets itself.
    pub(super) fn template_variables(&mut self) {
        const OWN: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];
        for (name, _) in self.config.chat_template_kwargs.iter().flatten() {
            if OWN.contains(&name.as_str()) {
                let label = self.key(
                    &format!("chat_template_kwargs.{name}"),
                    "comes from the rows",
                );
                self.error(
                    &format!("`chat_template_kwargs` cannot set `{name}`"),
                    [label],
                    "remove it; variables such as `enable_thinking` can be set",
                );
            }
        }
    }
}
