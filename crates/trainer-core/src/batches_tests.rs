//! How samples become batches, by the keys that ask for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use trainer_config::{AutoBool, PackingStrategy};

use super::*;

fn samples(lengths: &[usize]) -> Vec<Sample> {
    lengths
        .iter()
        .map(|&len| Sample::all_trained(vec![7; len]))
        .collect()
}

fn training(config: Config, lengths: &[usize]) -> Batches {
    Batches::new(
        samples(lengths),
        BatchOptions::training(&config, 0).unwrap(),
    )
    .unwrap()
}

/// The lengths of the samples in each batch, row by row.
fn lengths(batches: &Batches, epoch: u64) -> Vec<Vec<Vec<u32>>> {
    let plan = batches.plan(epoch).unwrap();
    let of = &batches.planner.lengths();
    let rows = |batch: Vec<Vec<u32>>| -> Vec<Vec<u32>> {
        let row = |row: &Vec<u32>| row.iter().map(|&i| of[i as usize]).collect();
        batch.iter().map(row).collect()
    };
    plan.batches().map(rows).collect()
}

#[test]
fn rows_of_similar_length_share_a_batch() {
    let all: Vec<usize> = (1..=64).collect();
    let config = Config {
        micro_batch_size: 4,
        group_by_length: true,
        ..Config::default()
    };
    let batches = training(config.clone(), &all);
    for epoch in 0..2 {
        let mut taken = Vec::new();
        for batch in lengths(&batches, epoch) {
            let lens: Vec<u32> = batch.concat();
            // Sixteen rows are sorted at a time; the longest of all is put first.
            assert!(lens[1..].is_sorted_by(|a, b| a >= b));
            taken.extend(lens);
        }
        assert_eq!(taken[0], 64);
        taken.sort_unstable();
        assert!(taken.into_iter().eq(1..=64));
    }
    assert_ne!(lengths(&batches, 0), lengths(&batches, 1));
    // Evaluation rows stay in order.
    let eval = Batches::new(samples(&all), BatchOptions::evaluation(&config, 0)).unwrap();
    assert_eq!(lengths(&eval, 0)[0], [[1], [2], [3], [4]]);
}

#[test]
fn a_flattened_batch_is_one_row() {
    for (batch_flattening, packed, rows) in [
        (AutoBool::Bool(true), false, 1),
        (AutoBool::Auto(trainer_config::Auto::Auto), false, 1),
        (AutoBool::Auto(trainer_config::Auto::Auto), true, 3),
        (AutoBool::Bool(false), false, 3),
    ] {
        let config = Config {
            micro_batch_size: 3,
            batch_flattening,
            sample_packing: packed,
            sequence_len: 8,
            ..Config::default()
        };
        let batches = training(config, &[5, 7, 6]);
        let plan = batches.plan(0).unwrap();
        let batch = batches.collate(&plan.batches().next().unwrap()).unwrap();
        assert_eq!(batch.rows, rows);
        assert_eq!((batch.real_tokens(), batch.documents()), (18, 3));
        assert_eq!(batch.slots() == 18, rows == 1);
    }
}

#[test]
fn positions_are_spread_with_and_without_packing() {
    for sample_packing in [false, true] {
        let config = Config {
            sample_packing,
            sequence_len: 16,
            use_pose: true,
            pose_max_context_len: Some(10_000),
            ..Config::default()
        };
        let batches = training(config.clone(), &[8; 6]);
        let again = training(config, &[8; 6]);
        let all = || (0..6).map(|index| batches.sample(index).unwrap());
        for (index, sample) in (0..).zip(all()) {
            assert_eq!(sample, again.sample(index).unwrap());
            let positions = sample.position_ids.as_ref().unwrap();
            assert_eq!(positions[..4], [0, 1, 2, 3]);
            assert!(positions[7] < 10_000);
        }
        assert!(all().any(|sample| sample.position_ids.as_ref().map(|p| p[7]) > Some(100)));
    }
}

#[test]
fn best_fit_keeps_to_the_documents_of_a_row() {
    let config = Config {
        sample_packing: true,
        sequence_len: 8,
        sample_packing_bin_size: 2,
        ..Config::default()
    };
    let batches = training(config, &[1; 7]);
    assert_eq!(batches.plan(0).unwrap().num_batches(), 4);
}

