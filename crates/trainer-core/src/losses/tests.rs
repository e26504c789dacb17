//! Golden values, derivatives against finite differences, symmetries and limits.

use proptest::prelude::*;
use trainer_config::DpoLossType::{self, *};

use super::*;

const ALL: [DpoLossType; 15] = [
    Sigmoid,
    Hinge,
    Ipo,
    ExoPair,
    NcaPair,
    Robust,
    BcoPair,
    SppoHard,
    Aot,
    AotUnpaired,
    ApoZero,
    ApoDown,
    Discopop,
    Sft,
    SigmoidNorm,
];

fn options(loss_type: DpoLossType) -> DpoOptions {
    DpoOptions {
        types: vec![(loss_type, 1.0)],
        beta: 0.1,
        label_smoothing: 0.1,
        discopop_tau: 0.05,
        divergence: Divergence::ReverseKl,
    }
}

fn answer(policy: f64, reference: f64, tokens: usize) -> Answer {
    Answer {
        policy,
        reference,
        plain: policy,
        tokens,
    }
}

fn golden_pair() -> Pair {
    Pair {
        chosen: answer(-10.0, -11.0, 4),
        rejected: answer(-14.0, -13.0, 5),
        weight: 1.0,
    }
}

fn close(got: f64, want: f64, tolerance: f64) {
    assert!((got - want).abs() <= tolerance, "{got} is not {want}");
}

/// Values computed from the formulas apart from this code.
#[test]
fn golden_values() {
    for (loss_type, want) in [
        // Without smoothing 0.598139; −0.9 log σ(0.2) − 0.1 log σ(−0.2).
        (Sigmoid, 0.618139),
        (Hinge, 0.8),
        (Ipo, 20.7025),
        (ExoPair, 0.406304),
        (NcaPair, 1.338793),
        (Robust, 0.573139),
        (BcoPair, 1.288793),
        (SppoHard, 32.0),
        (Aot, 0.618139),
        (AotUnpaired, 0.618139),
        (ApoZero, 0.950042),
        (ApoDown, 0.975145),
        (Discopop, 0.814763),
        (Sft, 2.5),
        (SigmoidNorm, 0.6709),
    ] {
        let got = dpo(&[golden_pair()], &options(loss_type)).sum;
        close(got, want, 1e-5);
    }
    for (divergence, want) in [
        (Divergence::ForwardKl, 0.582517),
        (Divergence::JensenShannon, 0.644397),
        (Divergence::Alpha(0.5), 0.594349),
        (Divergence::Alpha(1.0), 0.598139),
    ] {
        let options = DpoOptions {
            divergence,
            label_smoothing: 0.0,
            ..options(Sigmoid)
        };
        close(dpo(&[golden_pair()], &options).sum, want, 1e-5);
    }
    close(kto(1.0, 0.3, true, 0.1, 1.0).value, 0.482507, 1e-5);
    close(kto(-1.0, 0.3, false, 0.1, 1.0).value, 0.467546, 1e-5);
    let odds = log_odds(-10.0 / 4.0).value - log_odds(-14.0 / 5.0).value;
    close(odds, 0.322913, 1e-5);
    close(orpo(-10.0 / 4.0, -14.0 / 5.0, 0.1).value, 0.054467, 1e-5);
    close(
        simpo(-10.0 / 4.0, -14.0 / 5.0, 2.0, 0.5).value,
        0.644397,
        1e-5,
    );
    close(bradley_terry(1.2, 0.4, 0.0, 0.0).value, 0.371101, 1e-5);
    close(bradley_terry(1.2, 0.4, 0.5, 0.0).value, 0.554355, 1e-5);
    close(
        bradley_terry(1.2, 0.4, 0.0, 0.01).value,
        0.371101 + 0.0256,
        1e-5,
    );
}

