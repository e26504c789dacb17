//! Recorded factors of transformers, torch and Axolotl.

use serde_json::json;
use trainer_config::{Config, LrScheduler};

use super::Schedule;

fn config(scheduler: LrScheduler, warmup: usize) -> Config {
    Config {
        lr_scheduler: scheduler,
        learning_rate: 1.0,
        warmup_steps: Some(warmup),
        ..Config::default()
    }
}

fn with_kwargs(scheduler: LrScheduler, warmup: usize, kwargs: serde_json::Value) -> Config {
    let kwargs = kwargs.as_object().cloned();
    Config {
        lr_scheduler_kwargs: kwargs,
        ..config(scheduler, warmup)
    }
}

#[track_caller]
fn assert_factors(config: &Config, total: usize, at: &[usize], want: &[f64], tolerance: f64) {
    let schedule = Schedule::new(config, total).unwrap();
    for (&t, &want) in at.iter().zip(want) {
        let got = schedule.learning_rate(t);
        assert!(
            (got - want).abs() <= tolerance,
            "t = {t}: got {got}, want {want}"
        );
    }
    assert_eq!(at.len(), want.len());
}

#[test]
fn linear_and_constant() {
    let linear = config(LrScheduler::Linear, 10);
    assert_factors(
        &linear,
        100,
        &[0, 5, 10, 55, 100, 120],
        &[0.0, 0.5, 1.0, 0.5, 0.0, 0.0],
        1e-12,
    );
    let constant = config(LrScheduler::Constant, 10);
    assert_factors(&constant, 100, &[0, 50], &[1.0, 1.0], 0.0);
    let warmed = config(LrScheduler::ConstantWithWarmup, 10);
    assert_factors(&warmed, 100, &[0, 5, 10, 99], &[0.0, 0.5, 1.0, 1.0], 1e-12);
}

#[test]
fn cosine_with_its_options() {
    let plain = config(LrScheduler::Cosine, 10);
    assert_factors(
        &plain,
        100,
        &[0, 5, 10, 55, 100],
        &[0.0, 0.5, 1.0, 0.5, 0.0],
        1e-12,
    );
    let quadratic = Config {
        lr_quadratic_warmup: true,
        ..plain.clone()
    };
    let want = [0.0, 0.01, 0.25, 1.0, 0.5, 0.0];
    assert_factors(&quadratic, 100, &[0, 1, 5, 10, 55, 100], &want, 1e-12);
    let floor = Config {
        cosine_min_lr_ratio: Some(0.1),
        ..plain
    };
    // Past the end Axolotl rises again, to 0.205 at 120.
    let want = [0.0, 0.5, 1.0, 0.55, 0.1, 0.1];
    assert_factors(&floor, 100, &[0, 5, 10, 55, 100, 120], &want, 1e-12);
    let constant = Config {
        cosine_constant_lr_ratio: Some(0.8),
        ..floor
    };
    let want = [0.0, 0.5, 1.0, 0.55, 0.1, 0.1, 0.1];
    assert_factors(&constant, 100, &[0, 5, 10, 45, 80, 90, 100], &want, 1e-12);
}

#[test]
fn rex_takes_its_first_step_already_warming() {
    let rex = Config {
        cosine_min_lr_ratio: Some(0.1),
        ..config(LrScheduler::Rex, 4)
    };
    let want = [
        0.25, 0.5, 0.75, 1.0, 0.99404, 0.987324, 0.979699, 0.970968, 0.96087, 0.949057, 0.935052,
        0.918182, 0.897468, 0.871429, 0.837705, 0.792308, 0.727907, 0.629412, 0.46, 0.1,
    ];
    let steps: Vec<usize> = (0..20).collect();
    assert_factors(&rex, 20, &steps, &want, 1e-6);
    let want = [
        0.989011, 0.97561, 0.958904, 0.9375, 0.909091, 0.869565, 0.810811, 0.714286, 0.526316, 0.0,
    ];
    let steps: Vec<usize> = (0..10).collect();
    assert_factors(&config(LrScheduler::Rex, 0), 10, &steps, &want, 1e-6);
}

#[test]
fn jagged_restarts() {
    let jagged = Config {
        jagged_restart_steps: Some(20),
        jagged_restart_warmup_steps: Some(5),
        jagged_restart_anneal_steps: Some(3),
        ..config(LrScheduler::Constant, 0)
    };
    let steps: Vec<usize> = (17..26).collect();
    let want = [
        1.0, 0.667, 0.334, 0.001, 0.2008, 0.4006, 0.6004, 0.8002, 1.0,
    ];
    assert_factors(&jagged, 100, &steps, &want, 1e-9);
    let crowded = Config {
        jagged_restart_warmup_steps: Some(18),
        ..jagged
    };
    let error = Schedule::new(&crowded, 100).unwrap_err().to_string();
    assert_eq!(
        error,
        "jagged_restart_steps: 20 steps leave no room for 18 of warmup and 3 of annealing"
    );
}

