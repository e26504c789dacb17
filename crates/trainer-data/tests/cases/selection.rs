//! Which files and rows are used, how often, and in which order.

use std::collections::BTreeSet;
use std::io::Write;

use proptest::prelude::*;
use serde_json::json;
use trainer_config::{Config, Dataset, DatasetFormat, OneOrMany, PromptStrategy};
use trainer_data::source::{files, open};
use trainer_data::{DropReason, SkipReason};

use crate::support::{Lab, config};

/// A file of pretokenized rows that begin with these numbers.
fn numbered(lab: &Lab, name: &str, numbers: impl IntoIterator<Item = usize>) -> Dataset {
    let lines: Vec<String> = numbers
        .into_iter()
        .map(|n| json!({"input_ids": [n / 200, n % 200], "labels": [n / 200, n % 200]}).to_string())
        .collect();
    if let Some(parent) = lab.path().join(name).parent() {
        std::fs::create_dir_all(parent).unwrap();
    }
    Dataset {
        path: lab.write(name, lines.join("\n")),
        strategy: Some(PromptStrategy::Pretokenized),
        ..Dataset::default()
    }
}

fn numbers(samples: &[seqprep::Sample]) -> Vec<usize> {
    let number = |ids: &[u32]| ids[0] as usize * 200 + ids[1] as usize;
    samples.iter().map(|s| number(&s.input_ids)).collect()
}

fn train(lab: &Lab, config: &Config) -> Vec<usize> {
    numbers(&lab.prepare(config).unwrap().train)
}

/// The rows of a data set by their column `text`, or the error.
fn texts(lab: &Lab, dataset: &Dataset) -> String {
    let read = || -> Result<String, trainer_data::DataError> {
        let mut all = String::new();
        for row in open(dataset)? {
            let row = row?;
            all.push_str(row.columns["text"].as_str().unwrap_or("-"));
        }
        Ok(all)
    };
    read().unwrap_or_else(|error| lab.message(&error))
}

fn write(lab: &Lab, name: &str, text: &str) {
    let path = lab.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let lines: Vec<String> = text
        .chars()
        .map(|c| json!({"text": c.to_string()}).to_string())
        .collect();
    std::fs::write(path, lines.join("\n")).unwrap();
}

