//! Properties that hold for every input, checked on random ones.

use proptest::collection::vec;
use proptest::prelude::*;
use seqprep::{
    CollateOptions, FirstFitOptions, IGNORE_INDEX, LengthStrategy, Packing, PadTo, PaddingSide,
    PoseOptions, PoseVariant, Sample, SeedStream, TokenBudget, add_pose_position_ids_batch,
    apply_length_strategy, balance, best_fit_decreasing, best_fit_decreasing_limited, by_tokens,
    collate_flattened, collate_packed, first_fit, group_by_length, pack_stream, permutation,
    sequential,
};

/// A capacity and lengths that fit in it, zero and the whole capacity included.
fn packable() -> impl Strategy<Value = (u32, Vec<u32>)> {
    (1_u32..300).prop_flat_map(|capacity| (Just(capacity), vec(0..=capacity, 0..400)))
}

/// A sample with labels of both kinds; ids are never 0, which is the padding.
fn sample(max_len: usize) -> impl Strategy<Value = Sample> {
    vec((1_u32..1000, any::<bool>()), 0..=max_len).prop_map(|tokens| Sample {
        input_ids: tokens.iter().map(|t| t.0).collect(),
        labels: tokens
            .iter()
            .map(|&(id, trained)| if trained { id as i32 } else { IGNORE_INDEX })
            .collect(),
        position_ids: None,
    })
}

fn assert_valid(packing: &Packing, lengths: &[u32], capacity: u32) {
    let mut seen = vec![0; lengths.len()];
    for bin in packing.bins() {
        assert!(!bin.is_empty());
        let tokens: u64 = bin
            .iter()
            .map(|&item| u64::from(lengths[item as usize]))
            .sum();
        assert!(tokens <= u64::from(capacity));
        for &item in bin {
            seen[item as usize] += 1;
        }
    }
    assert!(seen.iter().all(|&count| count == 1));
    let report = packing.report();
    assert_eq!(report.bins, packing.num_bins());
    assert_eq!(report.documents, lengths.len());
    assert_eq!(
        report.tokens,
        lengths.iter().map(|&len| u64::from(len)).sum::<u64>()
    );
}

/// Best-fit-decreasing as the textbook has it: all bins are looked at for each
/// document.
fn plain_best_fit_decreasing(lengths: &[u32], capacity: u32) -> usize {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let mut rooms: Vec<u32> = Vec::new();
    for len in sorted {
        match rooms.iter_mut().filter(|room| **room >= len).min() {
            Some(room) => *room -= len,
            None => rooms.push(capacity - len),
        }
    }
    rooms.len()
}

/// First-fit as the textbook has it.
fn plain_first_fit(lengths: &[u32], capacity: u32, options: FirstFitOptions) -> Vec<Vec<u32>> {
    let mut bins = Vec::new();
    for (number, group) in lengths.chunks(options.group_size).enumerate() {
        let mut open: Vec<(u32, Vec<u32>)> = Vec::new();
        for (place, &len) in group.iter().enumerate() {
            let item = (number * options.group_size + place) as u32;
            match open
                .iter_mut()
                .find(|(room, items)| *room >= len && items.len() < options.bin_size)
            {
                Some((room, items)) => {
                    *room -= len;
                    items.push(item);
                }
                None => open.push((capacity - len, vec![item])),
            }
        }
        bins.extend(open.into_iter().map(|(_, items)| items));
    }
    bins
}

fn single_threaded<T: Send>(task: impl FnOnce() -> T + Send) -> T {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    pool.expect("a pool of one thread").install(task)
}