/// Samples whose reading is counted, and fails from the third on.
#[derive(Debug)]
struct Counted {
    samples: Vec<Sample>,
    reads: Arc<AtomicUsize>,
}

impl SampleSource for Counted {
    fn len(&self) -> usize {
        self.samples.len()
    }

    fn length(&self, index: usize) -> Option<usize> {
        self.samples.length(index)
    }

    fn sample(&self, index: usize) -> Result<Cow<'_, Sample>, seqprep::SourceError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match index {
            0..=2 => self.samples.sample(index),
            _ => Err("rows.tokens: the disk is gone".into()),
        }
    }

    fn largest_id(&self) -> Option<u32> {
        Some(7)
    }
}

#[test]
fn samples_are_read_with_their_batch() {
    let config = Config {
        micro_batch_size: 2,
        curriculum_sampling: true,
        use_pose: true,
        pose_max_context_len: Some(100),
        ..Config::default()
    };
    let reads = Arc::new(AtomicUsize::new(0));
    let read = || reads.load(Ordering::Relaxed);
    let source: Box<dyn SampleSource> = Box::new(Counted {
        samples: samples(&[3, 4, 5, 6]),
        reads: Arc::clone(&reads),
    });
    let batches = Batches::new(source, BatchOptions::training(&config, 0).unwrap()).unwrap();
    batches.check_vocabulary(8, "training").unwrap();
    let plan = batches.plan(0).unwrap();
    assert_eq!((plan.num_batches(), read()), (2, 0));
    let mut planned = plan.batches();
    let first = batches.collate(&planned.next().unwrap()).unwrap();
    assert_eq!((first.real_tokens(), read()), (7, 2));
    let in_memory = training(config, &[3, 4, 5, 6]);
    let same = in_memory.collate(&plan.batches().next().unwrap());
    assert_eq!(first, same.unwrap());
    let error = batches.collate(&planned.next().unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "rows.tokens: the disk is gone");
    // A bound that is too large has to be looked into.
    let error = batches.check_vocabulary(7, "training").unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("sample 0 of the training data has token id 7")
    );
}

#[test]
fn a_sample_beyond_the_positions_is_found_at_once() {
    let config = Config {
        use_pose: true,
        pose_max_context_len: Some(100),
        ..Config::default()
    };
    let options = BatchOptions::training(&config, 0).unwrap();
    let error = Batches::new(samples(&[99, 101]), options).unwrap_err();
    assert!(
        error.to_string().starts_with("row 1 has 101 tokens"),
        "{error}"
    );
}

#[test]
fn batches_of_a_window_train_about_as_many_tokens() {
    let all: Vec<usize> = (0..90).map(|i| 2 + (i * 37) % 60).collect();
    for sample_packing in [false, true] {
        let mut config = Config {
            micro_batch_size: 2,
            gradient_accumulation_steps: 4,
            sample_packing,
            packing_strategy: PackingStrategy::FirstFit,
            sequence_len: 64,
            ..Config::default()
        };
        let drawn = lengths(&training(config.clone(), &all), 1);
        config.sampling.balance_labels = true;
        config.sampling.label_balance_window_optim_steps = 2;
        let dealt = lengths(&training(config, &all), 1);
        assert_eq!(drawn.len(), dealt.len());
        let spread = |batches: &[Vec<Vec<u32>>]| {
            let trained = |row: &Vec<u32>| row.iter().map(|len| len - 1).sum::<u32>();
            let sums = batches.iter().map(|b| b.iter().map(trained).sum::<u32>());
            sums.clone().max().unwrap() - sums.min().unwrap()
        };
        for (drawn, dealt) in drawn.chunks(8).zip(dealt.chunks(8)) {
            let whole = |batch: &&Vec<Vec<u32>>| batch.len() == 2;
            if drawn.iter().filter(whole).count() == 8 {
                assert!(spread(dealt) < spread(drawn).max(2));
            }
            // The window holds the same rows.
            let rows = |batches: &[Vec<Vec<u32>>]| {
                let mut rows = batches.concat();
                rows.sort_unstable();
                rows
            };
            assert_eq!(rows(drawn), rows(dealt));
        }
    }
}
