//! Conversations for the tests of what is trained of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use trainer_config::{Config, Dataset, PromptStrategy};
use trainer_data::{Tokenizer, prepare};

use crate::support::{Lab, config, trained};

/// A tokenizer with this end of sequence, loaded once for all tests.
pub(crate) fn tokenizer(eos: &'static str) -> Arc<Tokenizer> {
    static LOADED: Mutex<BTreeMap<&str, Arc<Tokenizer>>> = Mutex::new(BTreeMap::new());
    let mut loaded = LOADED.lock().unwrap();
    let load = || Arc::new(Lab::new(eos).tokenizer());
    Arc::clone(loaded.entry(eos).or_insert_with(load))
}

pub(crate) const GEMMA: &str = "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}";
pub(crate) const LLAMA3: &str = "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}";
/// Cuts the reasoning out of all turns but the last, as Qwen3 does.
pub(crate) const REASONING: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and '</think>' in m.content %}{% set parts = m.content.split('</think>') %}{% if loop.last %}<think>\n{{ parts[0].split('<think>')[-1].strip('\n') }}\n</think>\n\n{% endif %}{{ parts[-1].lstrip('\n') }}{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
/// Prints reasoning that is given apart, and calls of tools.
pub(crate) const TOOLS: &str = "{% if tools %}<|im_start|>tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}{% for c in m.tool_calls %}<tool_call>{\"name\": \"{{ c.function.name }}\", \"arguments\": {{ c.function.arguments | tojson }}}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// A row, and what differs from the defaults.
pub(crate) struct Run {
    row: Value,
    eos: &'static str,
    dataset: Dataset,
    config: Config,
}

impl Run {
    pub(crate) fn new(row: Value) -> Self {
        Self {
            row,
            eos: "<|im_end|>",
            dataset: Dataset::default(),
            config: Config {
                chat_template: Some("chatml".into()),
                ..config(Dataset::default())
            },
        }
    }

    pub(crate) fn jinja(mut self, template: &str) -> Self {
        self.config.chat_template = None;
        self.config.chat_template_jinja = Some(template.into());
        self
    }

    pub(crate) fn eos(mut self, eos: &'static str) -> Self {
        self.eos = eos;
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut Dataset, &mut Config)) -> Self {
        change(&mut self.dataset, &mut self.config);
        self
    }

    /// Trained parts of each sample, and its whole text.
    pub(crate) fn samples(self) -> Result<Vec<(Vec<String>, String)>, String> {
        let lab = Lab::new(self.eos);
        let data = lab.rows(PromptStrategy::ChatTemplate, &[self.row]);
        let config = Config {
            datasets: vec![Dataset {
                path: data.path,
                strategy: data.strategy,
                ..self.dataset
            }],
            ..self.config
        };
        let tokenizer = tokenizer(self.eos);
        let prepared = prepare(&config, &tokenizer).map_err(|error| lab.message(&error))?;
        Ok(prepared
            .train
            .iter()
            .map(|sample| {
                let text = tokenizer.decode(&sample.input_ids, false).unwrap();
                (trained(sample, &tokenizer), text)
            })
            .collect())
    }

    /// Trained parts of the only sample. A row with nothing to train is dropped:
    /// that is no trained part.
    #[track_caller]
    pub(crate) fn spans(self) -> Vec<String> {
        match self.samples() {
            Ok(mut samples) => {
                assert_eq!(samples.len(), 1);
                samples.remove(0).0
            }
            Err(error) => {
                assert!(error.contains("1 nothing to train"), "{error}");
                Vec::new()
            }
        }
    }

    pub(crate) fn error(self) -> String {
        self.samples().unwrap_err()
    }
}

pub(crate) fn talk() -> Value {
    json!({"messages": [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
        {"role": "user", "content": "bye"},
        {"role": "assistant", "content": "ok"},
    ]})
}

pub(crate) fn one(content: impl Into<Value>) -> Value {
    json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": content.into()}]})
}

pub(crate) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}
