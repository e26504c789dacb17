//! `trainer-model`: a model that is read, computes, writes and is saved.

use std::ops::ControlFlow;

use burn::tensor::Device;
use trainer_model::{
    CausalLm, GenerationOptions, ModelConfig, SaveDtype, Targets, Tokens, load_causal_lm,
    save_model,
};

use super::base_model;

fn loss(model: &CausalLm) -> f32 {
    let ids = [1, 5, 9, 13];
    let tokens = Tokens {
        rows: 1,
        width: 4,
        input_ids: &ids,
        position_ids: &[0, 1, 2, 3],
        segment_ids: &[1; 4],
    };
    let targets = Targets::from_labels(&[-100, 5, 9, 13], 4);
    let hidden = model.hidden(&model.input(&tokens));
    model.loss_sum(hidden, &targets).into_scalar::<f32>()
}

#[test]
fn a_model_comes_back_as_it_was() {
    let device = Device::flex();
    let config = ModelConfig::from_folder(&base_model(), None).unwrap();
    let model = load_causal_lm(&base_model(), &config, &device).unwrap();
    let before = loss(&model);
    assert!(before.is_finite() && before > 0.0);
    let options = GenerationOptions::greedy(3, Vec::new());
    let answers = model
        .generate(&[vec![1, 5]], &options, |_, _| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(answers[0].ids.len(), 3);

    let folder = tempfile::tempdir().unwrap();
    save_model(&model, folder.path(), SaveDtype::F32).unwrap();
    let again = load_causal_lm(folder.path(), &config, &device).unwrap();
    assert_eq!(loss(&again), before);
}
