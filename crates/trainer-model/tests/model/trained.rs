//! What is frozen has no gradient, and rows beside trained ones stay to the bit.

use burn::tensor::{Tensor, TensorData};
use trainer_model::{Activations, CausalLm, TrainedRows, map_values, parameters};

use crate::{cpu, folder, load, next_token};

fn unfreeze(patterns: &[&str]) -> Result<(CausalLm, TrainedRows), String> {
    let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
    let model = load(&folder("llama"), &cpu().autodiff());
    TrainedRows::unfreeze(model, &patterns).map_err(|error| error.to_string())
}

fn host(values: &Tensor<1>) -> Vec<f32> {
    values.clone().into_data().iter().collect()
}

/// Rows of an embedding, a module by an expression, and nothing else: with activations
/// kept and computed anew, and with noise on the embeddings.
#[test]
fn only_what_is_unfrozen_has_gradients_and_a_norm() {
    let patterns = [
        "^model.embed_tokens.weight$[2:5]",
        "^model.embed_tokens.weight$[9]",
        "model.layers.1[0-9]*.mlp.(up|down)_proj",
        "model.+input_layernorm",
    ];
    let (model, rows) = unfreeze(&patterns).unwrap();
    let model = model.with_embedding_noise(5.0);
    let infos = rows.parameters(&model);
    let whole = next_token(&model, Activations::Kept).1;
    let again = next_token(&model, Activations::Recomputed).1;
    let mut cut = whole.clone();
    rows.narrow(&mut cut);
    let mut trained = Vec::new();
    for (index, info) in infos.iter().enumerate() {
        let (whole, again) = (whole.flat[index].as_ref(), again.flat[index].as_ref());
        assert_eq!(whole.map(host), again.map(host), "{}", info.name);
        assert_eq!(whole.is_some(), info.trainable, "{}", info.name);
        let Some(whole) = whole.map(host) else {
            continue;
        };
        trained.push(info.name.as_str());
        let part = cut.flat[index].as_ref().map(host).unwrap();
        assert_eq!(part.len(), info.shape.iter().product::<usize>());
        let width = info.shape[1..].iter().product::<usize>();
        let expected: Vec<f32> = match info.name.as_str() {
            "model.embed_tokens.weight" => {
                assert!(!rows.has(index, 1) && rows.has(index, 2) && rows.has(index, 9));
                [&whole[2 * width..5 * width], &whole[9 * width..10 * width]].concat()
            }
            _ => whole,
        };
        assert_eq!(part, expected, "{}", info.name);
    }
    assert_eq!(
        trained,
        [
            "model.embed_tokens.weight",
            "model.layers.0.input_layernorm.weight",
            "model.layers.1.mlp.up_proj.weight",
            "model.layers.1.mlp.down_proj.weight",
            "model.layers.1.input_layernorm.weight",
        ]
    );
}

/// An optimizer that moves everything it is given moves trained rows alone.
#[test]
fn rows_beside_the_trained_ones_stay() {
    let (model, rows) = unfreeze(&["^lm_head.weight$[:7]", "^lm_head.weight$[1000:]"]).unwrap();
    let index = parameters(&model)
        .iter()
        .position(|info| info.name == "lm_head.weight")
        .unwrap();
    let values = |model: &CausalLm| -> Vec<f32> {
        let head = model.lm_head.as_ref().unwrap().weight.val();
        head.into_data().iter().collect()
    };
    let before = values(&model);
    let width = model.config().hidden_size;
    let moved = map_values(model, |at, value| match at == index {
        false => value,
        true => rows.update(at, value, |part| {
            let n = part.dims()[0];
            assert_eq!(n, (7 + 24) * width);
            let counted: Vec<f32> = (0..n).map(|i| i as f32).collect();
            Tensor::from_data(TensorData::new(counted, [n]), &part.device())
        }),
    });
    let mut count = 0.0;
    for (place, (after, before)) in values(&moved).iter().zip(&before).enumerate() {
        if (7..1000).contains(&(place / width)) {
            assert_eq!(after.to_bits(), before.to_bits());
        } else {
            assert_eq!(*after, count);
            count += 1.0;
        }
    }
}

#[test]
fn patterns_that_say_nothing_are_errors() {
    let message = |pattern: &str| unfreeze(&[pattern]).unwrap_err();
    assert_eq!(
        message("model.layers.0.mlp.upproj"),
        "unfrozen_parameters: \"model.layers.0.mlp.upproj\" matches the beginning of no \
         parameter's name; near it are model.layers.0.mlp.up_proj.weight, \
         model.layers.0.mlp.gate_proj.weight, model.layers.0.mlp.down_proj.weight"
    );
    // Not within a name, and a dot is a dot.
    assert!(message("embed_tokens").contains("near it are model.embed_tokens.weight"));
    assert!(message("model_embed.tokens").contains("near it are model.embed_tokens.weight"));
    assert!(message("lm_head.wait").contains("near it are lm_head.weight"));
    assert!(
        message("model.(embed")
            .starts_with("unfrozen_parameters: \"model.(embed\" is not a regular expression: ")
    );
    for (range, what) in [
        ("[5:5]", "none"),
        ("[:1025]", "not all"),
        ("[1024]", "not all"),
    ] {
        assert_eq!(
            message(&format!("^lm_head.weight${range}")),
            format!(
                "unfrozen_parameters: \"^lm_head.weight${range}\": lm_head.weight has the rows \
                 [0:1024], of which these are {what}"
            )
        );
    }
    let huge = message("^lm_head[99999999999999999999999:]");
    assert!(huge.ends_with("of which these are none"), "{huge}");
    let tied = load(&folder("gemma3"), &cpu());
    let error = TrainedRows::unfreeze(tied, &["^lm_head".into()]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the model has no output head of its own"),
        "{error}"
    );
}
