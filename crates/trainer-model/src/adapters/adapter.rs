//! The adapter of a model: attached, switched off, merged.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use burn::module::{ModuleMapper, Param};
use burn::prelude::*;
use serde_json::Value;

use super::config::LoraConfig;
use super::init::First;
use super::lora::{Factor, LoraSettings, Start};
use super::targets::{by_pattern, check_patterns, resolve, saved_parameters};
use super::{dora, init, merge};
use crate::error::{ModelError, Result};
use crate::files::{EMBEDDING, HEAD};
use crate::parameters::parameters;
use crate::pretrained::Pretrained;
use crate::weight::Weight;

/// Names of a tied embedding: what it is as input and as output.
const TIED: [&str; 2] = [EMBEDDING, HEAD];

/// What the names of an adapter's own parameters hold.
const LORA: &str = ".lora_";

/// The task of models whose head is the vocabulary's.
const CAUSAL: &str = "CAUSAL_LM";

/// What classification heads are called, in PEFT's order; here it is the second.
const HEADS: [&str; 2] = ["classifier", "score"];

/// What is known of the adapter that a model carries: its settings, which maps
/// have factors, and what the modules trained as a whole were before.
#[derive(Debug, Clone)]
pub struct LoraAdapter {
    pub(super) config: LoraConfig,
    pub(super) plan: Plan,
    /// Parameters that are saved with the adapter besides the factors, with their
    /// values before training, flattened.
    pub(super) saved: HashMap<String, Tensor<1>>,
}

impl LoraAdapter {
    /// Freezes `model`, gives the maps that `config` names factors, and makes these
    /// and the modules to save trainable. The result computes what the model did.
    ///
    /// # Errors
    /// When a name matches nothing or an expression is malformed, or the first factors
    /// cannot be made of a weight.
    pub fn attach<M: Pretrained>(model: M, config: LoraConfig, seed: u64) -> Result<(M, Self)> {
        let mut model = model;
        let plan = Plan::new(&mut model, &config)?;
        check_patterns("rank_pattern", &config.rank_pattern, &plan.factors)?;
        check_patterns("alpha_pattern", &config.alpha_pattern, &plan.factors)?;
        let mut freeze = Freeze {
            path: Vec::new(),
            trained: &plan.saved,
            before: HashMap::new(),
        };
        let mut model = model.map(&mut freeze);
        let before = freeze.before;
        let mut place = 0;
        model.each_linear("", &mut |name, linear| {
            place += 1;
            if let Some(&(rank, scale)) = plan.factors.get(name) {
                let device = linear.weight.device();
                let how = config.init_lora_weights;
                let First { a, b, taken } =
                    init::factors(how, &linear.weight, rank, scale, seed, name)?;
                linear.lora_A = Some(Factor::new(a.clone().into_data(), &device));
                linear.lora_B = Some(Factor::new(b.clone().into_data(), &device));
                linear.lora_start = taken.then_some(Start { a, b });
                linear.lora = LoraSettings {
                    scale,
                    dropout: config.lora_dropout,
                    place,
                };
                if config.use_dora
                    && let Some(factors) = linear.factors()
                {
                    // At first the magnitudes are those that the weight has.
                    let norms_o = dora::row_norms(&linear.weight, factors).into_data();
                    linear.lora_magnitude_vector =
                        Some(Param::from_tensor(Tensor::from_data(norms_o, &device)));
                }
            }
            Ok(())
        })?;
        let adapter = Self {
            config,
            plan,
            saved: before,
        };
        Ok((model, adapter))
    }

