//! Generation: cached keys and batches change nothing, draws depend on the seed
//! and the number of the prompt alone, bad input is an error.

use std::ops::ControlFlow;

use trainer_model::{CausalLm, Finish, Generated, GenerationOptions, Sampling};

use crate::{cpu, folder, load};

fn model() -> CausalLm {
    load(&folder("llama3-rope"), &cpu())
}

fn prompts() -> Vec<Vec<u32>> {
    vec![vec![5, 9, 700, 33, 2, 8], vec![44, 3], vec![901, 17, 60]]
}

fn generate(model: &CausalLm, prompts: &[Vec<u32>], options: &GenerationOptions) -> Vec<Generated> {
    let go_on = |_, _| ControlFlow::Continue(());
    model.generate(prompts, options, go_on).unwrap()
}

/// Scores of the token after `ids`, without a cache.
fn next_logits(model: &CausalLm, ids: &[u32]) -> Vec<f32> {
    model.next_logits(ids).unwrap()
}

fn likeliest(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
    best.unwrap() as u32
}

/// Also past the room that a cache begins with, and past the windows of 48 tokens.
#[test]
fn cached_generation_is_full_generation() {
    for name in [
        "llama3-rope",
        "mistral-swa",
        "gemma3",
        "phi3",
        "smollm3",
        "qwen3-moe",
    ] {
        let model = load(&folder(name), &cpu());
        let long = (0..70).map(|i| i * 31 % 1000 + 3).collect();
        let prompts = [prompts(), vec![long]].concat();
        let count = if name == "llama3-rope" { 90 } else { 8 };
        let options = GenerationOptions::greedy(count, Vec::new());
        for (prompt, answer) in prompts.iter().zip(generate(&model, &prompts, &options)) {
            assert_eq!((answer.ids.len(), answer.finish), (count, Finish::Length));
            let mut ids = prompt.clone();
            for &next in &answer.ids {
                assert_eq!(likeliest(&next_logits(&model, &ids)), next, "{name}");
                ids.push(next);
            }
        }
    }
}

/// A row that ends leaves the batch, and the others go on as if it had never
/// been there.
#[test]
fn rows_end_on_their_own() {
    let model = model();
    let free = generate(
        &model,
        &prompts(),
        &GenerationOptions::greedy(8, Vec::new()),
    );
    let stop = free[1].ids[3];
    let stopped = generate(
        &model,
        &prompts(),
        &GenerationOptions::greedy(8, vec![stop]),
    );
    for (free, stopped) in free.iter().zip(&stopped) {
        match free.ids.iter().position(|id| *id == stop) {
            Some(at) => {
                assert_eq!(stopped.ids, free.ids[..at]);
                assert_eq!(stopped.finish, Finish::Token(stop));
            }
            None => assert_eq!(stopped, free),
        }
    }
    // The caller ends the first row after two tokens and hears of every token.
    let mut heard = vec![Vec::new(); 3];
    let answers = model
        .generate(
            &prompts(),
            &GenerationOptions::greedy(8, Vec::new()),
            |row, id| {
                heard[row].push(id);
                if row == 0 && heard[0].len() == 2 {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            },
        )
        .unwrap();
    assert_eq!(answers[0].ids, free[0].ids[..2]);
    assert_eq!(answers[0].finish, Finish::Caller);
    assert_eq!(answers[1..], free[1..]);
    for (heard, answer) in heard.iter().zip(&answers) {
        assert_eq!(heard, &answer.ids);
    }
}

#[test]
fn draws_depend_on_seed_and_number_of_the_prompt_alone() {
    let model = model();
    let options = GenerationOptions {
        sampling: Some(Sampling {
            top_k: Some(200),
            ..Sampling::default()
        }),
        seed: 7,
        ..GenerationOptions::greedy(12, Vec::new())
    };
    let together = generate(&model, &prompts(), &options);
    assert_eq!(together, generate(&model, &prompts(), &options));
    for (index, prompt) in prompts().into_iter().enumerate() {
        let alone = GenerationOptions {
            first_row: index as u64,
            ..options.clone()
        };
        assert_eq!(generate(&model, &[prompt], &alone)[0], together[index]);
    }
    let other = GenerationOptions {
        seed: 8,
        ..options.clone()
    };
    assert_ne!(together, generate(&model, &prompts(), &other));
    // One prompt several times gives several answers.
    let twice = generate(&model, &vec![vec![5, 9]; 2], &options);
    assert_ne!(twice[0], twice[1]);
}

#[test]
fn a_penalty_keeps_greedy_text_from_repeating() {
    let model = model();
    let prompt = vec![5, 9, 700, 33, 2, 8];
    let options = GenerationOptions {
        repetition_penalty: 1.4,
        ..GenerationOptions::greedy(12, Vec::new())
    };
    let answer = generate(&model, std::slice::from_ref(&prompt), &options);
    let mut ids = prompt;
    for &next in &answer[0].ids {
        let mut logits = next_logits(&model, &ids);
        for (id, logit) in logits.iter_mut().enumerate() {
            if ids.contains(&(id as u32)) {
                *logit *= if *logit < 0.0 { 1.4 } else { 1.0 / 1.4 };
            }
        }
        assert_eq!(likeliest(&logits), next);
        ids.push(next);
    }
}

#[test]
fn what_cannot_be_generated_is_an_error() {
    let model = model();
    let greedy = || GenerationOptions::greedy(4, Vec::new());
    let drawn = |sampling| GenerationOptions {
        sampling: Some(sampling),
        ..greedy()
    };
    let plain = Sampling::default();
    let cases = [
        (vec![vec![]], greedy(), "prompt 0 is empty"),
        (
            vec![vec![1], vec![99_999]],
            greedy(),
            "prompt 1 holds token id 99999, the model has",
        ),
        (
            prompts(),
            drawn(Sampling {
                temperature: 0.0,
                ..plain
            }),
            "temperature is 0, expected",
        ),
        (
            prompts(),
            drawn(Sampling {
                temperature: f64::NAN,
                ..plain
            }),
            "temperature is NaN",
        ),
        (
            prompts(),
            drawn(Sampling {
                top_k: Some(0),
                ..plain
            }),
            "top_k is 0, expected 1",
        ),
        (
            prompts(),
            drawn(Sampling {
                top_p: Some(1.5),
                ..plain
            }),
            "top_p is 1.5, expected",
        ),
        (
            prompts(),
            drawn(Sampling {
                min_p: Some(-0.1),
                ..plain
            }),
            "min_p is -0.1, expected",
        ),
        (
            prompts(),
            GenerationOptions {
                repetition_penalty: 0.0,
                ..greedy()
            },
            "repetition_penalty is 0, expected",
        ),
    ];
    for (prompts, options, message) in cases {
        let result = model.generate(&prompts, &options, |_, _| ControlFlow::Continue(()));
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    let none = generate(&model, &[], &greedy());
    assert!(none.is_empty());
    let nothing = generate(
        &model,
        &prompts(),
        &GenerationOptions::greedy(0, Vec::new()),
    );
    assert!(nothing.iter().all(|answer| answer.ids.is_empty()));
}
