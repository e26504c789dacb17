//! `seqprep`: from documents to a batch, and how many steps a run takes.

use seqprep::{
    Batch, CollateOptions, DEFAULT_MAX_CONTEXT_LEN, DEFAULT_MIN_SEQUENCE_LEN, DEFAULT_SEQUENCE_LEN,
    LengthOutcome, LengthStrategy, PoseOptions, Sample, SampleSource, StepPlan,
    add_pose_position_ids, add_position_ids, apply_length_strategy, best_fit_decreasing,
    calculate_total_num_steps, collate_packed, drop_long_seq, lengths, num_micro_batches,
};

#[test]
fn the_three_functions() {
    let mut sample = Sample::all_trained((0..10).collect());
    add_position_ids(&mut sample);
    assert_eq!(sample.position_ids, Some((0..10).collect()));
    let outcome = drop_long_seq(&sample, DEFAULT_SEQUENCE_LEN, DEFAULT_MIN_SEQUENCE_LEN);
    assert_eq!(outcome, LengthOutcome::Kept);
    let long = Sample::all_trained(vec![1; 2049]);
    let outcome = drop_long_seq(&long, DEFAULT_SEQUENCE_LEN, DEFAULT_MIN_SEQUENCE_LEN);
    assert_eq!(outcome, LengthOutcome::TooLong);
    let last = add_pose_position_ids(&mut sample, &PoseOptions::default(), 1, 0).unwrap();
    assert_eq!(sample.position_ids.unwrap().last(), Some(&last));
    assert!(last < DEFAULT_MAX_CONTEXT_LEN);
    assert_eq!(DEFAULT_MAX_CONTEXT_LEN, 32_768);
}

#[test]
fn from_documents_to_steps() {
    let mut samples: Vec<Sample> = [5, 4, 3, 2, 1, 9]
        .map(|len| Sample::all_trained((1..=len).collect()))
        .into();
    let counts = apply_length_strategy(&mut samples, LengthStrategy::Drop, 8, 2).unwrap();
    assert_eq!((counts.kept, counts.too_short, counts.too_long), (4, 1, 1));
    let packing = best_fit_decreasing(&lengths(&samples), 8).unwrap();
    let rows: Vec<Vec<&Sample>> = packing
        .bins()
        .map(|bin| bin.iter().map(|&index| &samples[index as usize]).collect())
        .collect();
    let batch = collate_packed(&rows, &CollateOptions::default()).unwrap();
    assert_eq!((batch.documents(), batch.real_tokens()), (4, 14));
    let plan = StepPlan {
        micro_batches_per_epoch: num_micro_batches(packing.num_bins() as u64, 1, false),
        gradient_accumulation_steps: 1,
        num_epochs: 3.0,
        max_steps: None,
    };
    assert_eq!(calculate_total_num_steps(&plan).unwrap().total_steps, 6);
    let source: Box<dyn SampleSource> = samples.into();
    assert_eq!(source.length(0), Some(5));
}

/// Settings and batches can be written down and read again.
#[test]
fn serde_goes_both_ways() {
    fn again<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
        serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
    }
    let pose = PoseOptions::new(64).unwrap().with_chunks(3).unwrap();
    assert_eq!(again(&pose), pose);
    let rows = [[Sample::all_trained(vec![1, 2, 3])]];
    let batch: Batch = collate_packed(&rows, &CollateOptions::default()).unwrap();
    assert_eq!(again(&batch), batch);
    assert_eq!(again(&CollateOptions::default()), CollateOptions::default());
    assert_eq!(again(&LengthStrategy::Truncate), LengthStrategy::Truncate);
}
