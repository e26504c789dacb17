//! The documents of the repository, held against the program where what they list can be
//! derived from it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use trainer_config::{CHAT_TEMPLATES, DpoLossType, LrScheduler, Optimizer, json_schema};
use trainer_model::{GgufType, supported};

use crate::args::Cli;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A document with its lines joined, so that a sentence can be found in it.
fn text(path: &str) -> String {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text
        .split_once(start)
        .unwrap_or_else(|| panic!("no {start:?}"));
    rest.split_once(end)
        .unwrap_or_else(|| panic!("no {end:?} behind {start:?}"))
        .0
}

/// What stands between backticks.
fn code(text: &str) -> BTreeSet<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn word(count: usize) -> &'static str {
    const WORDS: [&str; 21] = [
        "no",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
        "twenty",
    ];
    WORDS.get(count).copied().unwrap_or("many")
}

#[test]
fn the_table_of_commands_has_all_of_them() {
    let readme = text("crates/trainer-cli/README.md");
    let listed: BTreeSet<&str> = code(&readme)
        .into_iter()
        .filter_map(|code| code.strip_prefix("trainer ")?.split(' ').next())
        .collect();
    let cli = Cli::command();
    let there: BTreeSet<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
    assert_eq!(listed, there);
}

#[test]
fn the_families_that_are_listed_are_supported() {
    let readme = text("README.md");
    let row = between(&readme, "| models | `model_type` ", "; RoPE scalings");
    let row = row.replace("(Llama 2 and 3.x, SmolLM2)", "");
    let listed: BTreeSet<&str> = row.split(',').map(str::trim).collect();
    let there: BTreeSet<&str> = supported().into_iter().collect();
    assert_eq!(listed, there);
    let families = format!("Models of {} families: ", word(there.len()));
    assert!(text("CHANGELOG.md").contains(&families), "{families}");
}

/// The scalings that the reader names in its error.
#[test]
fn the_rope_scalings_that_are_listed_are_supported() {
    let readme = text("README.md");
    let listed = between(&readme, "RoPE scalings ", " |").replace(" and ", ", ");
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "vocab_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 8,
        "rope_parameters": {"rope_type": "none of them", "rope_theta": 1e4},
    });
    let serde_json::Value::Object(config) = config else {
        panic!("no object");
    };
    let error = trainer_model::ModelConfig::from_json(config, "config.json".into()).unwrap_err();
    let error = error.to_string();
    assert!(
        error.ends_with(&format!("supported: {listed}")),
        "{listed}: {error}"
    );
}

#[test]
fn counts_are_those_of_the_program() {
    let (readme, changes) = (text("README.md"), text("CHANGELOG.md"));
    let templates = CHAT_TEMPLATES.len() - 2;
    let schedules = LrScheduler::NAMES.len();
    let losses = DpoLossType::NAMES.len();
    let files = fs::read_dir(root().join("examples"))
        .unwrap()
        .filter(|file| {
            let path = file.as_ref().unwrap().path();
            path.extension().is_some_and(|end| end == "yaml")
        });
    let runs = word(files.count());
    for (document, sentence) in [
        (&readme, format!("{templates} bundled templates")),
        (&changes, format!("{templates} chat templates")),
        (&readme, format!("all {schedules} names of")),
        (&changes, format!("{schedules} learning-rate schedules")),
        (&readme, format!("DPO with {losses} losses")),
        (&changes, format!("DPO with {losses} losses")),
        (&changes, format!("its data and {runs} runs in `examples/`")),
    ] {
        assert!(document.contains(&sentence), "{sentence}");
    }
}

#[test]
fn optimizers_that_are_listed_are_there() {
    let readme = text("README.md").to_lowercase();
    let row = between(&readme, "| optimizer | ", " with state in 8 bits");
    let listed: BTreeSet<&str> = row
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !matches!(*word, "" | "and"))
        .collect();
    let there: BTreeSet<&str> = Optimizer::NAMES
        .iter()
        .filter_map(|name| name.trim_start_matches("paged_").split('_').next())
        .collect();
    assert_eq!(listed, there);
    let in_8_bits: BTreeSet<&str> = Optimizer::NAMES
        .iter()
        .filter(|name| name.contains("8bit"))
        .filter_map(|name| name.trim_start_matches("paged_").split('_').next())
        .collect();
    assert!(
        row.ends_with(&in_8_bits.into_iter().collect::<Vec<_>>().join(" and ")),
        "{row}"
    );
}

#[test]
fn gguf_types_that_are_listed_are_written() {
    let written = GgufType::WRITTEN.map(|(name, _)| name.to_uppercase());
    let mut sorted = written.to_vec();
    sorted.sort_unstable();
    for (document, start, end) in [
        ("README.md", "phi3; F32", ")"),
        ("CHANGELOG.md", "`trainer export` to GGUF (F32", ")"),
    ] {
        let listed = format!("F32{}", between(&text(document), start, end));
        let mut listed: Vec<&str> = listed.split(", ").collect();
        listed.sort_unstable();
        assert_eq!(listed, sorted, "{document}");
    }
}

/// Keys that Axolotl does not have are marked in the schema.
#[test]
fn new_keys_are_listed_as_such() {
    let page = text("docs/differences.md");
    let bullet = between(&page, "- **New keys**: `backend`", " In the JSON schema");
    let mut listed = code(&format!("`backend`{bullet}"))
        .into_iter()
        .map(str::to_owned)
        .collect::<BTreeSet<_>>();
    listed.retain(|key| !key.contains(' '));
    let schema = json_schema();
    let properties = schema["properties"].as_object().unwrap();
    let marked: BTreeSet<String> = properties
        .iter()
        .filter(|(_, property)| property["x-not-in-axolotl"] == true)
        .map(|(key, _)| key.clone())
        .collect();
    assert_eq!(listed, marked);
}

#[test]
fn dependencies_of_the_lowest_crate_are_listed() {
    let manifest = fs::read_to_string(root().join("crates/seqprep/Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap();
    let dependencies = dependencies.split('[').next().unwrap();
    let there: BTreeSet<&str> = dependencies
        .lines()
        .filter_map(|line| line.split(['.', ' ']).next())
        .filter(|name| !name.is_empty())
        .collect();
    let page = text("docs/architecture.md");
    // Behind a name may stand how it is used.
    let listed: BTreeSet<&str> = between(&page, "| `seqprep` | ", " |")
        .split(',')
        .filter_map(|dependency| dependency.split_whitespace().next())
        .collect();
    assert_eq!(listed, there);
}
