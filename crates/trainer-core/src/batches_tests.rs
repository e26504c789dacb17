//! How samples become batches, by the keys that ask for it.

use super::*;

fn samples(lengths: &[usize]) -> Vec<Sample> {
    lengths
        .iter()
        .map(|&len| Sample::all_trained(vec![7; len]))
        .collect()
}

fn training(config: Config, lengths: &[usize]) -> Batches {
    Batches::new(samples(lengths), BatchOptions::training(&config, 0)).unwrap()
}

/// The lengths of the samples in each batch, row by row.
fn lengths(batches: &Batches, epoch: u64) -> Vec<Vec<Vec<u32>>> {
    let plan = batches.plan(epoch).unwrap();
    let rows = |rows: &[Vec<u32>]| -> Vec<Vec<u32>> {
        let row = |row: &Vec<u32>| row.iter().map(|&i| batches.lengths[i as usize]).collect();
        rows.iter().map(row).collect()
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
        let batch = batches.collate(plan.batches().next().unwrap()).unwrap();
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
        for (sample, same) in batches.samples.iter().zip(&again.samples) {
            assert_eq!(sample, same);
            let positions = sample.position_ids.as_ref().unwrap();
            assert_eq!(positions[..4], [0, 1, 2, 3]);
            assert!(positions[7] < 10_000);
        }
        let last = |sample: &Sample| sample.position_ids.as_ref().map(|p| p[7]);
        assert!(
            batches
                .samples
                .iter()
                .any(|sample| last(sample) > Some(100))
        );
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
