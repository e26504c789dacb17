//! Tokenizer folders: special tokens, offsets, and the way back to disk.

use serde_json::{Value, json};
use trainer_config::SpecialTokens;
use trainer_data::Tokenizer;

use crate::support::{Lab, SPECIAL};

fn id(token: &str) -> Option<u32> {
    SPECIAL
        .iter()
        .zip(256..)
        .find(|(t, _)| **t == token)
        .map(|(_, id)| id)
}

#[test]
fn special_tokens_come_from_the_folder_or_the_configuration() {
    let lab = Lab::new("</s>");
    let tokenizer = lab.tokenizer();
    assert_eq!(tokenizer.bos_id(), id("<s>"));
    assert_eq!(tokenizer.eos_id(), id("</s>"));
    assert_eq!(tokenizer.pad_id(), id("<pad>"));
    assert_eq!(tokenizer.vocab_size(), 256 + SPECIAL.len());

    let chosen = SpecialTokens {
        eos_token: Some("<|im_end|>".into()),
        ..SpecialTokens::default()
    };
    let tokenizer = Tokenizer::from_dir(lab.path(), &chosen).unwrap();
    assert_eq!(tokenizer.eos_id(), id("<|im_end|>"));

    lab.write("tokenizer_config.json", "{}");
    lab.write(
        "special_tokens_map.json",
        r#"{"eos_token": {"content": "</s>"}}"#,
    );
    let tokenizer = lab.tokenizer();
    assert_eq!(tokenizer.bos_id(), None);
    assert_eq!(
        tokenizer.pad_id(),
        id("</s>"),
        "padding falls back to the end of sequence"
    );
}

#[test]
fn offsets_are_the_bytes_of_each_token() {
    let tokenizer = Lab::new("</s>").tokenizer();
    assert!(tokenizer.has_fast_path());
    let text = " a\u{e9}\n<|im_end|> b";
    let encoded = tokenizer.encode_with_offsets(text, false).unwrap();
    let offsets: Vec<_> = encoded.offsets.iter().map(|r| (r.start, r.end)).collect();
    // Both bytes of the accent cover the whole character; no white space is cut.
    assert_eq!(
        offsets,
        [
            (0, 1),
            (1, 2),
            (2, 4),
            (2, 4),
            (4, 5),
            (5, 15),
            (15, 16),
            (16, 17)
        ]
    );
    assert_eq!(tokenizer.encode(text, false).unwrap(), encoded.ids);
    assert_eq!(tokenizer.decode(&encoded.ids, false).unwrap(), text);
    assert_eq!(
        tokenizer.decode(&encoded.ids, true).unwrap(),
        " a\u{e9}\n b"
    );
    assert_eq!(tokenizer.encode(text, true).unwrap()[0], 256);
}

#[test]
fn templates_in_the_configuration() {
    let lab = Lab::new("</s>");
    let set = |template: Value| {
        lab.write(
            "tokenizer_config.json",
            json!({"chat_template": template}).to_string(),
        );
        lab.tokenizer().chat_template().map(str::to_owned)
    };
    assert_eq!(set(json!("one")).as_deref(), Some("one"));
    let list = json!([{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]);
    assert_eq!(set(list).as_deref(), Some("d"));
    assert_eq!(set(json!(null)), None);
}

#[test]
fn a_saved_folder_loads_the_same() {
    let lab = Lab::new("</s>");
    let chosen = SpecialTokens {
        eos_token: Some("<|im_end|>".into()),
        ..SpecialTokens::default()
    };
    let mut tokenizer = Tokenizer::from_dir(lab.path(), &chosen).unwrap();
    tokenizer.set_chat_template("{{ 1 }}");
    let out = tempfile::tempdir().unwrap();
    tokenizer.save(out.path()).unwrap();
    let back = Tokenizer::from_dir(out.path(), &SpecialTokens::default()).unwrap();
    assert_eq!(back.eos_id(), id("<|im_end|>"));
    assert_eq!(back.bos_id(), id("<s>"));
    assert_eq!(back.chat_template(), Some("{{ 1 }}"));
    assert_eq!(
        std::fs::read(out.path().join("tokenizer.json")).unwrap(),
        std::fs::read(lab.path().join("tokenizer.json")).unwrap()
    );
}

#[test]
fn folders_that_cannot_be_loaded() {
    let lab = Lab::new("</s>");
    let load = |name: &str, chosen: SpecialTokens| {
        lab.message(&Tokenizer::from_dir(lab.path().join(name), &chosen).unwrap_err())
    };
    std::fs::create_dir(lab.path().join("model")).unwrap();
    assert_eq!(
        load("modle", SpecialTokens::default()),
        "tokenizer folder modle does not exist; did you mean model?"
    );
    assert_eq!(
        load("model", SpecialTokens::default()),
        "cannot load the tokenizer from model: there is no tokenizer.json"
    );
    lab.write("model/tokenizer.json", "{");
    assert_eq!(
        load("model", SpecialTokens::default()),
        "cannot load the tokenizer from model/tokenizer.json: EOF while parsing an object at line 1 column 1"
    );
    let chosen = SpecialTokens {
        pad_token: Some("[PAD]".into()),
        ..SpecialTokens::default()
    };
    assert_eq!(
        load("", chosen).replace("FOLDER", ""),
        "`special_tokens.pad_token`: \"[PAD]\" is not in the vocabulary of ; name a token that is, adding new ones is not supported"
    );
}