    /// Checks that the adapter is what `config` describes, first values and dropout
    /// aside: the same maps with the same ranks and scales, and the same modules
    /// trained as a whole.
    ///
    /// # Errors
    /// What is different.
    pub fn expect<M: Pretrained>(&self, model: &mut M, config: &LoraConfig) -> Result<()> {
        let wanted = Plan::new(model, config)?;
        let differs = |setting, message| Err(ModelError::Adapter { setting, message });
        if wanted.saved != self.plan.saved {
            return differs(
                "modules_to_save",
                "the adapter was trained with others".into(),
            );
        }
        if config.use_dora != self.config.use_dora {
            let message = match self.config.use_dora {
                true => "the adapter was trained with magnitudes",
                false => "the adapter has no magnitudes",
            };
            return differs("use_dora", message.into());
        }
        let (have, want) = (&self.plan.factors, &wanted.factors);
        for name in have.keys().chain(want.keys()) {
            match (have.get(name), want.get(name)) {
                (Some((have, _)), Some((want, _))) if have != want => {
                    return differs(
                        "r",
                        format!("the adapter has rank {have} at {name}, not {want}"),
                    );
                }
                (Some((_, have)), Some((_, want))) if have != want => {
                    return differs(
                        "lora_alpha",
                        format!("the adapter is scaled by {have} at {name}, not by {want}"),
                    );
                }
                (Some(_), Some(_)) => {}
                (Some(_), None) => {
                    return differs(
                        "target_modules",
                        format!("the adapter has factors at {name} too"),
                    );
                }
                (None, _) => {
                    return differs(
                        "target_modules",
                        format!("the adapter has no factors at {name}"),
                    );
                }
            }
        }
        Ok(())
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// Whether a parameter of the model that carries the adapter is trained with it.
    /// Draws no values, as asking the parameter could.
    #[must_use]
    pub fn trains(&self, name: &str) -> bool {
        name.contains(LORA) || self.plan.saved.contains(name)
    }

    /// Sets the probability that an input of the factors is dropped in training.
    pub fn set_dropout<M: Pretrained>(&mut self, model: &mut M, probability: f64) {
        self.config.lora_dropout = probability;
        let set = model.each_linear("", &mut |_, linear| {
            linear.lora.dropout = probability;
            Ok(())
        });
        debug_assert!(set.is_ok(), "setting cannot fail");
    }

    /// The model without the adapter, as it was before training. Shares the frozen
    /// weights with `model`.
    #[must_use]
    pub fn switched_off<M: Pretrained>(&self, model: &M) -> M {
        let mut model = model.clone().map(&mut Restore {
            path: Vec::new(),
            values: &self.saved,
        });
        remove(&mut model);
        model
    }

    /// The model with the adapter worked into its weights, in `f32`, one weight
    /// at a time. What had factors or was trained as a whole is an ordinary weight
    /// then.
    #[must_use]
    pub fn merged<M: Pretrained>(&self, model: M) -> M {
        let mut model = model;
        let merged = model.each_linear("", &mut |_, linear| {
            merge::into_weight(linear);
            Ok(())
        });
        debug_assert!(merged.is_ok(), "merging cannot fail");
        remove(&mut model);
        model
    }

    /// The names under which a parameter is saved: two for a tied embedding.
    pub(super) fn names_of<'a>(&self, parameter: &'a str) -> impl Iterator<Item = &'a str> {
        let both = self.plan.tied && parameter == TIED[0];
        std::iter::once(parameter).chain(both.then_some(TIED[1]))
    }

    /// Whether a parameter of the model belongs to the adapter.
    pub(super) fn has(&self, parameter: &str) -> bool {
        parameter.contains(LORA) || self.saved.contains_key(parameter)
    }
}

/// What an adapter's settings mean for a model.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Rank and scale of the factors, by the names of their maps.
    factors: BTreeMap<String, (usize, f64)>,
    /// Parameters that are trained besides the factors.
    saved: BTreeSet<String>,
    /// `target_modules` by which PEFT finds the same maps.
    pub(super) target_modules: Value,
    /// `modules_to_save`, with both names of a tied embedding.
    pub(super) modules_to_save: Vec<String>,
    /// The output head is the embedding.
    tied: bool,
}

