//! Tests of models against recorded values and of model folders.

mod adapters;
mod differences;
mod edit;
mod families;
mod files;
mod finite;
mod forks;
mod generation;
mod gguf;
mod gradients;
mod heads;
mod precision;
#[path = "../../src/properties.rs"]
mod properties;
mod quantized;
mod recompute;
mod reference;
mod scores;
mod settings;
mod tied;
mod trained;
mod vocabulary;
mod work;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor};
use trainer_model::{
    Activations, CausalLm, ModelConfig, ParameterGradients, Targets, Tokens, backward,
    load_causal_lm, visit_values,
};

/// The gradients of a backward pass as Burn gives them, which is not the way of
/// [`backward`]: the two check one another.
fn take<M: Module>(model: &M, gradients: &mut Gradients) -> ParameterGradients {
    struct Take<'a> {
        gradients: &'a mut Gradients,
        flat: Vec<Option<Tensor<1>>>,
    }
    impl ModuleVisitor for Take<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad_remove(self.gradients);
            self.flat.push(gradient.map(|gradient| {
                let n = gradient.shape().num_elements();
                gradient.reshape([n])
            }));
        }
    }
    let mut take = Take {
        gradients,
        flat: Vec::new(),
    };
    model.visit(&mut take);
    ParameterGradients { flat: take.flat }
}

/// Folder of a model of the parity set.
fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../trainer-cli/tests/parity/models")
        .join(name)
}

/// Loss and gradients of a row of twelve tokens, with dropout where the model has some.
fn next_token(model: &CausalLm, activations: Activations) -> (f64, ParameterGradients) {
    let ids: Vec<u32> = (0..12).collect();
    let tokens = Tokens {
        rows: 1,
        width: 12,
        input_ids: &ids,
        position_ids: &ids,
        segment_ids: &[1; 12],
    };
    let targets = Targets::from_labels(&(0..12).collect::<Vec<i32>>(), 12);
    let input = model.input(&tokens).with_dropout(3);
    let back = backward(model, &input, activations, |hidden_btd| {
        (model.loss_sum(hidden_btd, &targets), ())
    });
    (back.loss, back.gradients)
}

/// Gradients are the same to the bit with activations kept and computed anew; gives
/// those that there are.
fn recomputes(model: &CausalLm) -> Vec<Vec<f32>> {
    let run = |activations| {
        let (loss, gradients) = next_token(model, activations);
        let gradients = gradients.flat.into_iter().flatten();
        let values = gradients.map(|gradient| gradient.into_data().iter::<f32>().collect());
        (loss, values.collect::<Vec<Vec<f32>>>())
    };
    let kept = run(Activations::Kept);
    assert_eq!(kept, run(Activations::Recomputed));
    kept.1
}

/// All values of a model, by the names of its parameters.
fn values<M: Module>(model: &M) -> BTreeMap<String, Vec<f32>> {
    let mut values = BTreeMap::new();
    let visited = visit_values(model, |name, value| {
        values.insert(name.to_owned(), value.read());
        Ok::<(), Infallible>(())
    });
    match visited {
        Ok(()) => values,
        Err(never) => match never {},
    }
}

fn load(folder: &std::path::Path, device: &Device) -> CausalLm {
    let config = ModelConfig::from_folder(folder, None).unwrap();
    load_causal_lm(folder, &config, device).unwrap()
}

/// The CPU device of this build.
fn cpu() -> Device {
    #[cfg(feature = "flex")]
    return Device::flex();
    #[cfg(not(feature = "flex"))]
    #[allow(deprecated)] // Burn deprecates the backend; it stays available here by name.
    return Device::ndarray();
}
