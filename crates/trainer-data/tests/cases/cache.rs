//! Prepared data sets: what they depend on, what happens to damaged ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use serde_json::{Value, json};
use trainer_config::{Config, ExcessLength, PromptStrategy};
use trainer_data::{
    CacheOutcome, Fingerprint, PreferenceObjective, Prepared, Search, Tokenizer, explain_cache,
    prepare, prepare_cached, prepare_preferences, prepare_preferences_cached,
};

use crate::support::{Lab, config};

/// Conversations, with an evaluation split, prepared in the lab's folder.
fn chats(lab: &Lab) -> Config {
    let rows: Vec<Value> = (0..40)
        .map(|i| {
            json!({"messages": [
                {"role": "user", "content": format!("question {i}")},
                {"role": "assistant", "content": "answer ".repeat(i)},
            ]})
        })
        .collect();
    let mut config = config(lab.rows(PromptStrategy::ChatTemplate, &rows));
    config.chat_template = Some("chatml".to_owned());
    config.val_set_size = 5.0;
    config.shuffle_merged_datasets = true;
    config.sequence_len = 256;
    config.dataset_prepared_path = Some(lab.path().join("prepared"));
    config
}

fn run(lab: &Lab, config: &Config) -> (Prepared, CacheOutcome) {
    run_with(&lab.tokenizer(), config)
}

fn run_with(tokenizer: &Tokenizer, config: &Config) -> (Prepared, CacheOutcome) {
    let (prepared, outcome) = prepare_cached(config, tokenizer).unwrap();
    (prepared.into_memory().unwrap(), outcome)
}

fn stored(outcome: &CacheOutcome) -> (&Path, Option<&str>) {
    match outcome {
        CacheOutcome::Stored { entry, damaged } => (entry, damaged.as_deref()),
        other => panic!("{other:?}"),
    }
}

