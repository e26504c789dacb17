//! Tokenizer folders: special tokens, offsets, and the way back to disk.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use serde_json::{Value, json};
use trainer_config::{Config, SpecialTokens};
use trainer_data::{Fingerprint, TextStream, Tokenizer};

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
    // Nothing names it, but the tokenizer puts it in front of every text.
    assert_eq!(tokenizer.bos_id(), id("<s>"));
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

/// Training takes hours, in which the folder may change or vanish.
#[test]
fn what_is_saved_is_what_was_loaded() {
    let lab = Lab::new("</s>");
    let files = [
        ("merges.txt", "a b"),
        ("added_tokens.json", r#"{"<unk>": 267}"#),
        ("special_tokens_map.json", r#"{"unk_token": "<unk>"}"#),
        ("chat_template.jinja", "{{ 2 }}"),
    ];
    for (name, text) in files {
        lab.write(name, text);
    }
    let (plain, config) = (
        lab.tokenizer(),
        vocabulary(&lab, json!({"tokens": ["<tool>"]})),
    );
    let extended = Tokenizer::from_config(&config).unwrap();
    let saved = |tokenizer: &Tokenizer| {
        let out = tempfile::tempdir().unwrap();
        tokenizer.save(out.path()).unwrap();
        let entries = std::fs::read_dir(out.path()).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_owned();
            (name, std::fs::read(path).unwrap())
        });
        entries.collect::<BTreeMap<_, _>>()
    };
    let keys = Config::default();
    let state = || {
        let tokenizers = [&plain, &extended];
        tokenizers.map(|tokenizer| {
            let key = Fingerprint::new(&keys, tokenizer).unwrap().key();
            let gguf = tokenizer.to_gguf(300).map_err(|error| error.to_string());
            (saved(tokenizer), key, gguf)
        })
    };
    let before = state();
    assert_eq!(before[0].0.len(), 6);
    assert_eq!(before[0].0[OsStr::new("merges.txt")], b"a b");

    // Another tokenizer was saved there before.
    let out = tempfile::tempdir().unwrap();
    std::fs::write(out.path().join("vocab.txt"), "a").unwrap();
    std::fs::write(out.path().join("notes.txt"), "a").unwrap();
    plain.save(out.path()).unwrap();
    assert!(!out.path().join("vocab.txt").exists());
    assert!(out.path().join("notes.txt").exists());

    for name in ["tokenizer.json", "merges.txt", "added_tokens.json"] {
        lab.write(name, "{}");
    }
    assert!(before == state(), "changed files");
    std::fs::remove_dir_all(lab.path()).unwrap();
    assert!(before == state(), "no folder");
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
}

fn vocabulary(lab: &Lab, keys: Value) -> Config {
    let mut config = json!({
        "base_model": lab.path(),
        "datasets": [{"path": "x", "type": "completion"}],
        "learning_rate": 1.0,
    });
    config
        .as_object_mut()
        .unwrap()
        .extend(keys.as_object().unwrap().clone());
    serde_json::from_value(config).unwrap()
}

/// New tokens follow the vocabulary, are found in text, and the saved folder gives
/// the same ids.
#[test]
fn new_tokens_are_added_and_saved() {
    let lab = Lab::new("</s>");
    let last = 256 + SPECIAL.len() as u32;
    lab.write("added_tokens.json", r#"{"<unk>": 267}"#);
    let config = vocabulary(
        &lab,
        json!({
            "tokens": ["<tool>", "a", "</tool>"],
            "special_tokens": {
                "pad_token": "[PAD]",
                "additional_special_tokens": ["<|call|>", "<|im_end|>"],
            },
            "added_tokens_overrides": {"262": "<|think|>"},
        }),
    );
    let tokenizer = Tokenizer::from_config(&config).unwrap();
    let new = [
        ("[PAD]", last),
        ("<|call|>", last + 1),
        ("<tool>", last + 2),
        ("</tool>", last + 3),
    ];
    let expected: Vec<(String, u32)> = new.map(|(text, id)| (text.to_owned(), id)).into();
    assert_eq!(tokenizer.new_tokens(), expected);
    assert_eq!(tokenizer.vocab_size(), last as usize + 4);
    assert_eq!(tokenizer.pad_id(), Some(last));
    assert!(tokenizer.is_special(last + 1) && !tokenizer.is_special(last + 2));
    let text = "x<tool><|call|><|think|></tool>a<|im_end|>";
    let ids = tokenizer.encode(text, false).unwrap();
    let a = tokenizer.token_to_id("a").unwrap();
    let end = id("<|im_end|>").unwrap();
    assert_eq!(ids[1..], [last + 2, last + 1, 262, last + 3, a, end]);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    assert_eq!(
        tokenizer.token_to_id("<end_of_turn>"),
        None,
        "was token 262"
    );

    let out = tempfile::tempdir().unwrap();
    tokenizer.save(out.path()).unwrap();
    let back = Tokenizer::from_dir(out.path(), &SpecialTokens::default()).unwrap();
    assert_eq!(back.encode(text, false).unwrap(), ids);
    assert_eq!(back.pad_id(), Some(last));
    assert!(back.new_tokens().is_empty());
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(out.path().join(name)).unwrap()).unwrap()
    };
    assert_eq!(
        read("tokenizer_config.json")["additional_special_tokens"],
        json!(["<|call|>", "<|im_end|>"])
    );
    let listed = read("added_tokens.json");
    assert_eq!(
        (&listed["<|think|>"], &listed["<tool>"]),
        (&json!(262), &json!(last + 2))
    );
}