/// Values of transformers 5.23 and torch 2.15 for the same arguments.
#[test]
fn the_rest_of_transformers() {
    let at = [0, 5, 10, 40, 70, 99];
    let restarts = with_kwargs(
        LrScheduler::CosineWithRestarts,
        10,
        json!({"num_cycles": 2}),
    );
    assert_factors(&restarts, 100, &at, RESTARTS, 1e-6);
    let polynomial = with_kwargs(
        LrScheduler::Polynomial,
        10,
        json!({"lr_end": 0.01, "power": 2.0}),
    );
    assert_factors(&polynomial, 100, &at, POLYNOMIAL, 1e-6);
    assert_factors(
        &config(LrScheduler::InverseSqrt, 10),
        100,
        &at,
        INVERSE_SQRT,
        1e-6,
    );
    let min = with_kwargs(LrScheduler::CosineWithMinLr, 10, json!({"min_lr": 0.2}));
    assert_factors(&min, 100, &at, COSINE_MIN, 1e-6);
    let min = with_kwargs(
        LrScheduler::CosineWarmupWithMinLr,
        10,
        json!({"min_lr_rate": 0.2, "warmup_lr_rate": 0.1}),
    );
    assert_factors(&min, 100, &at, COSINE_WARMUP_MIN, 1e-6);
    let stable = with_kwargs(
        LrScheduler::WarmupStableDecay,
        10,
        json!({"num_decay_steps": 40, "min_lr_ratio": 0.1}),
    );
    assert_factors(&stable, 100, &at, STABLE, 1e-6);
    assert_factors(
        &config(LrScheduler::OneCycle, 10),
        100,
        &at,
        ONE_CYCLE,
        1e-6,
    );
    let schedule = Schedule::new(&config(LrScheduler::OneCycle, 10), 100).unwrap();
    for (&t, want) in at.iter().zip(ONE_CYCLE_BETA1) {
        let got = schedule.beta1(t).unwrap();
        assert!(
            (got - want).abs() < 1e-6,
            "beta1 at {t}: got {got}, want {want}"
        );
    }
}

#[test]
fn plateau_waits_before_it_lowers() {
    let plateau = with_kwargs(
        LrScheduler::ReduceLrOnPlateau,
        0,
        json!({"factor": 0.5, "patience": 1, "cooldown": 1, "min_lr": 0.2}),
    );
    let mut schedule = Schedule::new(&plateau, 100).unwrap();
    let mut rates = Vec::new();
    for loss in [
        3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
    ] {
        schedule.evaluated(loss);
        rates.push(schedule.learning_rate(0));
    }
    assert_eq!(rates, PLATEAU);
}

#[test]
fn greedy_rises_and_falls() {
    let greedy = with_kwargs(
        LrScheduler::Greedy,
        0,
        json!({"factor": 0.5, "patience": 1, "cooldown": 1, "warmup": 1, "min_lr": 0.2, "max_lr": 3.0,
               "reset_start": 2}),
    );
    let mut schedule = Schedule::new(&greedy, 100).unwrap();
    let mut rates = Vec::new();
    for loss in GREEDY_LOSSES {
        schedule.evaluated(*loss);
        rates.push(schedule.learning_rate(0));
    }
    assert_eq!(rates, GREEDY);
}

#[test]
fn names_of_kwargs_are_checked() {
    let wrong = with_kwargs(LrScheduler::Polynomial, 0, json!({"powr": 2.0}));
    let error = Schedule::new(&wrong, 10).unwrap_err().to_string();
    assert_eq!(
        error,
        "lr_scheduler_kwargs: polynomial does not take powr; it takes lr_end, power"
    );
    let missing = config(LrScheduler::WarmupStableDecay, 0);
    let error = Schedule::new(&missing, 10).unwrap_err().to_string();
    assert_eq!(
        error,
        "lr_scheduler_kwargs: warmup_stable_decay needs num_decay_steps"
    );
}

const RESTARTS: &[f64] = &[0.0, 0.5, 1.0, 0.25, 0.75, 0.0012179749];
const POLYNOMIAL: &[f64] = &[0.0, 0.5, 1.0, 0.45, 0.12, 0.010122222];
const INVERSE_SQRT: &[f64] = &[0.0, 0.5, 1.0, 0.5, 0.37796447, 0.31782086];
const COSINE_MIN: &[f64] = &[0.0, 0.5, 1.0, 0.8, 0.4, 0.20024367];
const COSINE_WARMUP_MIN: &[f64] = &[0.1, 0.6, 0.99975633, 0.78778863, 0.38803229, 0.2];
const STABLE: &[f64] = &[0.1, 0.55, 1.0, 1.0, 0.86819805, 0.1013872];
const ONE_CYCLE: &[f64] = &[0.04, 0.60335113, 0.99969541, 0.73473684, 0.23504343, 4e-06];
const ONE_CYCLE_BETA1: &[f64] = &[0.95, 0.89131759, 0.85003046, 0.87652642, 0.92649596, 0.95];
const PLATEAU: &[f64] = &[
    1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2, 0.2,
];
const GREEDY_LOSSES: &[f64] = &[
    9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0,
    5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0,
];
const GREEDY: &[f64] = &[
    1.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 1.5, 1.5, 1.5, 0.75, 0.75, 0.75, 0.375,
    0.375, 0.375, 0.2, 0.2, 0.2, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2,
];
