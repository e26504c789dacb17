//! A byte-level tokenizer of one token a byte, made in a folder of its own, and
//! short ways to write configurations and read masks.

use std::path::{Path, PathBuf};

use seqprep::Sample;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use trainer_config::{Config, Dataset, PromptStrategy, SpecialTokens};
use trainer_data::{DataError, Prepared, Tokenizer, prepare};

/// Special tokens; their ids follow the 256 bytes.
pub(crate) const SPECIAL: [&str; 12] = [
    "<s>",
    "</s>",
    "<pad>",
    "<|im_start|>",
    "<|im_end|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|end|>",
    "<unk>",
];

/// A temporary folder with a tokenizer in it, and room for data files.
pub(crate) struct Lab {
    folder: TempDir,
}

impl Lab {
    /// Bytes as tokens, `<s>` put before every sequence, `eos` at the end.
    pub(crate) fn new(eos: &str) -> Self {
        let lab = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        lab.write("tokenizer.json", tokenizer_json(true).to_string());
        let config = json!({"bos_token": "<s>", "eos_token": {"content": eos, "special": true}, "pad_token": "<pad>"});
        lab.write("tokenizer_config.json", config.to_string());
        lab
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn tokenizer(&self) -> Tokenizer {
        Tokenizer::from_dir(self.path(), &SpecialTokens::default()).unwrap()
    }

    /// Writes rows as JSON lines and makes a data set of them.
    pub(crate) fn rows(&self, strategy: PromptStrategy, rows: &[Value]) -> Dataset {
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        Dataset {
            path: self.write("data.jsonl", lines.join("\n")),
            strategy: Some(strategy),
            ..Dataset::default()
        }
    }

    pub(crate) fn prepare(&self, config: &Config) -> Result<Prepared, DataError> {
        prepare(config, &self.tokenizer())
    }

    /// The message of the error, with the folder's path taken out.
    pub(crate) fn message(&self, error: &DataError) -> String {
        error
            .to_string()
            .replace(&format!("{}/", self.path().display()), "")
            .replace(&self.path().display().to_string(), "FOLDER")
    }
}

/// The message for a file of texts with these bytes.
pub(crate) fn message_of_file(name: &str, bytes: impl AsRef<[u8]>) -> String {
    let lab = Lab::new("</s>");
    let dataset = Dataset {
        path: lab.write(name, bytes),
        strategy: Some(PromptStrategy::Completion),
        ..Dataset::default()
    };
    lab.message(&lab.prepare(&config(dataset)).unwrap_err())
}

/// Rows in file order, no split.
pub(crate) fn config(dataset: Dataset) -> Config {
    Config {
        datasets: vec![dataset],
        shuffle_merged_datasets: false,
        sequence_len: 4096,
        ..Config::default()
    }
}

/// The trained parts of a sample as text.
pub(crate) fn trained(sample: &Sample, tokenizer: &Tokenizer) -> Vec<String> {
    let pairs: Vec<_> = sample.input_ids.iter().zip(&sample.labels).collect();
    pairs
        .chunk_by(|a, b| (*a.1 == -100) == (*b.1 == -100))
        .filter(|run| *run[0].1 != -100)
        .map(|run| {
            let ids: Vec<u32> = run.iter().map(|(id, _)| **id).collect();
            for (id, label) in run {
                assert_eq!(i64::from(**id), i64::from(**label));
            }
            tokenizer.decode(&ids, false).unwrap()
        })
        .collect()
}

/// `tokenizer.json` of the byte-level tokenizer.
pub(crate) fn tokenizer_json(bos: bool) -> Value {
    // GPT-2's table: printable bytes stand for themselves, the others for
    // characters from 256 on.
    let mut next = 256u32;
    let mut vocab = Map::new();
    for byte in 0..256u32 {
        let printable = matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let code = if printable {
            byte
        } else {
            next += 1;
            next - 1
        };
        vocab.insert(char::from_u32(code).unwrap().to_string(), json!(byte));
    }
    let added: Vec<Value> = SPECIAL
        .iter()
        .zip(256..)
        .map(|(token, id)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let template = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [256], "tokens": ["<s>"]}},
    });
    let trim = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0",
        // Stored limits have to be ignored.
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": if bos { json!({"type": "Sequence", "processors": [trim, template]}) } else { trim },
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                  "ignore_merges": false, "vocab": vocab, "merges": []},
    })
}
