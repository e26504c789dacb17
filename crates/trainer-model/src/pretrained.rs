//! What loading and saving need to know of a model: its configuration, and how
//! its class treats the tensors of the head.

use burn::module::Module;
use serde_json::{Map, Value, json};

use crate::adapters::Linears;
use crate::config::ModelConfig;
use crate::decoder::CausalLm;
use crate::families;
use crate::files::HEAD;
use crate::reward::{RewardModel, RewardTask};

/// A model that is loaded from and saved to Hugging Face folders.
pub trait Pretrained: Module + Linears {
    /// The configuration that the model was built from.
    fn config(&self) -> &ModelConfig;

    /// Whether the output head is the embedding.
    fn is_tied(&self) -> bool {
        false
    }

    /// The same model with an output head of its own, which begins as the embedding,
    /// where the two were one.
    #[must_use]
    fn untied(self) -> Self {
        self
    }

    /// What PEFT calls models with this head.
    fn task_type(&self) -> &'static str;

    /// Whether files may lack the tensor of this name, which then keeps its first
    /// values.
    fn may_lack(&self, name: &str) -> bool;

    /// Whether a tensor of this name in files is passed over: the model has it already,
    /// or has no use for it.
    fn ignores(&self, name: &str) -> bool;

    /// The `config.json` to write beside the weights.
    fn saved_config(&self) -> Map<String, Value>;
}

/// `architectures` of a class.
fn architectures(config: &ModelConfig, head: &str) -> Value {
    let family = families::find(&config.model_type);
    let class = family.map_or("", |family| match head {
        "ForCausalLM" => family.class,
        _ => family.classifier,
    });
    json!([format!("{class}{head}")])
}

impl Pretrained for CausalLm {
    fn config(&self) -> &ModelConfig {
        self.config()
    }

    fn is_tied(&self) -> bool {
        self.lm_head.is_none()
    }

    fn untied(self) -> Self {
        self.untied()
    }

    fn task_type(&self) -> &'static str {
        "CAUSAL_LM"
    }

    fn may_lack(&self, _: &str) -> bool {
        false
    }

    fn ignores(&self, name: &str) -> bool {
        // The loader has seen that it is the embedding.
        self.lm_head.is_none() && name == HEAD
    }

    fn saved_config(&self) -> Map<String, Value> {
        let mut raw = self.config().raw.clone();
        let architectures = architectures(self.config(), "ForCausalLM");
        raw.insert("architectures".into(), architectures);
        raw
    }
}

impl Pretrained for RewardModel {
    fn config(&self) -> &ModelConfig {
        self.config()
    }

    fn task_type(&self) -> &'static str {
        match self.task() {
            RewardTask::Sequence => "SEQ_CLS",
            RewardTask::Token => "TOKEN_CLS",
        }
    }

    fn may_lack(&self, name: &str) -> bool {
        name.starts_with("score.")
    }

    fn ignores(&self, name: &str) -> bool {
        name == HEAD
    }

    fn saved_config(&self) -> Map<String, Value> {
        let config = self.config();
        let head = match self.task() {
            RewardTask::Sequence => "ForSequenceClassification",
            RewardTask::Token => "ForTokenClassification",
        };
        let mut raw = config.raw.clone();
        raw.insert("architectures".into(), architectures(config, head));
        raw.remove("num_labels");
        let labels = config.num_labels;
        let names = raw.get("id2label").and_then(Value::as_object);
        if names.is_none_or(|names| names.len() != labels) {
            let name = |label: usize| format!("LABEL_{label}");
            let by_id: Map<String, Value> = (0..labels)
                .map(|label| (label.to_string(), json!(name(label))))
                .collect();
            let by_name: Map<String, Value> = (0..labels)
                .map(|label| (name(label), json!(label)))
                .collect();
            raw.insert("id2label".into(), Value::Object(by_id));
            raw.insert("label2id".into(), Value::Object(by_name));
        }
        raw
    }
}