#[test]
fn weighted_losses_add_up() {
    let types = vec![(Sigmoid, 0.8), (BcoPair, 0.2), (Sft, 1.0)];
    let options = DpoOptions {
        types,
        ..options(Sigmoid)
    };
    let want = 0.8 * 0.618139 + 0.2 * 1.288793 + 2.5;
    let pair = golden_pair();
    close(dpo(&[pair], &options).sum, want, 1e-5);
    let weighted = Pair {
        weight: 0.25,
        ..pair
    };
    close(dpo(&[weighted], &options).sum, 0.25 * want, 1e-5);
    let nothing = dpo(&[], &options);
    assert_eq!((nothing.sum, nothing.gradients.len()), (0.0, 0));
}

#[test]
fn tokens_and_pairs_are_weighted() {
    assert_eq!(token_weight(3, 4, 0.3), 1.0);
    assert_eq!(token_weight(4, 4, 0.3), 0.3);
    // A model that gives one token all the probability draws what it is asked for.
    assert_eq!(wpo_weight(0.0, 0.0, 3), 1.0);
    close(wpo_weight(-6.0, -3.0, 3), (-1.0_f64).exp(), 1e-12);
    assert_eq!(wpo_weight(0.0, 0.0, 0), 1.0);
}

#[test]
fn nothing_overflows() {
    for far in [-1e6, -1e3, 1e3, 1e6] {
        let pair = Pair {
            chosen: answer(far, 0.0, 3),
            rejected: answer(0.0, 0.0, 3),
            weight: 1.0,
        };
        for loss_type in ALL {
            for divergence in [
                Divergence::ReverseKl,
                Divergence::ForwardKl,
                Divergence::JensenShannon,
                Divergence::Alpha(0.5),
            ] {
                let options = DpoOptions {
                    divergence,
                    ..options(loss_type)
                };
                let loss = dpo(&[pair], &options);
                let slopes = loss.gradients[0];
                let all = [loss.sum, slopes.chosen.policy, slopes.rejected.policy];
                assert!(
                    all.iter().all(|x| x.is_finite()),
                    "{loss_type} at {far} under {divergence:?}: {all:?}"
                );
            }
        }
    }
    // Answers that are certain, or as good as impossible.
    for (chosen, rejected) in [(0.0, -1.0), (-1e-12, 0.0), (-1e4, -1e4)] {
        let loss = orpo(chosen, rejected, 0.1);
        assert!(loss.value.is_finite() && loss.chosen.is_finite() && loss.rejected.is_finite());
    }
}

/// Where both answers are as likely as under the reference, the derivatives follow from
/// the formulas by hand.
#[test]
fn equal_answers_have_known_slopes() {
    let same = Pair {
        chosen: answer(-10.0, -10.0, 4),
        rejected: answer(-10.0, -10.0, 4),
        weight: 1.0,
    };
    // With β = 0.1, ε = 0.1, τ = 0.05.
    for (loss_type, chosen, rejected) in [
        // (ε σ(0) − (1 − ε) σ(0)) β.
        (Sigmoid, -0.04, 0.04),
        (Hinge, -0.1, 0.1),
        // 2 (0 − 1/(2β)) / 4.
        (Ipo, -2.5, 2.5),
        // β/4 (log(½) − log(1 − ε) − log(½) + log ε).
        (ExoPair, -0.054931, 0.054931),
        // −β σ(0) (1 − ε + ε) / (1 − 2ε).
        (Robust, -0.0625, 0.0625),
        (Aot, -0.04, 0.04),
        (AotUnpaired, -0.04, 0.04),
        // β ((½ log ½ + ½) / (2τ) − ¼ − ½).
        (Discopop, 0.078426, -0.078426),
        (SigmoidNorm, -0.0125, 0.0125),
        (BcoPair, -0.05, 0.05),
        (NcaPair, -0.025, 0.025),
        (SppoHard, -10.0, 10.0),
        (ApoZero, -0.025, 0.025),
        (ApoDown, 0.0, 0.025),
    ] {
        let gradient = dpo(&[same], &options(loss_type)).gradients[0];
        close(gradient.chosen.policy, chosen, 1e-6);
        close(gradient.rejected.policy, rejected, 1e-6);
    }
    let unsmoothed = DpoOptions {
        label_smoothing: 0.0,
        ..options(Sigmoid)
    };
    close(dpo(&[same], &unsmoothed).sum, std::f64::consts::LN_2, 1e-12);
}