#[test]
fn files_of_a_data_set() {
    let lab = Lab::new("</s>");
    for (name, text) in [
        ("plain/b.jsonl", "cd"),
        ("plain/a.jsonl", "ab"),
        ("plain/deep/c.jsonl", "e"),
        ("plain/.hidden.jsonl", "x"),
        ("splits/train.jsonl", "ab"),
        ("splits/dev.jsonl", "c"),
        ("splits/more/test-1.jsonl", "d"),
        ("splits/more/test-2.jsonl", "e"),
        ("only/test.jsonl", "z"),
        ("hub/data/train_sft-00001-of-00002.jsonl", "b"),
        ("hub/data/train_sft-00000-of-00002.jsonl", "a"),
        ("hub/data/test_sft-00000-of-00001.jsonl", "c"),
        ("loose/train.jsonl", "a"),
        ("loose/extra.jsonl", "b"),
        ("both/train_test.jsonl", "a"),
        ("[odd]/a.jsonl", "o"),
    ] {
        write(&lab, name, text);
    }
    std::fs::create_dir_all(lab.path().join("mixed")).unwrap();
    write(&lab, "mixed/a.jsonl", "j");
    lab.write("mixed/b.csv", "text\nc\n");
    lab.write("mixed/dataset_infos.json", "{}");
    std::fs::create_dir_all(lab.path().join("empty")).unwrap();
    lab.write("empty/README.md", "nothing");

    let cases: &[(&str, Option<&str>, &[&str], &str)] = &[
        ("plain", None, &[], "abcde"),
        ("plain", None, &["b.jsonl", "a.jsonl"], "cdab"),
        ("plain", None, &["**/*.jsonl"], "abcde"),
        ("plain", None, &["*.jsonl"], "abcd"),
        ("plain/*.jsonl", None, &[], "abcd"),
        ("plain/[ac].jsonl", None, &[], "ab"),
        ("[odd]", None, &["*.jsonl"], "o"),
        ("[odd]/a.jsonl", None, &[], "o"),
        ("splits", None, &[], "ab"),
        ("splits", Some("validation"), &[], "c"),
        ("splits", Some("test[1:]+train[:1]"), &[], "ea"),
        ("splits", Some("train+validation+test"), &[], "abcde"),
        ("hub", Some("train_sft"), &[], "ab"),
        ("hub", Some("test_sft"), &[], "c"),
        (
            "hub",
            None,
            &[],
            "data set hub: no split `train`; its splits are `test_sft`, `train_sft`: choose with `split`",
        ),
        (
            "only",
            None,
            &[],
            "data set only: no split `train`; its split is `test`: choose with `split`",
        ),
        (
            "plain",
            Some("test"),
            &[],
            "data set plain: no split `test`; its split is `train`",
        ),
        (
            "plain",
            Some("train[:9]"),
            &[],
            "data set plain: `split: train[:9]` goes beyond the data: row 9 of 5 rows",
        ),
        (
            "plain",
            Some("train["),
            &[],
            "data set plain: `split`: `train[` has no `]` at its end",
        ),
        (
            "loose",
            None,
            &[],
            "data set loose: the folder is laid out in splits (`train`), but loose/extra.jsonl names none; rename it, or name the files in `data_files`",
        ),
        (
            "both",
            None,
            &[],
            "data set both: both/train_test.jsonl belongs to `train` or to `test` by its name; name the files in `data_files`",
        ),
        (
            "mixed",
            None,
            &[],
            "data set mixed: the folder holds files of several formats (1 json, 1 csv); choose one with `ds_type`, or name the files in `data_files`",
        ),
        (
            "empty",
            None,
            &[],
            "data set empty: the folder holds no data files (json, jsonl, csv, txt, parquet or arrow)",
        ),
        (
            "plain/*.csv",
            None,
            &[],
            "data set plain/*.csv: no file matches this pattern; plain holds a.jsonl, b.jsonl, deep (`*` stands for a part of one name, `**` for any folders)",
        ),
        (
            "plain/[.jsonl",
            None,
            &[],
            "data set plain/[.jsonl: `plain/[.jsonl` is no pattern: invalid range pattern",
        ),
        (
            "plain",
            None,
            &["a.jsonl", "z.jsonl"],
            "data set plain: `data_files`: no file plain/z.jsonl; did you mean plain/a.jsonl?",
        ),
        (
            "plain",
            None,
            &["q*"],
            "data set plain: `data_files`: no file plain/q*; plain holds a.jsonl, b.jsonl, deep (`*` stands for a part of one name, `**` for any folders)",
        ),
        (
            "nowhere/*.jsonl",
            None,
            &[],
            "data set nowhere/*.jsonl: no file matches this pattern: there is no folder nowhere",
        ),
        (
            "plain/a.jsonl",
            None,
            &["b.jsonl"],
            "data set plain/a.jsonl: `data_files` names files inside `path`, which is a file itself; write its folder as `path`, or remove `data_files`",
        ),
    ];
    for (path, split, data_files, expected) in cases {
        let dataset = Dataset {
            path: lab.path().join(path),
            split: split.map(str::to_owned),
            data_files: (!data_files.is_empty()).then(|| {
                OneOrMany::Many(data_files.iter().map(|name| (*name).to_owned()).collect())
            }),
            ..Dataset::default()
        };
        assert_eq!(
            texts(&lab, &dataset),
            *expected,
            "{path} {split:?} {data_files:?}"
        );
    }
    let mixed = Dataset {
        path: lab.path().join("mixed"),
        ds_type: Some(DatasetFormat::Csv),
        ..Dataset::default()
    };
    assert_eq!(texts(&lab, &mixed), "c");
    let json = Dataset {
        path: "json".into(),
        data_files: Some(OneOrMany::One(
            lab.path().join("plain/a.jsonl").display().to_string(),
        )),
        ..Dataset::default()
    };
    assert_eq!(texts(&lab, &json), "ab");
    let named = |path: &str, name: Option<&str>, revision: Option<&str>| Dataset {
        path: lab.path().join(path),
        name: name.map(str::to_owned),
        revision: revision.map(str::to_owned),
        ..Dataset::default()
    };
    assert_eq!(texts(&lab, &named("plain", Some("deep"), None)), "e");
    assert_eq!(
        texts(&lab, &named("plain", Some("other"), None)),
        "data set plain: has no folder `other`; remove `name`, and choose files with `data_files`"
    );
    assert_eq!(
        texts(&lab, &named("plain/a.jsonl", None, Some("main"))),
        "data set plain/a.jsonl: `revision` chooses a version of a data set of the hub, but this is a local path; remove `revision`"
    );
    let splits = Dataset {
        path: lab.path().join("splits"),
        split: Some("test[:50%]".to_owned()),
        ..Dataset::default()
    };
    let names: Vec<_> = files(&splits).unwrap();
    assert_eq!(
        names,
        ["more/test-1.jsonl", "more/test-2.jsonl"].map(|n| lab.path().join("splits").join(n))
    );
}

