//! Documents that go on from the first tokens of another: the same numbers as where
//! each brings those tokens itself.

use burn::tensor::{Distribution, Int, Tensor, TensorData};
use proptest::prelude::*;
use trainer_model::{
    Activations, CausalLm, Fork, ParameterGradients, ScoreRule, Targets, Tokens, backward,
    forked_attention, plain,
};

use crate::gradients::{FAMILIES, assert_close, assert_same, document};
use crate::{cpu, folder, load};

proptest! {
    #![proptest_config(crate::properties::cases(48))]

    /// Documents with two branches each, of which the second leaves out the first,
    /// before, across and within blocks of queries, and through windows.
    #[test]
    fn attention_with_gaps_is_its_plain_form(
        rows in 1_usize..3, kv_heads in 1_usize..3, group in 1_usize..4, half_width in 1_usize..9,
        documents in prop::collection::vec((0_usize..90, 1_usize..90, 1_usize..90), 1..3),
        window in prop::option::of(1_i64..80), seed in 0_u64..1000,
    ) {
        let device = cpu().autodiff();
        device.seed(seed);
        let normal = Distribution::Normal(0.0, 1.0);
        let mut seen: Vec<i64> = Vec::new();
        for (shared, first, second) in documents {
            let start = seen.len() as i64 / 3;
            let fork = start + shared as i64;
            let branch = fork + first as i64;
            for place in start..branch + second as i64 {
                let gap = if place < branch { [0, 0] } else { [fork, branch] };
                // Some begin within the gap or behind it.
                let from = window.map_or(start, |window| start.max(place + 1 - window));
                seen.extend([from, gap[0], gap[1]]);
            }
        }
        let tokens = seen.len() / 3;
        let seen = TensorData::new(seen.repeat(rows), [rows, tokens, 3]);
        let seen = Tensor::<3, Int>::from_data(seen, &device);
        let rule = ScoreRule { scale: 0.3, softcap: (seed % 2 == 0).then_some(1.5) };
        let random = |heads| {
            Tensor::<4>::random([rows, tokens, heads, 2 * half_width], normal, &device)
        };
        let inputs = [random(kv_heads * group), random(kv_heads), random(kv_heads)];
        assert_same(
            &inputs,
            |x| forked_attention(x[0].clone(), x[1].clone(), x[2].clone(), seen.clone(), rule),
            |x| {
                let (q, k, v) = (x[0].clone(), x[1].clone(), x[2].clone());
                plain::forked_attention(q, k, v, seen.clone(), rule)
            },
        )?;
    }
}

/// Answers to prompts, as rows of tokens with what each answer's tokens are predicted
/// from.
#[derive(Default)]
struct Answers {
    ids: Vec<u32>,
    positions: Vec<u32>,
    segments: Vec<u32>,
    forks: Vec<Fork>,
    targets: Targets,
}

impl Answers {
    fn push(&mut self, ids: &[u32], first_position: usize) {
        let segment = self.segments.last().map_or(1, |last| last + 1);
        self.ids.extend(ids);
        self.positions
            .extend((first_position..first_position + ids.len()).map(|p| p as u32));
        self.segments.extend(vec![segment; ids.len()]);
    }

    /// The prompt with each answer behind it, or the first alone; of the others, then,
    /// only their own tokens.
    fn add(&mut self, prompt: &[u32], answers: &[Vec<u32>], forked: bool) {
        let start = self.ids.len();
        for (index, answer) in answers.iter().enumerate() {
            let own_prompt = index == 0 || !forked;
            if own_prompt {
                self.push(&[prompt, answer].concat(), 0);
            } else {
                self.push(answer, prompt.len());
            }
            let first = self.ids.len() - answer.len();
            let prompt_end = if own_prompt {
                first
            } else {
                start + prompt.len()
            };
            if !own_prompt {
                self.forks.push(Fork {
                    shared: start as u32..prompt_end as u32,
                    branch: first as u32..self.ids.len() as u32,
                });
            }
            for (token, &id) in answer.iter().enumerate() {
                let before = if token == 0 {
                    prompt_end
                } else {
                    first + token
                };
                self.targets.positions.push(before as u32 - 1);
                self.targets.ids.push(id);
            }
        }
    }

    fn tokens(&self) -> Tokens<'_> {
        Tokens {
            rows: 1,
            width: self.ids.len(),
            input_ids: &self.ids,
            position_ids: &self.positions,
            segment_ids: &self.segments,
        }
    }
}

/// Log-probabilities, and the gradients of their sum with weights that differ.
fn learn(
    model: &CausalLm,
    answers: &Answers,
    activations: Activations,
) -> (Vec<f64>, ParameterGradients) {
    let input = model.forked_input(&answers.tokens(), &answers.forks);
    let back = backward(model, &input, activations, |hidden_btd| {
        let scores = model.token_scores(hidden_btd, &answers.targets);
        let log_probs: Vec<f64> = scores.read().iter().map(|score| score.log_prob).collect();
        let weights: Vec<f64> = (0..log_probs.len())
            .map(|index| (index as f64 * 0.7).sin())
            .collect();
        (scores.weighted_sum(&weights), log_probs)
    });
    (back.output, back.gradients)
}

/// In every family, windows included: prompts and answers beyond the windows of 48
/// tokens and beyond a block of 64 queries.
#[test]
fn a_shared_prompt_changes_nothing() {
    let pairs = [
        (document(70, 1), [document(30, 2), document(75, 3)]),
        (document(1, 4), [document(5, 5), document(1, 6)]),
        (document(20, 7), [document(90, 8), document(13, 9)]),
    ];
    for name in FAMILIES {
        let model = load(&folder(name), &cpu().autodiff());
        let layout = |forked| {
            let mut answers = Answers::default();
            for (prompt, both) in &pairs {
                answers.add(prompt, both, forked);
            }
            answers
        };
        let (apart, shared) = (layout(false), layout(true));
        assert_eq!(apart.ids.len() - shared.ids.len(), 91);
        let (want, want_gradients) = learn(&model, &apart, Activations::Kept);
        for activations in [Activations::Kept, Activations::Recomputed] {
            let (got, gradients) = learn(&model, &shared, activations);
            for (a, b) in got.iter().zip(&want) {
                assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{name}: {a} {b}");
            }
            assert_close(name, gradients, &want_gradients, 1e-5);
        }
    }
}

/// A token of one branch does not touch a bit of what the other says.
#[test]
fn branches_do_not_leak() {
    for name in FAMILIES {
        let model = load(&folder(name), &cpu());
        let hidden = |first: Vec<u32>| -> Vec<u32> {
            let mut answers = Answers::default();
            answers.add(&document(40, 1), &[first, document(50, 3)], true);
            let input = model.forked_input(&answers.tokens(), &answers.forks);
            let hidden = model.hidden(&input).narrow(1, 70, 50).into_data();
            hidden.iter::<f32>().map(f32::to_bits).collect()
        };
        let before = hidden(document(30, 2));
        assert!(before == hidden(document(30, 5)), "{name}");
    }
}
