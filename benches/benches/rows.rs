//! What is done to rows and batches besides packing.
//!
//! `cargo bench -p trainer-benches --bench rows`; measured numbers are in the
//! README of `seqprep`. Rates are tokens or rows a second, as the names say.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main,
};
use seqprep::{
    CollateOptions, LengthStrategy, PaddingSide, PoseOptions, PoseVariant, PreferencePair, Sample,
    TokenBudget, add_pose_position_ids_batch, add_position_ids_batch, apply_length_strategy,
    balance, by_tokens, collate, collate_flattened, collate_packed_pairs, collate_pairs,
    drop_long_seq_batch, drop_no_trainable_tokens, group_by_length, lengths, pair_lengths,
    sequential, truncate_pair, weighted_label_masks,
};
use trainer_benches::{CAPACITY, log_normal_lengths, samples};

/// Measures a change in place, of which the copy is not counted.
fn in_place<T: Clone>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    data: &[T],
    mut change: impl FnMut(&mut Vec<T>),
) {
    group.bench_function(name, |bencher| {
        bencher.iter_batched_ref(|| data.to_vec(), &mut change, BatchSize::LargeInput);
    });
}

/// Transforms of 1000 samples.
fn transforms(criterion: &mut Criterion) {
    let samples = samples(&log_normal_lengths(1000));
    let tokens: usize = samples.iter().map(Sample::len).sum();
    let mut group = criterion.benchmark_group("1000 samples, tokens");
    group.throughput(Throughput::Elements(tokens as u64));
    in_place(&mut group, "add_position_ids", &samples, |samples| {
        add_position_ids_batch(samples);
    });
    for (name, variant) in [
        ("add_pose_position_ids, axolotl", PoseVariant::Axolotl),
        ("add_pose_position_ids, paper", PoseVariant::Paper),
    ] {
        let options = PoseOptions::new(4 * CAPACITY).expect("a maximum");
        let options = options
            .with_chunks(4)
            .expect("chunks")
            .with_variant(variant);
        in_place(&mut group, name, &samples, |samples| {
            add_pose_position_ids_batch(samples, &options, 42, 0).expect("rows fit");
        });
    }
    in_place(&mut group, "truncate to 512", &samples, |samples| {
        apply_length_strategy(samples, LengthStrategy::Truncate, 512, 2).expect("no error");
    });
    let width = 1024;
    let labels: Vec<i32> = samples.iter().flat_map(|s| s.labels.clone()).collect();
    group.bench_function("weighted_label_masks", |bencher| {
        bencher.iter(|| weighted_label_masks(black_box(&labels), width));
    });
    group.bench_function("drop_no_trainable_tokens", |bencher| {
        bencher.iter(|| {
            samples
                .iter()
                .filter(|s| drop_no_trainable_tokens(s))
                .count()
        });
    });
    group.finish();
}

/// Choices by length, of a million rows.
fn choices(criterion: &mut Criterion) {
    let count = 1_000_000;
    let lens = log_normal_lengths(count);
    let mut group = criterion.benchmark_group("1M rows");
    group.sample_size(20);
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function("group_by_length", |bencher| {
        bencher.iter(|| group_by_length(black_box(&lens), 8, 42));
    });
    let budget = TokenBudget {
        tokens: CAPACITY as usize,
        rows: 64,
        padded: true,
    };
    group.bench_function("by_tokens", |bencher| {
        bencher.iter(|| by_tokens(lens.iter(), |&&len| len as usize, budget).count());
    });
    let weights: Vec<u64> = lens.iter().map(|&len| u64::from(len)).collect();
    group.bench_function("balance, 64 rows to 8 batches", |bencher| {
        bencher.iter(|| {
            let windows = weights.chunks(64).map(|window| balance(window, 8));
            windows.map(|groups| groups.len()).sum::<usize>()
        });
    });
    let few = samples(&vec![16; count / 10]);
    group.throughput(Throughput::Elements(few.len() as u64));
    group.bench_function("drop_long_seq", |bencher| {
        bencher.iter(|| drop_long_seq_batch(black_box(&few), 512, 2));
    });
    group.bench_function("lengths", |bencher| {
        bencher.iter(|| lengths(black_box(&few)))
    });
    group.finish();
}

/// Batches of 64 samples, and of 32 pairs.
fn collation(criterion: &mut Criterion) {
    let samples = samples(&log_normal_lengths(64));
    let tokens: usize = samples.iter().map(Sample::len).sum();
    let mut group = criterion.benchmark_group("64 documents, tokens");
    group.throughput(Throughput::Elements(tokens as u64));
    for (name, padding_side) in [
        ("collate, right", PaddingSide::Right),
        ("collate, left", PaddingSide::Left),
    ] {
        let options = CollateOptions {
            padding_side,
            ..CollateOptions::default()
        };
        group.bench_function(name, |bencher| {
            bencher.iter(|| collate(black_box(&samples), &options));
        });
    }
    let options = CollateOptions::default();
    group.bench_function("collate_flattened", |bencher| {
        bencher.iter(|| collate_flattened(black_box(&samples), &options));
    });
    let pairs: Vec<PreferencePair> = samples
        .chunks(2)
        .map(|two| PreferencePair {
            prompt: two[0].input_ids[..8].to_vec(),
            chosen: two[0].input_ids[8..].to_vec(),
            rejected: two[1].input_ids[8..].to_vec(),
            margin: None,
        })
        .collect();
    in_place(&mut group, "truncate_pair to 512", &pairs, |pairs| {
        for pair in pairs {
            truncate_pair(pair, 512, 2, (1, 1));
        }
    });
    group.bench_function("documents of pairs", |bencher| {
        bencher.iter(|| {
            pairs
                .iter()
                .map(PreferencePair::documents)
                .collect::<Vec<_>>()
        });
    });
    let documents: Vec<(Sample, Sample)> = pairs.iter().map(PreferencePair::documents).collect();
    group.bench_function("collate_pairs", |bencher| {
        bencher.iter(|| collate_pairs(black_box(&documents), &options));
    });
    let packing = sequential(&pair_lengths(&documents), 2 * CAPACITY).expect("pairs fit");
    let rows: Vec<Vec<(&Sample, &Sample)>> = packing
        .bins()
        .map(|bin| {
            let pair = |&i: &u32| (&documents[i as usize].0, &documents[i as usize].1);
            bin.iter().map(pair).collect()
        })
        .collect();
    group.bench_function("collate_packed_pairs", |bencher| {
        bencher.iter(|| collate_packed_pairs(black_box(&rows), &options));
    });
    group.finish();
}

criterion_group!(benches, transforms, choices, collation);
criterion_main!(benches);
