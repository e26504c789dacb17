//! Packing of log-normal lengths, the usual shape of instruction data.
//!
//! `cargo bench -p trainer-benches`; measured numbers are in the README.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rand::Rng;
use seqprep::{
    CollateOptions, FirstFitOptions, Sample, SplitMix64, best_fit_decreasing, collate_packed,
    first_fit, permutation, sequential,
};

const CAPACITY: u32 = 4096;

/// `exp(N(6, 1))`, clipped to 16..=4096: a mean of about 645 tokens.
fn log_normal_lengths(count: usize) -> Vec<u32> {
    let mut rng = SplitMix64::new(0);
    let mut unit = move || (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
    (0..count)
        .map(|_| {
            // Box-Muller; 1 − u is never 0.
            let radius = (-2.0 * (1.0 - unit()).ln()).sqrt();
            let normal = radius * (std::f64::consts::TAU * unit()).cos();
            (6.0 + normal).exp().clamp(16.0, f64::from(CAPACITY)) as u32
        })
        .collect()
}

fn packers(criterion: &mut Criterion) {
    for (name, count) in [("100k", 100_000), ("1M", 1_000_000)] {
        let lengths = log_normal_lengths(count);
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function("best_fit_decreasing", |bencher| {
            bencher.iter(|| best_fit_decreasing(black_box(&lengths), CAPACITY));
        });
        group.bench_function("first_fit", |bencher| {
            let options = FirstFitOptions::default();
            bencher.iter(|| first_fit(black_box(&lengths), CAPACITY, options));
        });
        group.bench_function("sequential", |bencher| {
            bencher.iter(|| sequential(black_box(&lengths), CAPACITY));
        });
        group.bench_function("permutation", |bencher| {
            bencher.iter(|| permutation(black_box(count as u32), 42));
        });
        group.finish();
    }
}

fn collation(criterion: &mut Criterion) {
    let lengths = log_normal_lengths(1000);
    let samples: Vec<Sample> = lengths
        .iter()
        .map(|&len| Sample::all_trained((0..len).collect()))
        .collect();
    let packing = best_fit_decreasing(&lengths, CAPACITY).expect("lengths are clipped");
    let rows: Vec<Vec<&Sample>> = packing
        .bins()
        .map(|bin| bin.iter().map(|&i| &samples[i as usize]).collect())
        .collect();
    let mut group = criterion.benchmark_group("1000 documents");
    group.throughput(Throughput::Elements(packing.report().tokens));
    group.bench_function("collate_packed (tokens)", |bencher| {
        bencher.iter_batched(
            CollateOptions::default,
            |options| collate_packed(black_box(&rows), &options),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, packers, collation);
criterion_main!(benches);