proptest! {
    // A failing case is printed; its input belongs into a test of its own.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn best_fit_decreasing_is_valid_and_as_good_as_the_textbook((capacity, lengths) in packable()) {
        let packing = best_fit_decreasing(&lengths, capacity).unwrap();
        assert_valid(&packing, &lengths, capacity);
        prop_assert_eq!(packing.num_bins(), plain_best_fit_decreasing(&lengths, capacity));
        for bin in packing.bins() {
            prop_assert!(bin.is_sorted_by_key(|&item| std::cmp::Reverse(lengths[item as usize])));
        }
    }

    #[test]
    fn a_limit_on_documents_holds(
        (capacity, lengths) in packable(),
        bin_size in 1_usize..20,
    ) {
        let packing = best_fit_decreasing_limited(&lengths, capacity, bin_size).unwrap();
        assert_valid(&packing, &lengths, capacity);
        prop_assert!(packing.bins().all(|bin| bin.len() <= bin_size));
        let unlimited = best_fit_decreasing(&lengths, capacity).unwrap();
        if unlimited.bins().all(|bin| bin.len() < bin_size) {
            prop_assert_eq!(packing, unlimited);
        }
    }

    #[test]
    fn streamed_rows_are_those_of_each_buffer(
        samples in vec(sample(30), 0..60),
        buffer in 1_usize..70,
    ) {
        let rows: Result<Vec<Vec<&Sample>>, _> =
            pack_stream(samples.iter(), 30, buffer, best_fit_decreasing).collect();
        let mut rows = rows.unwrap().into_iter();
        for held in samples.chunks(buffer) {
            let lengths = seqprep::lengths(held);
            for bin in best_fit_decreasing(&lengths, 30).unwrap().bins() {
                let row = rows.next().unwrap();
                let same = bin.iter().map(|&i| &held[i as usize]);
                prop_assert!(row.into_iter().eq(same));
            }
        }
        prop_assert!(rows.next().is_none());
    }

    #[test]
    fn grouping_by_length_keeps_all_rows(
        lengths in vec(0_u32..1000, 0..2000),
        batch_size in 0_usize..40,
        seed in any::<u64>(),
    ) {
        let order = group_by_length(&lengths, batch_size, seed);
        let longest = order.first().map(|&row| lengths[row as usize]);
        prop_assert_eq!(longest, lengths.iter().copied().max());
        let mut sorted = order;
        sorted.sort_unstable();
        prop_assert!(sorted.into_iter().eq(0..lengths.len() as u32));
    }

    #[test]
    fn batches_keep_their_budget(
        lengths in vec(0_usize..=50, 0..200),
        tokens in 50_usize..300,
        rows in 1_usize..20,
        padded in any::<bool>(),
    ) {
        let budget = TokenBudget { tokens, rows, padded };
        let batches: Result<Vec<Vec<usize>>, _> =
            by_tokens(lengths.iter().copied(), |&len| len, budget).collect();
        let batches = batches.unwrap();
        let slots = |batch: &[usize]| match padded {
            true => batch.len() * batch.iter().max().unwrap(),
            false => batch.iter().sum(),
        };
        for (place, batch) in batches.iter().enumerate() {
            prop_assert!(!batch.is_empty() && batch.len() <= rows && slots(batch) <= tokens);
            // The next row would not have fitted.
            if let Some(next) = batches.get(place + 1) {
                let mut more = batch.clone();
                more.push(next[0]);
                prop_assert!(more.len() > rows || slots(&more) > tokens);
            }
        }
        prop_assert!(batches.concat() == lengths);
    }

    #[test]
    fn balanced_groups_differ_by_one_row_and_one_weight(
        weights in vec(0_u64..1000, 0..300),
        groups in 1_usize..20,
    ) {
        let dealt = balance(&weights, groups);
        let mut rows = dealt.concat();
        rows.sort_unstable();
        prop_assert!(rows.into_iter().eq(0..weights.len() as u32));
        let sizes = || dealt.iter().map(Vec::len);
        prop_assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1);
        if weights.len() % groups == 0 {
            let sums = dealt.iter().map(|rows| rows.iter().map(|&r| weights[r as usize]).sum::<u64>());
            let spread = sums.clone().max().unwrap() - sums.min().unwrap();
            prop_assert!(spread <= weights.iter().copied().max().unwrap_or(0));
        }
    }

    #[test]
    fn first_fit_equals_the_textbook(
        (capacity, lengths) in packable(),
        group_size in 1_usize..500,
        bin_size in 1_usize..20,
    ) {
        let options = FirstFitOptions { group_size, bin_size };
        let packing = first_fit(&lengths, capacity, options).unwrap();
        assert_valid(&packing, &lengths, capacity);
        let bins: Vec<Vec<u32>> = packing.bins().map(<[u32]>::to_vec).collect();
        prop_assert_eq!(bins, plain_first_fit(&lengths, capacity, options));
        let alone = single_threaded(|| first_fit(&lengths, capacity, options)).unwrap();
        prop_assert_eq!(packing, alone);
    }

    #[test]
    fn sequential_keeps_the_order((capacity, lengths) in packable(), seed in any::<u64>()) {
        let packing = sequential(&lengths, capacity).unwrap();
        assert_valid(&packing, &lengths, capacity);
        prop_assert!(packing.bins().flatten().copied().eq(0..lengths.len() as u32));
        assert_valid(&packing.shuffle_bins(seed), &lengths, capacity);
    }

    #[test]
    fn an_order_is_a_permutation(len in 0_u32..2000, seed in any::<u64>()) {
        let order = permutation(len, seed);
        prop_assert_eq!(&order, &permutation(len, seed));
        let mut sorted = order;
        sorted.sort_unstable();
        prop_assert!(sorted.into_iter().eq(0..len));
    }

    #[test]
    fn derived_seeds_differ(seed in any::<u64>(), index in 0_u64..1000) {
        let seeds = SeedStream::new(seed);
        let derived = seeds.derive("shuffle", index);
        prop_assert_ne!(derived, seeds.derive("shuffle", index + 1));
        prop_assert_ne!(derived, seeds.derive("split", index));
        prop_assert_ne!(derived, SeedStream::new(seed.wrapping_add(1)).derive("shuffle", index));
    }

    #[test]
    fn pose_positions_rise_within_the_maximum(
        mut samples in vec(sample(60).prop_filter("empty", |s| !s.is_empty()), 1..20),
        spare in 0_u32..100_000,
        chunks in 1_usize..100,
        split in vec(1_u32..1000, 0..50),
        paper in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let max = 60 + spare;
        let variant = if paper { PoseVariant::Paper } else { PoseVariant::Axolotl };
        let by_tokens = !split.is_empty();
        let options = PoseOptions::new(max)
            .unwrap()
            .with_chunks(chunks)
            .unwrap()
            .with_split_on_token_ids(split.iter().copied())
            .with_variant(variant);
        let mut alone = samples.clone();
        let mut second_half = samples.split_off(samples.len() / 2);
        let half = samples.len() as u64;
        add_pose_position_ids_batch(&mut samples, &options, seed, 0).unwrap();
        add_pose_position_ids_batch(&mut second_half, &options, seed, half).unwrap();
        samples.append(&mut second_half);
        single_threaded(|| add_pose_position_ids_batch(&mut alone, &options, seed, 0)).unwrap();
        prop_assert_eq!(&samples, &alone);
        for sample in &samples {
            let positions = sample.position_ids.as_ref().unwrap();
            prop_assert_eq!(positions.len(), sample.len());
            prop_assert_eq!(positions[0], 0);
            prop_assert!(*positions.last().unwrap() < max);
            let mut jumps = 0;
            for (i, pair) in positions.windows(2).enumerate() {
                prop_assert!(pair[0] < pair[1]);
                if pair[1] - pair[0] > 1 {
                    jumps += 1;
                    prop_assert!(!by_tokens || split.contains(&sample.input_ids[i + 1]));
                }
            }
            prop_assert!(by_tokens || jumps < chunks);
        }
    }

    #[test]
    fn every_row_is_counted_once(
        mut samples in vec(sample(40), 0..50),
        max in 0_usize..40,
        min in 0_usize..10,
        cut in any::<bool>(),
    ) {
        let rows = samples.len();
        let strategy = if cut { LengthStrategy::Truncate } else { LengthStrategy::Drop };
        let counts = apply_length_strategy(&mut samples, strategy, max, min).unwrap();
        prop_assert_eq!(counts.kept + counts.truncated, samples.len());
        prop_assert_eq!(samples.len() + counts.dropped(), rows);
        for sample in &samples {
            prop_assert!((min.max(1)..=max).contains(&sample.len()));
            prop_assert_eq!(sample.len(), sample.labels.len());
        }
    }

    #[test]
    fn a_batch_holds_its_documents(
        rows in vec(vec(sample(12), 0..5), 0..6),
        left in any::<bool>(),
        multiple in 1_usize..20,
    ) {
        let options = CollateOptions {
            pad_token_id: 0,
            padding_side: if left { PaddingSide::Left } else { PaddingSide::Right },
            pad_to: PadTo::MultipleOf(multiple),
        };
        let flat: Vec<Sample> = rows.concat();
        let one_row = collate_packed(&[&flat], &CollateOptions::default()).unwrap();
        prop_assert_eq!(one_row.real_tokens(), one_row.slots());
        prop_assert_eq!(collate_flattened(&flat, &CollateOptions::default()).unwrap(), one_row);
        let batch = collate_packed(&rows, &options).unwrap();
        prop_assert_eq!(batch.rows, rows.len());
        prop_assert_eq!(batch.width % multiple, 0);
        for len in [
            batch.input_ids.len(),
            batch.labels.len(),
            batch.position_ids.len(),
            batch.segment_ids.len(),
        ] {
            prop_assert_eq!(len, batch.slots());
        }
        let samples = || rows.iter().flatten();
        prop_assert_eq!(batch.real_tokens(), samples().map(Sample::len).sum::<usize>());
        prop_assert_eq!(
            batch.trained_tokens(),
            samples().map(Sample::trained_tokens).sum::<usize>()
        );
        prop_assert_eq!(batch.documents(), samples().filter(|s| !s.is_empty()).count());
        for (row, documents) in rows.iter().enumerate() {
            let range = row * batch.width..(row + 1) * batch.width;
            let tokens: Vec<u32> = documents.iter().flat_map(|s| s.input_ids.clone()).collect();
            let padding = batch.width - tokens.len();
            let start = range.start + if left { padding } else { 0 };
            prop_assert_eq!(&batch.input_ids[start..start + tokens.len()], &tokens[..]);
            for slot in range {
                let segment = batch.segment_ids[slot];
                let real = (start..start + tokens.len()).contains(&slot);
                prop_assert_eq!(segment != 0, real);
                if !real || slot == start || batch.segment_ids[slot - 1] != segment {
                    prop_assert_eq!(batch.position_ids[slot], 0);
                    prop_assert_eq!(batch.labels[slot], IGNORE_INDEX);
                } else {
                    prop_assert_eq!(batch.position_ids[slot], batch.position_ids[slot - 1] + 1);
                }
                if real && slot == start {
                    prop_assert_eq!(segment, 1);
                }
            }
        }
    }
}

#[test]
fn orders_and_seeds_are_the_same_in_every_version() {
    assert_eq!(permutation(10, 42), [8, 3, 6, 5, 4, 0, 9, 2, 1, 7]);
    assert_eq!(
        SeedStream::new(42).derive("shuffle", 0),
        15_914_542_047_954_905_578
    );
    assert_eq!(
        SeedStream::new(42).derive("shuffle", 1),
        2_671_449_147_524_420_438
    );
}