/// A number that is not one must not become one on the way to the loss.
#[test]
fn a_nan_is_not_lost() {
    let divergences = [
        Divergence::ReverseKl,
        Divergence::ForwardKl,
        Divergence::JensenShannon,
        Divergence::Alpha(0.5),
    ];
    for loss_type in ALL {
        for divergence in divergences {
            for side in 0..2 {
                let mut pair = golden_pair();
                let answer = match side {
                    0 => &mut pair.chosen,
                    _ => &mut pair.rejected,
                };
                (answer.policy, answer.plain) = (f64::NAN, f64::NAN);
                // It trains the chosen answer alone.
                if loss_type == Sft && side == 1 {
                    continue;
                }
                let options = DpoOptions {
                    divergence,
                    ..options(loss_type)
                };
                let loss = dpo(&[pair], &options).sum;
                assert!(
                    !loss.is_finite(),
                    "{loss_type}, {divergence:?}, {side}: {loss}"
                );
            }
        }
    }
    let nan = f64::NAN;
    for (c, r) in [(nan, -1.0), (-1.0, nan)] {
        for loss in [
            orpo(c, r, 0.1),
            simpo(c, r, 2.0, 0.5),
            cpo(c, r, 0.1),
            bradley_terry(c, r, 0.0, 0.01),
            process_reward(c, r, true),
        ] {
            assert!(!loss.value.is_finite());
        }
    }
    assert!(kto_kl(&[nan, 1.0]).is_nan());
    assert!(kto(nan, 0.0, true, 0.1, 1.0).value.is_nan());
    assert!(kto(0.0, nan, false, 0.1, 1.0).value.is_nan());
}

/// Conservative DPO is the expectation over labels that are swapped with probability ε, and
/// its derivative at equal answers that of DPO times 1 − 2ε.
#[test]
fn smoothing_is_an_expectation_over_swapped_labels() {
    for (c, r, epsilon) in [(1.0, -1.0, 0.2), (-0.4, 2.0, 0.1), (0.0, 0.0, 0.2)] {
        let (right, wrong) = (sigmoid(c, r, 0.1, 0.0), sigmoid(r, c, 0.1, 0.0));
        let loss = sigmoid(c, r, 0.1, epsilon);
        let mixed = |right: f64, wrong: f64| (1.0 - epsilon) * right + epsilon * wrong;
        close(loss.value, mixed(right.value, wrong.value), 1e-12);
        close(loss.chosen, mixed(right.chosen, wrong.rejected), 1e-12);
        close(loss.rejected, mixed(right.rejected, wrong.chosen), 1e-12);
    }
    let slope = |epsilon| sigmoid(0.0, 0.0, 0.1, epsilon).chosen;
    close(slope(0.2), 0.6 * slope(0.0), 1e-12);
    // With other losses beside it, each with its weight.
    let mix = DpoOptions {
        types: vec![(Sigmoid, 0.5), (Robust, 2.0), (Hinge, 1.0)],
        ..options(Sigmoid)
    };
    let pair = golden_pair();
    close(
        dpo(&[pair], &mix).sum,
        0.5 * 0.618139 + 2.0 * 0.573139 + 0.8,
        1e-5,
    );
}

#[test]
fn kl_is_a_mean_and_never_negative() {
    assert_eq!(kto_kl(&[]), 0.0);
    assert_eq!(kto_kl(&[-1.0, 0.5]), 0.0);
    assert_eq!(kto_kl(&[1.0, 2.0]), 1.5);
    // A weight of zero leaves a class out.
    let without = kto(0.7, 0.1, true, 0.1, 0.0);
    assert_eq!((without.value, without.slope.abs()), (0.0, 0.0));
}

