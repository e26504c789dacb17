//! Vocabularies that grow and shrink.

use trainer_model::{
    CausalLm, NewRows, ParameterInfo, SaveDtype, TrainedRows, parameters, save_model,
    untrained_rows,
};

use crate::{cpu, folder, load, values};

fn table(model: &CausalLm, name: &str) -> Vec<f32> {
    values(model).remove(name).unwrap()
}

#[test]
fn new_rows_are_the_mean_of_the_old_ones_and_are_saved() {
    for device in [cpu(), cpu().autodiff()] {
        let model = load(&folder("llama"), &device);
        let (old, width) = (model.config().vocab_size, model.config().hidden_size);
        let before = table(&model, "model.embed_tokens.weight");
        let model = model.resize_vocabulary(old + 3, NewRows::Mean);
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            let source = load(&folder("llama"), &cpu());
            let before = table(&source, name);
            let after = table(&model, name);
            assert_eq!(after.len(), (old + 3) * width);
            assert_eq!(after[..old * width], before);
            for column in 0..width {
                let rows = before.iter().skip(column).step_by(width);
                let mean = rows.map(|x| f64::from(*x)).sum::<f64>() / old as f64;
                for row in old..old + 3 {
                    let got = f64::from(after[row * width + column]);
                    assert!(
                        (got - mean).abs() < 1e-8,
                        "{name} {row} {column}: {got} {mean}"
                    );
                }
            }
        }
        assert!(
            parameters(&model)
                .iter()
                .all(|info| info.trainable == device.is_autodiff())
        );

        let target = tempfile::tempdir().unwrap();
        save_model(&model, target.path(), SaveDtype::F32).unwrap();
        let back = load(target.path(), &cpu());
        assert_eq!(back.config().vocab_size, old + 3);
        let smaller = back.resize_vocabulary(old, NewRows::Mean);
        assert_eq!(table(&smaller, "model.embed_tokens.weight"), before);
        let same = smaller.resize_vocabulary(old, NewRows::Random);
        assert_eq!(same.config().vocab_size, old);
    }
}

#[test]
fn random_rows_have_the_spread_of_the_configuration() {
    let device = cpu();
    device.seed(3);
    let model = load(&folder("llama"), &device);
    let (old, width) = (model.config().vocab_size, model.config().hidden_size);
    let std = model.config().initializer_range;
    let model = model.resize_vocabulary(old + 100, NewRows::Random);
    let after = table(&model, "lm_head.weight");
    let fresh = &after[old * width..];
    let squares: f64 = fresh.iter().map(|x| f64::from(*x).powi(2)).sum();
    let got = (squares / fresh.len() as f64).sqrt();
    assert!((got / std - 1.0).abs() < 0.05, "{got} {std}");
}

#[test]
fn ids_that_ended_a_text_still_do() {
    let mut model = load(&folder("llama"), &cpu());
    let before = model.config().raw["eos_token_id"].clone();
    model.model.set_token_id("eos_token_id", 900);
    model.model.set_token_id("pad_token_id", 901);
    model.model.add_end_tokens(&[900, 902]);
    let config = model.config();
    assert_eq!(config.raw["eos_token_id"], 900);
    assert_eq!(
        config.generation["eos_token_id"],
        serde_json::json!([before, 900, 902])
    );
    assert_eq!(config.generation["pad_token_id"], 901);
}

#[test]
fn rows_of_new_tokens_that_nothing_trains_are_found() {
    let info = |name: &str, trainable| ParameterInfo {
        name: name.into(),
        shape: vec![2, 2],
        trainable,
    };
    let embedding = |trainable| info("model.embed_tokens.weight", trainable);
    let head = |trainable| info("lm_head.weight", trainable);
    let found = |new: &[u32], parameters: &[ParameterInfo]| {
        let found = untrained_rows(new, parameters, &TrainedRows::default());
        let parts = found.into_iter().map(|rows| (rows.part, rows.ids));
        parts.collect::<Vec<_>>()
    };
    let none = Vec::<(&str, Vec<u32>)>::new();
    assert_eq!(found(&[2, 3], &[embedding(true), head(true)]), none);
    assert_eq!(found(&[2, 3], &[embedding(true)]), none);
    assert_eq!(found(&[], &[embedding(false)]), none);
    let saved = info("model.embed_tokens.modules_to_save.weight", true);
    assert_eq!(found(&[2, 3], &[embedding(false), saved]), none);
    let all = vec![2, 3];
    assert_eq!(
        found(&all, &[embedding(true), head(false)]),
        [("lm_head", all.clone())]
    );
    assert_eq!(
        found(&all, &[embedding(false), head(false)]),
        [("embed_tokens", all.clone()), ("lm_head", all.clone())]
    );
}
