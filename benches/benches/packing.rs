//! Packing of log-normal lengths, the usual shape of instruction data.
//!
//! `cargo bench -p trainer-benches`; measured numbers are in the README.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use seqprep::{
    CollateOptions, FirstFitOptions, Sample, best_fit_decreasing, best_fit_decreasing_limited,
    collate_packed, first_fit, pack_stream, permutation, sequential,
};
use trainer_benches::{CAPACITY, log_normal_lengths};

fn packers(criterion: &mut Criterion) {
    for (name, count) in [("100k", 100_000), ("1M", 1_000_000)] {
        let lengths = log_normal_lengths(count);
        let mut group = criterion.benchmark_group(name);
        group.sample_size(20);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function("best_fit_decreasing", |bencher| {
            bencher.iter(|| best_fit_decreasing(black_box(&lengths), CAPACITY));
        });
        group.bench_function("best_fit_decreasing_limited (8)", |bencher| {
            bencher.iter(|| best_fit_decreasing_limited(black_box(&lengths), CAPACITY, 8));
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
    group.bench_function("pack_stream, 100 at a time (tokens)", |bencher| {
        bencher.iter(|| {
            pack_stream(samples.iter(), CAPACITY, 100, best_fit_decreasing)
                .flatten()
                .map(|row| row.len())
                .sum::<usize>()
        });
    });
    group.finish();
}

criterion_group!(benches, packers, collation);
criterion_main!(benches);