#[test]
fn optimal_transport_compares_ranks() {
    // The same margins in another order: each finds its own rank.
    let policy = [[-1.0, -3.0], [-2.0, -2.5], [-4.0, -1.0]];
    let reference = [[-4.0, -1.0], [-1.0, -3.0], [-2.0, -2.5]];
    for loss in aot(&policy, &reference, 0.5, 0.0) {
        close(loss.value, std::f64::consts::LN_2, 1e-12);
    }
    let ratios = [[1.0, 5.0], [5.0, 1.0]];
    for loss in aot_unpaired(&ratios, 0.5, 0.0) {
        close(loss.value, std::f64::consts::LN_2, 1e-12);
    }
}

/// Derivative of `f` at `x` by central differences.
fn slope(f: impl Fn(f64) -> f64, x: f64) -> f64 {
    let step = 1e-5 * x.abs().max(1.0);
    (f(x + step) - f(x - step)) / (2.0 * step)
}

fn agrees(analytic: f64, f: impl Fn(f64) -> f64, x: f64) -> Result<(), TestCaseError> {
    let numeric = slope(f, x);
    let scale = analytic.abs().max(numeric.abs()).max(1.0);
    prop_assert!(
        (analytic - numeric).abs() <= 2e-6 * scale,
        "derivative {analytic}, by finite differences {numeric}"
    );
    Ok(())
}

fn any_answer() -> impl Strategy<Value = Answer> {
    (-30.0..0.0, -30.0..0.0, -30.0..0.0, 1..20_usize).prop_map(
        |(policy, reference, plain, tokens)| Answer {
            policy,
            reference,
            plain,
            tokens,
        },
    )
}

fn any_pairs() -> impl Strategy<Value = Vec<Pair>> {
    let pair = (any_answer(), any_answer(), 0.1..2.0).prop_map(|(chosen, rejected, weight)| Pair {
        chosen,
        rejected,
        weight,
    });
    prop::collection::vec(pair, 1..5)
}

fn any_divergence() -> impl Strategy<Value = Divergence> {
    prop_oneof![
        Just(Divergence::ReverseKl),
        Just(Divergence::ForwardKl),
        Just(Divergence::JensenShannon),
        (0.2..1.8).prop_map(Divergence::Alpha),
    ]
}