impl Plan {
    fn new<M: Pretrained>(model: &mut M, config: &LoraConfig) -> Result<Self> {
        let mut linears = Vec::new();
        let mut quantized = Vec::new();
        model.each_linear("", &mut |name, linear| {
            linears.push(name.to_owned());
            if matches!(linear.weight, Weight::Quantized(_)) {
                quantized.push(format!("{name}.weight"));
            }
            Ok(())
        })?;
        let targets = resolve(config, &linears)?;
        let mut factors = BTreeMap::new();
        for name in targets.names {
            let rank = by_pattern("rank_pattern", &config.rank_pattern, &name)?.unwrap_or(config.r);
            let alpha = by_pattern("alpha_pattern", &config.alpha_pattern, &name)?
                .unwrap_or(config.lora_alpha);
            let divisor = if config.use_rslora {
                (rank as f64).sqrt()
            } else {
                rank as f64
            };
            factors.insert(name, (rank, alpha / divisor));
        }

        let mut names: Vec<String> = parameters(model)
            .into_iter()
            .map(|parameter| parameter.name)
            .filter(|name| !name.contains(LORA))
            .collect();
        let tied = model.is_tied();
        if tied {
            names.push(TIED[1].to_owned());
        }
        let mut modules_to_save = config.modules_to_save.clone();
        let mut wanted = modules_to_save.clone();
        if model.task_type() != CAUSAL {
            // A new head is trained with every adapter. PEFT lists both names that
            // heads have, whichever the model uses.
            wanted.retain(|module| !HEADS.contains(&module.as_str()));
            wanted.push(HEADS[1].to_owned());
            let missing = HEADS
                .iter()
                .filter(|head| !modules_to_save.iter().any(|m| m == *head));
            let missing: Vec<String> = missing.map(|head| (*head).to_owned()).collect();
            modules_to_save.extend(missing);
        }
        names.extend(quantized.iter().cloned());
        let mut saved = saved_parameters(&wanted, &names)?;
        if let Some(name) = quantized.iter().find(|name| saved.contains(*name)) {
            return Err(ModelError::Adapter {
                setting: "modules_to_save",
                message: format!(
                    "{name} is quantized, and what is quantized is frozen: leave it out, or load \
                     the model without quantization"
                ),
            });
        }
        if tied && TIED.iter().any(|name| saved.contains(*name)) {
            // One tensor under two names: both change, so both are saved, without
            // which other programs would go on with the old output head.
            for module in ["embed_tokens", "lm_head"] {
                if !modules_to_save
                    .iter()
                    .any(|end| module.ends_with(end.as_str()))
                {
                    modules_to_save.push(module.to_owned());
                }
            }
            saved.insert(TIED[0].to_owned());
            saved.remove(TIED[1]);
        }
        Ok(Self {
            factors,
            saved,
            target_modules: targets.written,
            modules_to_save,
            tied,
        })
    }
}

fn remove<M: Pretrained>(model: &mut M) {
    let removed = model.each_linear("", &mut |_, linear| {
        linear.lora_A = None;
        linear.lora_B = None;
        linear.lora_magnitude_vector = None;
        linear.lora = LoraSettings::default();
        linear.lora_start = None;
        Ok(())
    });
    debug_assert!(removed.is_ok(), "removing cannot fail");
}

/// Leaves only some parameters trainable and notes what they are.
struct Freeze<'a> {
    path: Vec<String>,
    trained: &'a BTreeSet<String>,
    before: HashMap<String, Tensor<1>>,
}

impl ModuleMapper for Freeze<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.join(".");
        let trained = self.trained.contains(&name);
        if trained {
            let value = param.val();
            let value = if value.is_autodiff() {
                value.inner()
            } else {
                value
            };
            let n = value.shape().num_elements();
            self.before.insert(name, value.reshape([n]));
        }
        param.set_require_grad(trained)
    }
}

struct Restore<'a> {
    path: Vec<String>,
    values: &'a HashMap<String, Tensor<1>>,
}

impl ModuleMapper for Restore<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(before) = self.values.get(&self.path.join(".")) else {
            return param;
        };
        param.map(|value| {
            let before = before.clone().reshape(value.shape());
            if value.is_autodiff() {
                before.autodiff()
            } else {
                before
            }
        })
    }
}