#[test]
fn paths_that_are_elsewhere() {
    let lab = Lab::new("</s>");
    let message = |path: &str| {
        texts(
            &lab,
            &Dataset {
                path: path.into(),
                ..Dataset::default()
            },
        )
    };
    assert_eq!(
        message("s3://bucket/a.jsonl"),
        "data set s3://bucket/a.jsonl: `s3` addresses cannot be read; download the files, such as with `aws s3 cp s3://bucket/a.jsonl .` (`--recursive` for a folder), and give their path"
    );
    #[cfg(not(feature = "hub"))]
    assert_eq!(
        message("some-owner/some-data"),
        "data set some-owner/some-data: there is no such file or folder. It reads like a data set of the Hugging Face hub: download it with `hf download some-owner/some-data --repo-type dataset --local-dir some-data` and write `path: some-data`, or use a build with the feature `hub`"
    );
}

#[test]
fn compressed_files_give_the_same_rows() {
    let lab = Lab::new("</s>");
    for (name, text) in [
        ("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n"),
        ("a.json", "[{\"text\": \"a\"}, {\"text\": \"b\"}]"),
        ("a.csv", "text\na\nb\n"),
        ("a.txt", "a\nb"),
    ] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        // Two members in one file, as `cat` makes them.
        let (first, second) = text.as_bytes().split_at(text.len() / 2);
        gzip.write_all(first).unwrap();
        let mut members = gzip.finish().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(second).unwrap();
        members.extend(gzip.finish().unwrap());
        let zstd = zstd::encode_all(text.as_bytes(), 3).unwrap();
        for (name, bytes) in [
            (format!("{name}.gz"), members),
            (format!("{name}.zst"), zstd.clone()),
            // What a file is packed with is told from its bytes.
            (name.to_owned(), zstd),
        ] {
            let dataset = Dataset {
                path: lab.write(&name, bytes),
                ..Dataset::default()
            };
            assert_eq!(texts(&lab, &dataset), "ab", "{name}");
        }
    }
}

#[test]
fn shards_cover_the_data_and_keep_its_order() {
    let lab = Lab::new("</s>");
    let mut config = config(numbered(&lab, "a.jsonl", 0..100));
    config.datasets[0].shards = Some(7);
    let mut all = BTreeSet::new();
    for index in 0..7 {
        config.datasets[0].shards_idx = Some(index);
        let prepared = lab.prepare(&config).unwrap();
        let part = numbers(&prepared.train);
        assert!(part.is_sorted() && part.len().abs_diff(14) <= 1);
        assert_eq!(
            prepared.ledger.datasets[0].skipped[&SkipReason::Shard],
            100 - part.len()
        );
        all.extend(part);
    }
    assert_eq!(all.len(), 100);
    config.datasets[0].split = Some("train[:2]".into());
    config.datasets[0].shards = Some(200);
    let used: Vec<usize> = (0..200)
        .filter_map(|index| {
            config.datasets[0].shards_idx = Some(index);
            lab.prepare(&config).ok().map(|p| p.train.len())
        })
        .collect();
    assert_eq!(used, [1, 1]);
    assert!(
        lab.message(&lab.prepare(&config).unwrap_err())
            .ends_with("has no rows, for there are only 2; lower `shards`")
    );
}

#[test]
fn weights_take_a_part_or_repeat() {
    let lab = Lab::new("</s>");
    let mut config = config(numbered(&lab, "a.jsonl", 0..100));
    for (weight, size) in [(0.001, 1), (0.29, 29), (1.0, 100), (2.0, 200), (2.5, 250)] {
        config.datasets[0].weight = Some(weight);
        let prepared = lab.prepare(&config).unwrap();
        let used = numbers(&prepared.train);
        assert_eq!(used.len(), size);
        let distinct: BTreeSet<usize> = used.iter().copied().collect();
        assert_eq!(distinct.len(), size.min(100));
        let account = &prepared.ledger.datasets[0];
        assert_eq!(account.rows, size.min(100));
        assert_eq!(account.repeated, size.saturating_sub(100));
        let left = account
            .skipped
            .get(&SkipReason::Weight)
            .copied()
            .unwrap_or(0);
        assert_eq!(left, 100 - size.min(100));
        assert_eq!(prepared.ledger.train.samples, size);
        // In file order, once or several times over.
        let descents = used.windows(2).filter(|pair| pair[1] <= pair[0]).count();
        assert_eq!(descents, size.saturating_sub(1) / 100);
    }
    config.datasets[0].weight = Some(0.5);
    let first = train(&lab, &config);
    assert_eq!(first, train(&lab, &config));
    config.seed = 1;
    assert_ne!(first, train(&lab, &config));
}

