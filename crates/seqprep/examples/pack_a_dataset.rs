//! From rows of tokens to packed batches, with seqprep alone:
//! length rule -> order -> bins -> batch -> number of steps.
//!
//! `cargo run -p seqprep --example pack_a_dataset`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use seqprep::{
    CollateOptions, FirstFitOptions, LengthStrategy, Packing, PackingError, PadTo, PaddingSide,
    Sample, SeedStream, SplitMix64, StepPlan, apply_length_strategy, best_fit_decreasing,
    calculate_total_num_steps, collate_packed, first_fit, lengths, num_micro_batches, permutation,
    sequential,
};

const SEQUENCE_LEN: u32 = 512;
const MICRO_BATCH_SIZE: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Two thousand made-up documents of 1 to 600 tokens stand in for a
    // tokenized data set.
    let mut rng = SplitMix64::new(0);
    let mut samples: Vec<Sample> = (0..2000)
        .map(|_| {
            // The product of two draws: many short documents, few long ones.
            let len = 1 + rng.up_to(599) * rng.up_to(599) / 599;
            Sample::all_trained((0..len as u32).collect())
        })
        .collect();

    let counts =
        apply_length_strategy(&mut samples, LengthStrategy::Drop, SEQUENCE_LEN as usize, 2)?;
    println!(
        "length rule: {} kept, {} too long, {} too short",
        counts.kept, counts.too_long, counts.too_short
    );

    // All packers take the lengths in the order of the epoch.
    let seeds = SeedStream::new(42);
    let epoch = 0;
    let order = permutation(
        u32::try_from(samples.len())?,
        seeds.derive("shuffle", epoch),
    );
    let lengths = lengths(order.iter().map(|&row| &samples[row as usize]));
    let first_fit =
        |lengths: &[u32], capacity| first_fit(lengths, capacity, FirstFitOptions::default());
    type Packer<'a> = &'a dyn Fn(&[u32], u32) -> Result<Packing, PackingError>;
    let packers: [(&str, Packer<'_>); 3] = [
        ("sequential", &sequential),
        ("first_fit", &first_fit),
        ("best_fit_decreasing", &best_fit_decreasing),
    ];
    println!("unpacked: {} rows", samples.len());
    for (name, pack) in packers {
        let report = pack(&lengths, SEQUENCE_LEN)?.report();
        println!(
            "{name}: {} rows, {:.2} % of the slots hold tokens",
            report.bins,
            100.0 * report.efficiency
        );
    }

    // The packing that is trained on: back to rows of the data set, and not in
    // order of length.
    let packing = best_fit_decreasing(&lengths, SEQUENCE_LEN)?
        .map_items(&order)
        .shuffle_bins(seeds.derive("bins", epoch));

    let options = CollateOptions {
        pad_token_id: 0,
        padding_side: PaddingSide::Right,
        pad_to: PadTo::Fixed(SEQUENCE_LEN as usize),
    };
    let rows: Vec<Vec<&Sample>> = packing
        .bins()
        .take(MICRO_BATCH_SIZE)
        .map(|bin| bin.iter().map(|&row| &samples[row as usize]).collect())
        .collect();
    let batch = collate_packed(&rows, &options)?;
    println!(
        "first batch: {} rows of {} tokens, {} documents, {} of {} slots filled, {} tokens trained",
        batch.rows,
        batch.width,
        batch.documents(),
        batch.real_tokens(),
        batch.slots(),
        batch.trained_tokens()
    );

    let steps = calculate_total_num_steps(&StepPlan {
        micro_batches_per_epoch: num_micro_batches(
            packing.num_bins() as u64,
            MICRO_BATCH_SIZE as u64,
            false,
        ),
        gradient_accumulation_steps: 2,
        num_epochs: 3.0,
        max_steps: None,
    })?;
    println!(
        "3 epochs: {} steps, {} in each epoch",
        steps.total_steps, steps.steps_per_epoch
    );
    Ok(())
}