fn loaded(outcome: &CacheOutcome) -> bool {
    matches!(outcome, CacheOutcome::Loaded { .. })
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_loaded_is_what_was_prepared() {
    let lab = Lab::new("<|im_end|>");
    let config = chats(&lab);
    let expected = prepare(&config, &lab.tokenizer()).unwrap();
    let (first, outcome) = run(&lab, &config);
    assert_eq!(first, expected);
    let (entry, damaged) = stored(&outcome);
    assert_eq!(damaged, None);
    assert_eq!(
        names(entry),
        [
            "data_ledger.json",
            "eval.order",
            "manifest.json",
            "samples.tokens",
            "train.order"
        ]
    );
    let size: u64 = ["eval.order", "samples.tokens", "train.order"]
        .iter()
        .map(|name| fs::metadata(entry.join(name)).unwrap().len())
        .sum();
    let tokens = expected.ledger.train.tokens + expected.ledger.eval.tokens;
    assert!(
        size <= 5 * tokens as u64,
        "{size} bytes for {tokens} tokens"
    );
    let (second, outcome) = run(&lab, &config);
    assert!(loaded(&outcome), "{outcome:?}");
    assert_eq!(second, expected);
}

#[test]
fn an_empty_path_turns_it_off() {
    let lab = Lab::new("<|im_end|>");
    let mut config = chats(&lab);
    config.dataset_prepared_path = Some(PathBuf::new());
    assert!(matches!(run(&lab, &config).1, CacheOutcome::Off));
    assert!(!lab.path().join("prepared").exists());
}

#[test]
fn a_folder_that_cannot_be_written_does_not_stop_the_run() {
    let lab = Lab::new("<|im_end|>");
    let mut config = chats(&lab);
    config.dataset_prepared_path = Some(lab.write("file", "").join("prepared"));
    let (prepared, outcome) = run(&lab, &config);
    assert_eq!(prepared, prepare(&config, &lab.tokenizer()).unwrap());
    let CacheOutcome::NotStored { error } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(
        lab.message(&error),
        "cannot create file/prepared: Not a directory (os error 20)"
    );
}

#[test]
fn damage_of_every_kind_is_found_and_repaired() {
    let lab = Lab::new("<|im_end|>");
    let (config, tokenizer) = (chats(&lab), lab.tokenizer());
    let (expected, outcome) = run_with(&tokenizer, &config);
    let entry = stored(&outcome).0.to_owned();
    let whole: Vec<(PathBuf, Vec<u8>)> = names(&entry)
        .into_iter()
        .map(|name| (entry.join(&name), fs::read(entry.join(&name)).unwrap()))
        .collect();
    type Damage = fn(&Path, &[u8]);
    let kinds: [(&str, Damage); 4] = [
        ("a flipped bit", |path, bytes| {
            let mut bytes = bytes.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("half of it", |path, bytes| {
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("nothing of it", |path, _| fs::write(path, "").unwrap()),
        ("no file", |path, _| fs::remove_file(path).unwrap()),
    ];
    for (path, bytes) in &whole {
        for (kind, damage) in kinds {
            damage(path, bytes);
            let (prepared, outcome) = run_with(&tokenizer, &config);
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert_eq!(prepared, expected, "{kind} {name}");
            let reason = stored(&outcome)
                .1
                .unwrap_or_else(|| panic!("{kind} {name}"));
            assert!(
                reason.contains(&name) || name == "manifest.json",
                "{reason}"
            );
            assert_eq!(&fs::read(path).unwrap(), bytes, "{kind} {name}");
            assert!(loaded(&run_with(&tokenizer, &config).1), "{kind} {name}");
        }
    }
    // A file in the place of the folder, and what a killed process leaves.
    let root = entry.parent().unwrap();
    let key = entry.file_name().unwrap().to_string_lossy();
    fs::remove_dir_all(&entry).unwrap();
    fs::write(&entry, "x").unwrap();
    fs::create_dir(root.join(format!(".{key}.1-0.tmp"))).unwrap();
    assert!(stored(&run_with(&tokenizer, &config).1).1.is_some());
    assert!(loaded(&run_with(&tokenizer, &config).1));
    assert_eq!(names(root), [format!(".{key}.lock"), key.into_owned()]);
}

#[test]
fn several_may_prepare_at_once() {
    let lab = Lab::new("<|im_end|>");
    let config = chats(&lab);
    let barrier = Barrier::new(8);
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let tokenizer = lab.tokenizer();
                    barrier.wait();
                    let (prepared, outcome) = prepare_cached(&config, &tokenizer).unwrap();
                    (prepared.into_memory().unwrap(), outcome)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    for (prepared, _) in &results {
        assert_eq!(prepared, &results[0].0);
    }
    let stored = results.iter().filter(|(_, outcome)| !loaded(outcome));
    assert_eq!(stored.count(), 1, "the others wait for the first");
}

/// A name and a change of the configuration or of a file.
type Change = (&'static str, fn(&Lab, &mut Config));

#[test]
fn everything_that_changes_a_token_changes_the_name() {
    let changes: &[Change] = &[
        ("setting sequence_len", |_, c| c.sequence_len = 128),
        ("setting seed", |_, c| c.seed = 7),
        ("setting min_sample_len", |_, c| c.min_sample_len = 3),
        ("setting excess_length_strategy", |_, c| {
            c.excess_length_strategy = ExcessLength::Truncate;
        }),
        ("setting eval_sequence_len", |_, c| {
            c.eval_sequence_len = Some(64)
        }),
        ("setting val_set_size", |_, c| c.val_set_size = 3.0),
        ("setting shuffle_merged_datasets", |_, c| {
            c.shuffle_merged_datasets = false
        }),
        ("setting curriculum_sampling", |_, c| {
            c.curriculum_sampling = true
        }),
        ("setting train_on_inputs", |_, c| c.train_on_inputs = true),
        ("setting special_tokens.eos_token", |_, c| {
            c.special_tokens.eos_token = Some("</s>".to_owned());
        }),
        ("setting datasets.0.roles_to_train", |_, c| {
            c.datasets[0].roles_to_train = Some(vec!["user".to_owned()]);
        }),
        ("datasets.0 data.jsonl", |lab, _| {
            let path = lab.path().join("data.jsonl");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, text.replacen("question 0", "question O", 1)).unwrap();
        }),
        ("tokenizer tokenizer_config.json", |lab, _| {
            lab.write("tokenizer_config.json", "{\"eos_token\": \"<|im_end|>\" }");
        }),
        ("datasets.0 chat template", |lab, c| {
            let path = lab.write(
                "t.jinja",
                "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}",
            );
            c.chat_template = Some("jinja".to_owned());
            c.chat_template_jinja = Some(path.display().to_string());
        }),
    ];
    for (name, change) in changes {
        let lab = Lab::new("<|im_end|>");
        let mut config = chats(&lab);
        run(&lab, &config);
        change(&lab, &mut config);
        let explanation = explain_cache(&config, &lab.tokenizer()).unwrap();
        assert!(!explanation.found, "{name}");
        let (_, differences) = explanation.nearest.unwrap();
        assert!(
            differences
                .iter()
                .any(|difference| difference.input == *name),
            "{name}: {differences:?}"
        );
        assert!(differences.len() <= 2, "{name}: {differences:?}");
    }
}

#[test]
fn what_changes_no_token_changes_nothing() {
    let changes: &[Change] = &[
        ("another rate", |_, c| c.learning_rate = 1.0),
        ("another batch", |_, c| c.micro_batch_size = 8),
        ("another output", |_, c| c.output_dir = "elsewhere".into()),
        ("the same file elsewhere", |lab, c| {
            fs::create_dir(lab.path().join("moved")).unwrap();
            fs::rename(
                lab.path().join("data.jsonl"),
                lab.path().join("moved/data.jsonl"),
            )
            .unwrap();
            c.datasets[0].path = lab.path().join("moved/data.jsonl");
        }),
        ("a file that is not read", |lab, _| {
            lab.write("vocab.json", "{}");
        }),
        ("another time of change", |lab, _| {
            let bytes = fs::read(lab.path().join("data.jsonl")).unwrap();
            lab.write("data.jsonl", bytes);
        }),
    ];
    for (name, change) in changes {
        let lab = Lab::new("<|im_end|>");
        let mut config = chats(&lab);
        let (before, _) = run(&lab, &config);
        change(&lab, &mut config);
        let (prepared, outcome) = run(&lab, &config);
        assert!(loaded(&outcome), "{name}");
        assert_eq!(prepared.train, before.train, "{name}");
        // The account names the file where it is now.
        assert_eq!(prepared.ledger.datasets[0].path, config.datasets[0].path);
    }
}

#[test]
fn the_explanation_as_text() {
    let lab = Lab::new("<|im_end|>");
    let mut config = chats(&lab);
    let text = |config: &Config| {
        let tokenizer = lab.tokenizer();
        let key = Fingerprint::new(config, &tokenizer).unwrap().key();
        let explanation = explain_cache(config, &tokenizer).unwrap();
        explanation
            .to_string()
            .replace(&format!("{}/", lab.path().display()), "")
            .replace(&lab.path().display().to_string(), "FOLDER")
            .replace(&key, "HERE")
    };
    assert_eq!(
        text(&config),
        "there is no prepared data set prepared/HERE\nprepared holds no other\n"
    );
    let first = Fingerprint::new(&config, &lab.tokenizer()).unwrap().key();
    let (_, outcome) = run(&lab, &config);
    assert_eq!(
        text(&config),
        "the prepared data set prepared/HERE is used\n"
    );
    fs::write(stored(&outcome).0.join("eval.order"), "").unwrap();
    let damaged = text(&config);
    assert!(
        damaged.starts_with("the prepared data set prepared/HERE is damaged: eval.order is "),
        "{damaged}"
    );
    config.sequence_len = 100;
    config.eval_sequence_len = Some(64);
    assert_eq!(
        text(&config).replace(&first, "FIRST"),
        "there is no prepared data set prepared/HERE\n\
         the nearest of 1 others is FIRST:\n  \
         setting eval_sequence_len: absent there, 64 here\n  \
         setting sequence_len: 256 there, 100 here\n"
    );
}

#[test]
fn preferences_are_kept_by_their_objective() {
    let lab = Lab::new("</s>");
    let row = |i: usize| {
        json!({"prompt": format!("question {i}"), "chosen": "yes ".repeat(i + 1),
               "rejected": "no", "label": i.is_multiple_of(2), "completion": format!("answer {i}"),
               "completions": ["a", "b"], "labels": [true, false], "margin": 0.5})
    };
    let rows: Vec<Value> = (0..20).map(row).collect();
    let strategy = |name: &str| serde_json::from_value(json!(name)).unwrap();
    for (name, objective) in [
        ("chatml.prompt_pairs", PreferenceObjective::Pairwise),
        ("chatml.prompt_pairs", PreferenceObjective::Orpo),
        ("chatml.ultra", PreferenceObjective::Kto),
        (
            "stepwise_supervised",
            PreferenceObjective::ProcessRewardModel,
        ),
    ] {
        let mut config = config(lab.rows(strategy(name), &rows));
        config.chat_template = Some("chatml".to_owned());
        config.val_set_size = 3.0;
        config.shuffle_merged_datasets = true;
        config.dataset_prepared_path = Some(lab.path().join("prepared"));
        let tokenizer = lab.tokenizer();
        let plain = prepare_preferences(&config, &tokenizer, objective).unwrap();
        let run = || prepare_preferences_cached(&config, &tokenizer, objective).unwrap();
        let (first, outcome) = run();
        let (entry, damaged) = stored(&outcome);
        assert_eq!((&first, damaged), (&plain, None), "{name}");
        let (again, outcome) = run();
        assert!(loaded(&outcome), "{name}");
        assert_eq!(again, plain);
        assert_eq!((again.train.len(), again.eval.len()), (17, 3));
        let file = entry.join("samples.tokens");
        let mut bytes = fs::read(&file).unwrap();
        bytes[20] ^= 1;
        fs::write(&file, bytes).unwrap();
        let (mended, outcome) = run();
        assert!(stored(&outcome).1.is_some(), "{name}");
        assert_eq!(mended, plain);
    }
    // Nothing is shared: pairs for DPO are not those for ORPO.
    let names = names(&lab.path().join("prepared"));
    assert_eq!(
        names.iter().filter(|name| !name.starts_with('.')).count(),
        4
    );
}

/// An estimate finds prepared samples by the size of the files, without reading them; a
/// run does not.
#[test]
fn prepared_samples_are_found_by_size() {
    let lab = Lab::new("<|im_end|>");
    let config = chats(&lab);
    let tokenizer = lab.tokenizer();
    run(&lab, &config);
    let found = |config: &Config, search| {
        let found = trainer_data::find_prepared(config, &tokenizer, search).unwrap();
        found.map(|prepared| prepared.train.len())
    };
    let whole = found(&config, Search::Content);
    assert!(whole.is_some());
    assert_eq!(found(&config, Search::Size), whole);
    // Other data of the same size, which nobody could tell without reading it.
    let path = config.datasets[0].path.clone();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("question 1", "question 2", 1)).unwrap();
    assert_eq!(found(&config, Search::Content), None);
    assert_eq!(found(&config, Search::Size), whole);
    fs::write(&path, format!("{text}\n")).unwrap();
    assert_eq!(found(&config, Search::Size), None);
    let other = Config {
        sequence_len: config.sequence_len + 1,
        ..config
    };
    fs::write(&path, text).unwrap();
    assert_eq!(found(&other, Search::Size), None);
}

/// Files and first rows are looked at, and nothing behind them.
#[test]
fn data_sets_are_looked_at_without_being_read() {
    let lab = Lab::new("<|im_end|>");
    let config = chats(&lab);
    let tokenizer = lab.tokenizer();
    let found = |config: &Config| -> Vec<String> {
        let found = trainer_data::check_data(config, Some(&tokenizer), None);
        let lines = found
            .iter()
            .map(|(place, error)| format!("{place}: {error}"));
        lines.collect()
    };
    let with = |change: &dyn Fn(&mut trainer_config::Dataset)| {
        let mut config = config.clone();
        change(&mut config.datasets[0]);
        found(&config).concat()
    };
    assert_eq!(found(&config), [""; 0]);
    let missing = with(&|set| set.path.push("gone.jsonl"));
    assert!(missing.starts_with("datasets.0: data file "), "{missing}");
    let alpaca = with(&|set| set.strategy = Some(PromptStrategy::Alpaca));
    assert!(
        alpaca.contains("line 1: no column `instruction`"),
        "{alpaca}"
    );
    // The first row need not be one of a part.
    let part = with(&|set| {
        set.strategy = Some(PromptStrategy::Alpaca);
        set.split = Some("train[3:]".to_owned());
    });
    assert_eq!(part, "");
    let named = with(&|set| set.name = Some("en".to_owned()));
    assert!(
        named.contains("`name` has no effect: this is one file"),
        "{named}"
    );
    let path = config.datasets[0].path.clone();
    let first = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{first}no row\n")).unwrap();
    assert_eq!(found(&config), [""; 0]);
    fs::write(&path, "no row\n").unwrap();
    assert!(
        found(&config).concat().contains("line 1"),
        "{:?}",
        found(&config)
    );
    fs::write(&path, "").unwrap();
    assert!(
        found(&config).concat().contains("has no rows"),
        "{:?}",
        found(&config)
    );
}
