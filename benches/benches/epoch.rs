//! What the batches of a step cost in a long epoch: at its end as much as at its beginning.
//!
//! `cargo bench -p trainer-benches --features core --bench epoch`. A million samples, one a
//! batch, as a run plans and collates them. Walking from the beginning of the epoch to the
//! batch, as `EpochPlan::batches` with `nth` does, is beside it: a step must not do so.

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use seqprep::{Sample, SampleSource, SourceError};
use trainer_config::Config;
use trainer_core::{BatchOptions, BatchSource, Batches};

const SAMPLES: usize = 1_000_000;

/// Samples of 16 tokens that are made when they are asked for.
#[derive(Debug)]
struct Made;

impl SampleSource for Made {
    fn len(&self) -> usize {
        SAMPLES
    }

    fn length(&self, index: usize) -> Option<usize> {
        (index < SAMPLES).then_some(16)
    }

    fn sample(&self, index: usize) -> Result<Cow<'_, Sample>, SourceError> {
        let first = index as u32;
        Ok(Cow::Owned(Sample::all_trained(
            (first..first + 16).collect(),
        )))
    }
}

fn steps(criterion: &mut Criterion) {
    let config = Config {
        micro_batch_size: 1,
        ..Config::default()
    };
    let source: Box<dyn SampleSource> = Box::new(Made);
    let options = BatchOptions::training(&config, 0).expect("no PoSE");
    let batches = Batches::new(source, options).expect("samples fit");
    let plan = batches.plan(0).expect("samples fit");
    let mut group = criterion.benchmark_group("a batch of 1M");
    group.sample_size(20);
    for (place, index) in [("first", 0), ("middle", SAMPLES / 2), ("last", SAMPLES - 1)] {
        group.bench_function(place, |bencher| {
            bencher.iter(|| batches.collate(&plan.batch(black_box(index))));
        });
        group.bench_function(format!("{place}, walking there"), |bencher| {
            bencher.iter(|| plan.batches().nth(black_box(index)));
        });
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