#[test]
fn tokens_that_cannot_be_overridden() {
    let lab = Lab::new("</s>");
    let message = |id: &str, text: &str| {
        let config = vocabulary(&lab, json!({"added_tokens_overrides": {id: text}}));
        let error = Tokenizer::from_config(&config).unwrap_err();
        lab.message(&error).replace("FOLDER", "F")
    };
    let start =
        |id: &str| format!("`added_tokens_overrides`: token {id} of F cannot be replaced: ");
    assert_eq!(
        message("65", "x"),
        start("65") + "\"x\" is token 120 already"
    );
    assert_eq!(
        message("65", "<new>"),
        start("65")
            + "it is none of the tokens that were added to the vocabulary; it has no reserved ones; \
               add the text to `tokens`"
    );
    assert_eq!(
        message("257", "<new>"),
        start("257") + "\"</s>\" is the tokenizer's eos_token, which other files name"
    );
}

/// The pieces are the whole, no piece ends within a character, and a stop text
/// never shows, however it is spread over tokens.
#[test]
fn text_streams_give_whole_characters_and_end_before_a_stop_text() {
    let tokenizer = Lab::new("</s>").tokenizer();
    let text = "a\u{e9}\u{1f600} <b> \u{4e2d}<|im_end|>z";
    let ids = tokenizer.encode(text, false).unwrap();
    let run = |ids: &[u32], stops: &[&str], skip: bool| {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut stream = TextStream::new(&tokenizer, skip, &stops);
        let mut pieces: Vec<String> = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        pieces.push(stream.finish().unwrap());
        assert!(stream.push(65).unwrap().is_empty() || !stream.stopped());
        (pieces, stream.stopped())
    };
    let (pieces, stopped) = run(&ids, &[], false);
    assert_eq!(pieces.concat(), text);
    assert_eq!(pieces[..4], ["a", "", "\u{e9}", ""]);
    assert!(!stopped);
    assert_eq!(
        run(&ids, &[], true).0.concat(),
        text.replace("<|im_end|>", "")
    );
    // The emoji is three tokens that end nothing, then one that ends it.
    assert!(run(&ids[..5], &[], false).0.concat().ends_with('\u{FFFD}'));

    for (stops, expected) in [
        (&["<b>"][..], "a\u{e9}\u{1f600} "),
        (&["<b>x", "\u{4e2d}"], "a\u{e9}\u{1f600} <b> "),
        (&["d>", "b>", "<b"], "a\u{e9}\u{1f600} "),
        (&["<|im_end|>"], "a\u{e9}\u{1f600} <b> \u{4e2d}"),
        (&[" <b> \u{4e2d}<|im_end|>z"], "a\u{e9}\u{1f600}"),
        (&["z"], &text[..text.len() - 1]),
    ] {
        let (pieces, stopped) = run(&ids, stops, false);
        assert_eq!(pieces.concat(), expected, "{stops:?}");
        assert!(stopped, "{stops:?}");
    }
    // What only looked like a stop text comes at the end.
    let (pieces, stopped) = run(&ids, &["<b> \u{4e2d}<|im_end|>zz", ""], false);
    assert_eq!((pieces.concat().as_str(), stopped), (text, false));
}

