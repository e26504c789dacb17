//! Operations of training, counted by hand.

use trainer_model::{LoraAdapter, LoraConfig, TrainedRows, TrainingWork, parameters};

use crate::{cpu, folder, load};

/// Elements of a layer's matrices: four of attention, three of the MLP.
const LAYER: f64 = (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160) as f64;
const HEAD: f64 = (64 * 1024) as f64;
const DOCUMENTS: [u32; 2] = [10, 20];
const PREDICTING: usize = 25;
/// Pairs of a query and a key in both layers, times 12 for each of 64 columns.
const ATTENTION: f64 = 2.0 * (55.0 + 210.0) * 12.0 * 64.0;

fn work(model: &trainer_model::CausalLm) -> f64 {
    TrainingWork::new(model, &parameters(model)).of(&DOCUMENTS, PREDICTING)
}

#[test]
fn operations_are_those_of_the_formula() {
    let model = || load(&folder("llama"), &cpu().autodiff());
    let (tokens, predicting) = (30.0, PREDICTING as f64);
    let full = 6.0 * (2.0 * LAYER * tokens + HEAD * predicting) + ATTENTION;
    assert_eq!(work(&model()), full);

    let patterns = ["^lm_head".to_owned()];
    let (frozen, _) = TrainedRows::unfreeze(model(), &patterns).unwrap();
    let expected = full - 2.0 * 2.0 * LAYER * tokens;
    assert_eq!(work(&frozen), expected);

    let config = LoraConfig {
        r: 4,
        target_modules: trainer_model::TargetModules::Names {
            names: vec!["up_proj".into()],
            all_linear: false,
        },
        ..LoraConfig::default()
    };
    let (lora, _) = LoraAdapter::attach(model(), config, 1).unwrap();
    let factors = 2.0 * 4.0 * (64.0 + 160.0);
    let base = 4.0 * (2.0 * LAYER * tokens + HEAD * predicting) + ATTENTION;
    assert_eq!(work(&lora), base + 6.0 * factors * tokens);
}
