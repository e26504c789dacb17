//! Gradients with activations computed anew are those with activations kept, to the
//! bit.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use trainer_model::{
    Activations, Backward, CausalLm, DecoderModel, ModelConfig, ParameterGradients, RewardTask,
    Targets, Tokens, backward, load_reward_model, parameters,
};

use crate::{cpu, folder, load};

/// Trains the parameters whose names the predicate accepts, and no others.
struct Train<F> {
    path: Vec<String>,
    accepts: F,
}

impl<F: Fn(&str) -> bool> ModuleMapper for Train<F> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trained = (self.accepts)(&self.path.join("."));
        param.set_require_grad(trained)
    }
}

fn train_only<M: Module>(model: M, accepts: impl Fn(&str) -> bool) -> M {
    model.map(&mut Train {
        path: Vec::new(),
        accepts,
    })
}

/// Two rows: two documents in one, a document and padding in the other.
struct Rows {
    ids: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<u32>,
}

impl Rows {
    const WIDTH: usize = 60;

    fn new() -> Self {
        let documents = [[25, 35], [52, 0]];
        let (mut positions, mut segments) = (Vec::new(), Vec::new());
        for lengths in documents {
            for (index, length) in lengths.into_iter().enumerate() {
                positions.extend(0..length as u32);
                segments.extend(std::iter::repeat_n(index as u32 + 1, length));
            }
            let full = segments.len().next_multiple_of(Self::WIDTH);
            positions.resize(full, 0);
            segments.resize(full, 0);
        }
        Self {
            ids: (0..segments.len() as u32)
                .map(|i| i * 37 % 1000 + 3)
                .collect(),
            positions,
            segments,
        }
    }

    fn tokens(&self) -> Tokens<'_> {
        Tokens {
            rows: self.segments.len() / Self::WIDTH,
            width: Self::WIDTH,
            input_ids: &self.ids,
            position_ids: &self.positions,
            segment_ids: &self.segments,
        }
    }

    fn targets(&self) -> Targets {
        let labels: Vec<i32> = self
            .ids
            .iter()
            .zip(&self.positions)
            .zip(&self.segments)
            .map(|((&id, &position), &segment)| match (segment, position) {
                (0, _) | (_, 0) => -100,
                _ => id as i32,
            })
            .collect();
        Targets::from_labels(&labels, Self::WIDTH)
    }
}

pub(crate) fn next_token(model: &CausalLm, activations: Activations) -> Backward<usize> {
    let (rows, input) = (Rows::new(), model.input(&Rows::new().tokens()));
    let targets = rows.targets();
    backward(model, &input, activations, |hidden_btd| {
        let loss = model.loss_sum(hidden_btd, &targets) / targets.len() as f64;
        (loss, targets.len())
    })
}

fn bits(gradients: ParameterGradients) -> Vec<Option<Vec<u32>>> {
    let one = |gradient: Tensor<1>| -> Vec<u32> {
        let values = gradient.into_data();
        values.iter::<f32>().map(f32::to_bits).collect()
    };
    let flat = gradients.flat.into_iter();
    flat.map(|gradient| gradient.map(one)).collect()
}

/// Compares both ways, and says which parameters have gradients.
fn assert_same<M: DecoderModel, T: PartialEq + std::fmt::Debug>(
    model: &M,
    what: &str,
    run: impl Fn(&M, Activations) -> Backward<T>,
) -> Vec<String> {
    let kept = run(model, Activations::Kept);
    let recomputed = run(model, Activations::Recomputed);
    assert_eq!(kept.loss, recomputed.loss, "{what}");
    assert_eq!(kept.output, recomputed.output, "{what}");
    let (kept, recomputed) = (bits(kept.gradients), bits(recomputed.gradients));
    let infos = parameters(model);
    assert_eq!(kept.len(), infos.len());
    let mut with_gradients = Vec::new();
    for ((kept, recomputed), info) in kept.into_iter().zip(recomputed).zip(infos) {
        assert!(kept == recomputed, "{what}: {}", info.name);
        assert!(info.trainable || kept.is_none(), "{what}: {}", info.name);
        if kept.is_some() {
            with_gradients.push(info.name);
        }
    }
    with_gradients
}

#[test]
fn every_family_has_the_same_gradients() {
    for name in [
        "llama",
        "gemma3",
        "granite",
        "mistral-swa",
        "mixtral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3-moe",
        "smollm3",
    ] {
        let model = load(&folder(name), &cpu().autodiff());
        let trained = assert_same(&model, name, next_token);
        assert_eq!(trained.len(), parameters(&model).len(), "{name}");
    }
}

/// Whatever lies below the lowest part that is trained takes no part.
#[test]
fn frozen_parts_stay_without_gradients() {
    let parts = [
        ("llama", "model.embed_tokens"),
        ("llama", "model.layers.0.self_attn.q_proj"),
        ("llama", "model.layers.1.mlp"),
        ("llama", "model.norm"),
        ("llama", "lm_head"),
        ("gemma3", "model.layers.0.post_feedforward_layernorm"),
        ("mixtral", "model.layers.0.block_sparse_moe.gate"),
        ("mixtral", "model.layers.1.block_sparse_moe.experts.2"),
        ("phi3", "model.layers.1.self_attn.qkv_proj"),
    ];
    for (name, part) in parts {
        let model = load(&folder(name), &cpu().autodiff());
        let model = train_only(model, |parameter| parameter.starts_with(part));
        let trained = assert_same(&model, part, next_token);
        assert!(!trained.is_empty(), "{part}");
        assert!(trained.iter().all(|parameter| parameter.starts_with(part)));
    }
    let frozen = train_only(load(&folder("llama"), &cpu().autodiff()), |_| false);
    assert!(assert_same(&frozen, "all frozen", next_token).is_empty());
}

/// The loss of the experts' balance is part of value and gradient.
#[test]
fn balance_of_experts_counts() {
    for name in ["mixtral", "qwen3-moe"] {
        let mut config = ModelConfig::from_folder(&folder(name), None).unwrap();
        let value = |coefficient: Option<f64>, config: &mut ModelConfig| {
            config.experts.as_mut().unwrap().balance = coefficient;
            let model = trainer_model::load_causal_lm(&folder(name), config, &cpu().autodiff());
            let model = model.unwrap();
            assert_same(&model, name, next_token);
            next_token(&model, Activations::Recomputed)
        };
        let (without, with) = (value(None, &mut config), value(Some(3.0), &mut config));
        assert!(
            with.loss > without.loss + 3.0,
            "{} {}",
            with.loss,
            without.loss
        );
        assert_ne!(bits(with.gradients), bits(without.gradients));
    }
}

#[test]
fn classification_heads_have_the_same_gradients() {
    for (name, task) in [
        ("llama-reward", RewardTask::Sequence),
        ("llama-prm", RewardTask::Token),
    ] {
        let config = ModelConfig::from_folder(&folder(name), None).unwrap();
        let device = cpu().autodiff();
        let model = load_reward_model(&folder(name), &config, task, &device).unwrap();
        let rows = Rows::new();
        assert_same(&model, name, |model, activations| {
            let input = model.input(&rows.tokens());
            backward(model, &input, activations, |hidden_btd| {
                let scores_nc = model.scores(hidden_btd, &rows.tokens().document_ends());
                let values: Vec<f32> = scores_nc.clone().into_data().iter().collect();
                let n = values.len();
                let upstream: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).cos()).collect();
                let upstream = Tensor::<1>::from_data(TensorData::new(upstream, [n]), &device);
                ((scores_nc.reshape([n]) * upstream).sum(), values)
            })
        });
    }
}