/// The tokenizer of a Qwen 2 model has `<|endoftext|>`, whatever its files say,
/// because transformers puts it there. A part that a file names stays as named.
#[test]
fn the_token_that_qwen2_implies() {
    let lab = Lab::new("</s>");
    let load = || Tokenizer::from_dir(lab.path(), &SpecialTokens::default()).unwrap();
    let last = 256 + SPECIAL.len() as u32;
    lab.write("config.json", r#"{"model_type": "qwen3"}"#);
    assert!(load().new_tokens().is_empty());
    lab.write("config.json", r#"{"model_type": "qwen2"}"#);
    let tokenizer = load();
    assert_eq!(tokenizer.new_tokens(), [("<|endoftext|>".to_owned(), last)]);
    assert!(tokenizer.new_tokens_are_implied());
    assert_eq!(tokenizer.pad_id(), id("<pad>"));
    assert_eq!(tokenizer.eos_id(), id("</s>"));
    let config = vocabulary(&lab, json!({"tokens": ["<tool>"]}));
    let tokenizer = Tokenizer::from_config(&config).unwrap();
    assert_eq!(tokenizer.new_tokens().len(), 2);
    assert!(!tokenizer.new_tokens_are_implied());
    lab.write(
        "tokenizer_config.json",
        json!({"eos_token": "</s>", "unk_token": null}).to_string(),
    );
    assert_eq!(load().pad_id(), Some(last));
    assert!(load().eos_id() == id("</s>"));
}

/// What SentencePiece does: of all pairs of neighbours whose concatenation is a token,
/// merge the one with the highest score, the leftmost of several; characters that are no
/// token are bytes.
fn merged(text: &str, tokens: &[(&str, f32, i32)]) -> Vec<u32> {
    let id = |piece: &str| tokens.iter().position(|(token, ..)| *token == piece);
    let mut pieces: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let pairs = pieces.windows(2).enumerate();
        let best = pairs
            .filter_map(|(at, pair)| Some((at, tokens[id(&pair.concat())?].1)))
            .reduce(|best, next| if next.1 > best.1 { next } else { best });
        let Some((at, _)) = best else { break };
        let right = pieces.remove(at + 1);
        pieces[at].push_str(&right);
    }
    let bytes = |piece: &str| -> Vec<u32> {
        let byte = |b: u8| id(&format!("<0x{b:02X}>")).unwrap() as u32;
        piece.bytes().map(byte).collect()
    };
    let ids = pieces.iter().map(|piece| match id(piece) {
        Some(id) => vec![id as u32],
        None => bytes(piece),
    });
    ids.flatten().collect()
}

/// A vocabulary of SentencePiece in a GGUF file becomes a tokenizer that merges as
/// SentencePiece does, and goes back.
#[test]
fn a_vocabulary_with_scores_comes_from_gguf() {
    let bytes: Vec<String> = (0..=255_u8).map(|b| format!("<0x{b:02X}>")).collect();
    let mut tokens: Vec<(&str, f32, i32)> = vec![
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<turn>", 0.0, 4),
    ];
    tokens.extend(bytes.iter().map(|byte| (byte.as_str(), 0.0, 6)));
    for (rank, piece) in [
        "he",
        "ll",
        "th",
        "\u{2581}t",
        "hell",
        "the",
        "\u{2581}the",
        "hello",
        "\u{2581}\u{2581}",
        "el",
        "elo",
        "lo",
        "\u{2581}",
        "h",
        "e",
        "l",
        "o",
        "t",
    ]
    .into_iter()
    .enumerate()
    {
        tokens.push((piece, -(rank as f32), 1));
    }
    for add_space_prefix in [false, true] {
        let vocabulary = trainer_data::GgufVocabulary {
            model: "llama".into(),
            pre: "default".into(),
            tokens: tokens.iter().map(|(text, ..)| (*text).to_owned()).collect(),
            types: tokens.iter().map(|(_, _, kind)| *kind).collect(),
            scores: Some(tokens.iter().map(|(_, score, _)| *score).collect()),
            merges: Vec::new(),
            bos: Some(1),
            eos: Some(2),
            pad: None,
            unk: Some(0),
            add_bos: true,
            add_eos: false,
            add_space_prefix,
            chat_template: None,
            named_templates: Vec::new(),
        };
        let folder = tempfile::tempdir().unwrap();
        let file = std::path::Path::new("model.gguf");
        vocabulary.write(folder.path(), file).unwrap();
        let tokenizer = Tokenizer::from_dir(folder.path(), &SpecialTokens::default()).unwrap();
        for text in [
            "hello",
            "the hello",
            "hellothe  the",
            "   he\nllo ",
            "telo lolhe",
            "h\u{e9}llo \u{1f600}",
        ] {
            let spaced = text.replace(' ', "\u{2581}");
            let spaced = match add_space_prefix {
                true => format!("\u{2581}{spaced}"),
                false => spaced,
            };
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(ids, merged(&spaced, &tokens), "{text:?}");
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        }
        let ids = tokenizer.encode("<turn>he</s>", true).unwrap();
        assert_eq!((ids[..2].to_vec(), ids.last()), (vec![1, 3], Some(&2)));
        // Numbers of the order in place of the scores, and otherwise the same.
        let back = tokenizer.to_gguf(tokens.len()).unwrap();
        assert_eq!(
            trainer_data::GgufVocabulary {
                scores: vocabulary.scores.clone(),
                ..back
            },
            vocabulary
        );
        let few = trainer_data::GgufVocabulary {
            scores: Some(vec![0.0]),
            ..vocabulary
        };
        let error = few.write(folder.path(), file).unwrap_err().to_string();
        assert!(error.contains("278 tokens have 1 scores"), "{error}");
    }
}