#[test]
fn repeated_samples_are_not_evaluated_on() {
    let lab = Lab::new("</s>");
    let mut config = config(numbered(&lab, "a.jsonl", 0..20));
    config.datasets[0].weight = Some(3.0);
    config.val_set_size = 0.25;
    config.shuffle_merged_datasets = true;
    let prepared = lab.prepare(&config).unwrap();
    let (train, eval) = (numbers(&prepared.train), numbers(&prepared.eval));
    assert_eq!((train.len(), eval.len()), (45, 5));
    assert!(train.iter().all(|n| !eval.contains(n)));
    assert_eq!(prepared.ledger.datasets[0].repeated, 30);
    assert_eq!(prepared.ledger.train.tokens, 90);
}

#[test]
fn a_curriculum_keeps_the_order_of_one_and_of_several_data_sets() {
    let lab = Lab::new("</s>");
    let mut config = config(numbered(&lab, "a.jsonl", 0..10));
    config.datasets.push(numbered(&lab, "b.jsonl", 10..20));
    config.shuffle_merged_datasets = true;
    config.curriculum_sampling = true;
    assert_eq!(train(&lab, &config), (0..20).collect::<Vec<_>>());
    // Repetitions stand with their own data set.
    config.datasets[0].weight = Some(2.0);
    let expected: Vec<usize> = (0..10).chain(0..10).chain(10..20).collect();
    assert_eq!(train(&lab, &config), expected);
    config.datasets.truncate(1);
    assert_eq!(train(&lab, &config), expected[..20]);
}

#[test]
fn shuffles_before_and_after_merging() {
    let lab = Lab::new("</s>");
    let mut config = config(numbered(&lab, "a.jsonl", 0..50));
    config.datasets.push(numbered(&lab, "b.jsonl", 50..100));
    config.shuffle_before_merging_datasets = true;
    let order = train(&lab, &config);
    let (first, second) = order.split_at(50);
    for (part, range) in [(first, 0..50), (second, 50..100)] {
        assert!(!part.is_sorted());
        let mut part = part.to_vec();
        part.sort_unstable();
        assert_eq!(part, range.collect::<Vec<_>>());
    }
    let offsets: Vec<usize> = second.iter().map(|n| n - 50).collect();
    assert_ne!(first, offsets);
    config.shuffle_merged_datasets = true;
    let mixed = train(&lab, &config);
    assert!(mixed[..50].iter().any(|n| *n >= 50));
}

#[test]
fn duplicates_within_and_across_train_and_eval() {
    let lab = Lab::new("</s>");
    let mut config = config(numbered(&lab, "a.jsonl", [1, 2, 1, 3]));
    config
        .datasets
        .push(numbered(&lab, "b.jsonl", [3, 2, 4, 4]));
    config.datasets.push(numbered(&lab, "c.jsonl", [1, 2]));
    config.test_datasets = Some(vec![
        numbered(&lab, "d.jsonl", [9, 1, 9, 8]),
        numbered(&lab, "e.jsonl", [7, 8]),
    ]);
    let prepared = lab.prepare(&config).unwrap();
    assert_eq!((prepared.train.len(), prepared.eval.len()), (10, 6));
    config.dataset_exact_deduplication = true;
    let prepared = lab.prepare(&config).unwrap();
    assert_eq!(numbers(&prepared.train), [1, 2, 3, 4]);
    assert_eq!(numbers(&prepared.eval), [9, 8, 7]);
    let counts: Vec<_> = prepared
        .ledger
        .datasets
        .iter()
        .map(|set| {
            let of = |reason| set.dropped.get(&reason).map_or(0, |count| count.samples);
            (
                set.kept.samples,
                of(DropReason::Duplicate),
                of(DropReason::InTraining),
            )
        })
        .collect();
    assert_eq!(
        counts,
        [(3, 1, 0), (1, 3, 0), (0, 2, 0), (2, 1, 1), (1, 1, 0)]
    );
    assert!(
        prepared
            .ledger
            .to_string()
            .contains("b.jsonl: 3 dropped, duplicate (6 tokens)"),
        "{}",
        prepared.ledger
    );
    // A split has no samples in common either; repetition is not duplication.
    config.test_datasets = None;
    config.val_set_size = 0.5;
    config.datasets[0].weight = Some(2.0);
    let prepared = lab.prepare(&config).unwrap();
    assert_eq!(numbers(&prepared.train), [1, 2, 1, 2]);
    assert_eq!(numbers(&prepared.eval), [3, 4]);
    // Nothing left to evaluate on is an error.
    config.val_set_size = 0.0;
    config.test_datasets = Some(vec![numbered(&lab, "f.jsonl", [1, 2])]);
    assert_eq!(
        lab.message(&lab.prepare(&config).unwrap_err()),
        "all 2 rows of data set f.jsonl were dropped: 2 also trained on; take other rows, or write `dataset_exact_deduplication: false`"
    );
}