proptest! {
    #[test]
    fn derivatives_of_pairs(
        pairs in any_pairs(),
        which in 0..ALL.len(),
        beta in 0.05..1.0,
        label_smoothing in 0.01..0.4,
        divergence in any_divergence(),
    ) {
        let loss_type = ALL[which];
        // The weights of WPO are not defined for losses that sort.
        let sorts = matches!(loss_type, Aot | AotUnpaired);
        let mut pairs = pairs;
        for pair in &mut pairs {
            pair.weight = if sorts { 1.0 } else { pair.weight };
            // Scores of the other divergences grow exponentially.
            if divergence != Divergence::ReverseKl {
                pair.chosen.reference = pair.chosen.policy + (pair.chosen.reference / 10.0);
                pair.rejected.reference = pair.rejected.policy + (pair.rejected.reference / 10.0);
            }
        }
        let options = DpoOptions {
            types: vec![(loss_type, 0.7), (Sigmoid, 0.3)],
            beta,
            label_smoothing,
            discopop_tau: 0.3,
            divergence,
        };
        let loss = dpo(&pairs, &options);
        prop_assert!(loss.sum.is_finite());
        // Where two change ranks there is no derivative.
        let apart = |of: &dyn Fn(&Pair) -> f64| {
            let mut values: Vec<f64> = pairs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.windows(2).all(|two| two[1] - two[0] > 1e-2)
        };
        prop_assume!(match loss_type {
            Aot => apart(&|pair| pair.chosen.policy - pair.rejected.policy),
            AotUnpaired => {
                apart(&|pair| pair.chosen.ratio()) && apart(&|pair| pair.rejected.ratio())
            }
            _ => true,
        });
        for (index, gradient) in loss.gradients.iter().enumerate() {
            type Field = fn(&mut Pair) -> &mut f64;
            let fields: [(f64, Field); 4] = [
                (gradient.chosen.policy, |pair| &mut pair.chosen.policy),
                (gradient.rejected.policy, |pair| &mut pair.rejected.policy),
                (gradient.chosen.plain, |pair| &mut pair.chosen.plain),
                (gradient.rejected.plain, |pair| &mut pair.rejected.plain),
            ];
            for (analytic, field) in fields {
                let mut varied = pairs.clone();
                let at = *field(&mut varied[index]);
                // At the corner of the hinge there is no derivative.
                let margin = pairs[index].chosen.ratio() - pairs[index].rejected.ratio();
                if loss_type == Hinge && (beta * margin - 1.0).abs() < 1e-2 {
                    continue;
                }
                let value = |x: f64| {
                    let mut varied = pairs.clone();
                    *field(&mut varied[index]) = x;
                    dpo(&varied, &options).sum
                };
                agrees(analytic, value, at)?;
            }
        }
    }

    #[test]
    fn derivatives_of_the_others(
        a in -8.0..-0.01,
        b in -8.0..-0.01,
        beta in 0.05..3.0,
        gamma in 0.0..2.0,
        kl in 0.0..5.0,
        weight in 0.0..3.0,
        flag in any::<bool>(),
    ) {
        let of_two: [&dyn Fn(f64, f64) -> PairLoss; 5] = [
            &|c, r| orpo(c, r, beta),
            &|c, r| simpo(c, r, beta, gamma),
            &|c, r| cpo(c, r, beta),
            &|c, r| bradley_terry(c, r, gamma, weight),
            &|right, wrong| process_reward(wrong, right, flag),
        ];
        for loss in of_two {
            let at = loss(a, b);
            agrees(at.chosen, |x| loss(x, b).value, a)?;
            agrees(at.rejected, |x| loss(a, x).value, b)?;
        }
        agrees(log_odds(a).slope, |x| log_odds(x).value, a)?;
        let point = kto(a, kl, flag, beta, weight);
        agrees(point.slope, |x| kto(x, kl, flag, beta, weight).value, a)?;
        agrees(nll(a, 7).slope, |x| nll(x, 7).value, a)?;
    }

    /// The loss of a pair and that of the pair turned round belong together.
    #[test]
    fn symmetries(c in -20.0..20.0, r in -20.0..20.0, beta in 0.05..1.0, epsilon in 0.01..0.49) {
        let margin = beta * (c - r);
        // −log σ(x) + log σ(−x) = −x.
        close(sigmoid(c, r, beta, 0.0).value - sigmoid(r, c, beta, 0.0).value, -margin, 1e-9);
        close(cpo(c, r, beta).value, sigmoid(c, r, beta, 0.0).value, 1e-12);
        // What is unbiased is so over swapped pairs.
        let mixed = (1.0 - epsilon) * robust(c, r, beta, epsilon).value
            + epsilon * robust(r, c, beta, epsilon).value;
        close(mixed, sigmoid(c, r, beta, 0.0).value, 1e-9);
        // Its minimum, zero, lies where the policy prefers as the labels do.
        let best = ((1.0 - epsilon) / epsilon).ln() / beta;
        close(exo_pair(best, 0.0, beta, epsilon).value, 0.0, 1e-9);
        prop_assert!(exo_pair(c, r, beta, epsilon).value >= -1e-12);
        // Both classes are judged alike.
        close(bco_pair(c, r, beta).value, bco_pair(-r, -c, beta).value, 1e-9);
        close(sppo_hard(c, r, beta).value, sppo_hard(-r, -c, beta).value, 1e-6);
        close(
            kto(c, r, true, beta, 1.0).value + kto(c, r, false, beta, 1.0).value,
            1.0,
            1e-9,
        );
        close(ipo(0.5 / beta, 0.0, [1, 1], beta).value, 0.0, 1e-9);
        close(hinge(1.0 / beta, 0.0, beta).value, 0.0, 1e-9);
        // One token an answer: the mean is the sum.
        close(
            sigmoid_norm(c, r, [1, 1], beta).value,
            sigmoid(c, r, beta, 0.0).value,
            1e-12,
        );
        close(
            process_reward(c, r, true).value,
            bradley_terry(r, c, 0.0, 0.0).value,
            1e-12,
        );
    }

    /// Losses that go to zero as the chosen answer wins, and only fall on the way.
    #[test]
    fn winning_costs_nothing(margin in 0.0..30.0, more in 0.01..5.0) {
        let dpo_sigmoid: fn(f64, f64, f64) -> PairLoss = |c, r, beta| sigmoid(c, r, beta, 0.0);
        for loss in [dpo_sigmoid, hinge, cpo] {
            prop_assert!(loss(margin + more, 0.0, 1.0).value <= loss(margin, 0.0, 1.0).value);
            prop_assert!(loss(margin, 0.0, 1.0).chosen <= 0.0);
            close(loss(60.0 + margin, 0.0, 1.0).value, 0.0, 1e-12);
        }
        close(simpo(60.0 + margin, 0.0, 1.0, 0.5).value, 0.0, 1e-12);
        close(apo_zero(60.0, -60.0 - margin, 1.0).value, 0.0, 1e-12);
        close(bradley_terry(60.0 + margin, 0.0, 0.5, 0.0).value, 0.0, 1e-12);
    }

    /// Symmetries of the losses that have them.
    #[test]
    fn more_symmetries(
        c in -20.0..20.0,
        r in -20.0..20.0,
        beta in 0.05..1.0,
        epsilon in 0.0..0.49,
        shift in -5.0..5.0,
        tau in 0.05..0.95,
    ) {
        let margin: f64 = beta * (c - r);
        // Without a margin to win by, it is the loss of CPO.
        close(simpo(c, r, beta, 0.0).value, cpo(c, r, beta).value, 1e-12);
        // Only differences of rewards count, and a margin moves one of them.
        let plain = bradley_terry(c, r, 0.0, 0.0).value;
        close(bradley_terry(c + shift, r + shift, 0.0, 0.0).value, plain, 1e-9);
        close(bradley_terry(c + shift, r, shift, 0.0).value, plain, 1e-9);
        close(
            process_reward(c, r, true).value,
            process_reward(r, c, false).value,
            1e-12,
        );
        // One pair has one rank.
        let smooth = smoothed(margin, epsilon).value;
        close(aot(&[[c, r]], &[[0.0, 0.0]], beta, epsilon)[0].value, smooth, 1e-9);
        close(aot_unpaired(&[[c, r]], beta, epsilon)[0].value, smooth, 1e-9);
        // Between the logistic and the exponential loss.
        let (logistic_loss, exponential) = (cpo(c, r, beta).value, (-margin).exp());
        let mixed = discopop(c, r, beta, tau).value;
        let (low, high) = (logistic_loss.min(exponential), logistic_loss.max(exponential));
        prop_assert!(mixed >= low - 1e-9 && mixed <= high * (1.0 + 1e-9));
        // Bounded, and anchored: an answer as likely as before costs a half.
        for loss in [apo_zero(c, r, beta).value, apo_down(c, r, beta).value] {
            prop_assert!((0.0..=2.0).contains(&loss));
        }
        close(apo_zero(0.0, 0.0, beta).value, 1.0, 1e-12);
        close(apo_down(c, 0.0, beta).value, 1.0, 1e-9);
        // The best reward of the chosen answer lies at odds of two to one.
        close(nca_pair(2.0_f64.ln() / beta, r, beta).chosen, 0.0, 1e-12);
        prop_assert!(nca_pair(c, r, beta).rejected >= 0.0);
        // Beyond the hinge nothing is learnt, before it as much everywhere.
        let slope = hinge(c, r, beta).chosen;
        prop_assert!(slope == 0.0 || slope == -beta);
    }

    /// Losses of log-probabilities that are no differences from a reference.
    #[test]
    fn of_log_probabilities(a in -8.0..-0.01, b in -8.0..-0.01, beta in 0.05..1.0) {
        let ratio = log_odds(a).value - log_odds(b).value;
        close(orpo(a, b, beta).value - orpo(b, a, beta).value, -beta * ratio, 1e-9);
        prop_assert_eq!(log_odds(a).value > log_odds(b).value, a > b);
        close(log_odds(0.5_f64.ln()).value, 0.0, 1e-12);
        // Documents add up, tokens share.
        close(nll(a, 3).value + nll(b, 3).value, nll(a + b, 3).value, 1e-12);
        close(nll(2.0 * a, 2).value, nll(a, 1).value, 1e-12);
        prop_assert_eq!(nll(a, 0), PointLoss::default());
    }

    /// Optimal transport compares distributions: the order of the pairs says nothing.
    #[test]
    fn order_says_nothing(pairs in prop::collection::vec((any_answer(), any_answer()), 1..6)) {
        let both = |of: fn(&Answer) -> f64| -> Vec<[f64; 2]> {
            pairs.iter().map(|(c, r)| [of(c), of(r)]).collect()
        };
        let sum = |losses: Vec<PairLoss>| losses.iter().map(|loss| loss.value).sum::<f64>();
        let (policy, mut reference) = (both(|x| x.policy), both(|x| x.reference));
        let before = sum(aot(&policy, &reference, 0.3, 0.1));
        reference.reverse();
        close(sum(aot(&policy, &reference, 0.3, 0.1)), before, 1e-9);
        let mut ratios = both(Answer::ratio);
        let before = sum(aot_unpaired(&ratios, 0.3, 0.1));
        let first = ratios[0][1];
        let last = ratios.len() - 1;
        ratios[0][1] = std::mem::replace(&mut ratios[last][1], first);
        close(sum(aot_unpaired(&ratios, 0.3, 0.1)), before, 1e-9);
    }

    /// Every divergence scores an answer as likely as before with zero, and more as it
    /// becomes likelier; near the reference all are alike but for a factor.
    #[test]
    fn divergences_agree_at_the_reference(divergence in any_divergence(), x in -5.0..5.0) {
        let at = divergence.score(0.0);
        close(at.value, 0.0, 1e-12);
        let factor = if divergence == Divergence::JensenShannon { 0.5 } else { 1.0 };
        close(at.slope, factor, 1e-12);
        prop_assert!(divergence.score(x).slope > 0.0);
        close(Divergence::Alpha(1.0 + 1e-9).score(x).value, x, 1e-6);
    }

    /// A model that gives all of `n` tokens the same probability draws each as it is
    /// expected to; tokens of the shorter length count in full.
    #[test]
    fn weights_of_pairs_and_tokens(
        n in 2..1000_usize,
        tokens in 1..50_usize,
        index in 0..50_usize,
        alpha in 0.0..1.0,
    ) {
        let each = -(n as f64).ln() * tokens as f64;
        close(wpo_weight(each, each, tokens), 1.0, 1e-9);
        prop_assert!(wpo_weight(each - 1.0, each, tokens) < 1.0);
        let weight = token_weight(index, tokens, alpha);
        prop_assert_eq!(weight, if index < tokens { 1.0 } else { alpha });
        prop_assert_eq!(token_weight(index, tokens, 1.0), 1.0);
    }
}