#[test]
fn labels_and_positions_tell_samples_apart() {
    let lab = Lab::new("</s>");
    let rows = [
        json!({"input_ids": [1, 2], "labels": [1, 2]}),
        json!({"input_ids": [1, 2], "labels": [-100, 2]}),
        json!({"input_ids": [1, 2], "labels": [1, 2], "position_ids": [0, 5]}),
        json!({"input_ids": [1, 2, 3], "labels": [1, 2, -100]}),
    ];
    let mut config = config(lab.rows(PromptStrategy::Pretokenized, &rows));
    config.dataset_exact_deduplication = true;
    assert_eq!(lab.prepare(&config).unwrap().train.len(), 4);
}

#[test]
fn parts_of_the_prepared_data() {
    let lab = Lab::new("</s>");
    let mut config = config(numbered(&lab, "a.jsonl", 0..7));
    config.datasets.push(numbered(&lab, "b.jsonl", 7..10));
    config.dataset_shard_num = Some(4);
    let mut all = Vec::new();
    for part in 0..4 {
        config.dataset_shard_idx = Some(part);
        let prepared = lab.prepare(&config).unwrap();
        let dropped: usize = prepared
            .ledger
            .datasets
            .iter()
            .filter_map(|set| set.dropped.get(&DropReason::OtherShard))
            .map(|count| count.samples)
            .sum();
        assert_eq!(dropped + prepared.train.len(), 10);
        all.extend(numbers(&prepared.train));
    }
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    config.dataset_shard_num = Some(20);
    config.dataset_shard_idx = Some(15);
    assert_eq!(
        lab.prepare(&config).unwrap_err().to_string(),
        "`dataset_shard_num: 20` of 10 samples leaves part 15 empty; write a smaller number"
    );
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let lab = Lab::new("</s>");
    let mut config = config(numbered(&lab, "a.jsonl", 0..5000));
    config.shuffle_merged_datasets = true;
    config.dataset_exact_deduplication = true;
    config.datasets[0].weight = Some(1.5);
    let all = lab.prepare(&config).unwrap();
    for threads in [1, 3] {
        config.dataset_num_proc = Some(threads);
        assert_eq!(lab.prepare(&config).unwrap(), all);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is asked for, the account adds up and train and eval are apart.
    #[test]
    fn the_account_of_a_selection(
        sizes in prop::collection::vec(1usize..40, 1..4),
        weight in prop::option::of(0.1f64..3.0),
        shards in 1usize..4,
        dedup in any::<bool>(),
        shuffle in any::<bool>(),
        val in 0usize..3,
        parts in 1usize..3,
    ) {
        let lab = Lab::new("</s>");
        let mut config = config(Dataset::default());
        config.datasets.clear();
        for (index, size) in sizes.iter().enumerate() {
            let start = index * 20;
            config.datasets.push(Dataset {
                weight,
                shards: Some(shards),
                ..numbered(&lab, &format!("{index}.jsonl"), start..start + size)
            });
        }
        config.dataset_exact_deduplication = dedup;
        config.shuffle_merged_datasets = shuffle;
        config.val_set_size = val as f64;
        config.dataset_shard_num = Some(parts);
        let Ok(prepared) = lab.prepare(&config) else { return Ok(()); };
        let mut kept = 0;
        let mut repeated = 0;
        for (set, size) in prepared.ledger.datasets.iter().zip(&sizes) {
            prop_assert_eq!(set.rows + set.skipped.values().sum::<usize>(), *size);
            let dropped: usize = set.dropped.values().map(|count| count.samples).sum();
            prop_assert_eq!(set.made.samples, set.kept.samples + dropped);
            kept += set.kept.samples;
            repeated += set.repeated;
        }
        prop_assert_eq!(prepared.train.len() + prepared.eval.len(), kept + repeated);
        prop_assert_eq!(prepared.ledger.train.samples, prepared.train.len());
        if dedup {
            let eval: BTreeSet<usize> = numbers(&prepared.eval).into_iter().collect();
            prop_assert!(numbers(&prepared.train).iter().all(|n| !eval.contains(n)));
        }
    }
}
