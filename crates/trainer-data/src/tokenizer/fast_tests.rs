//! The fast path beside the library.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Bytes, some merges, and four added tokens, one of which begins with
/// another and one of which is matched in normalized text.
fn tokenizer(pre_tokenizer: &Value, normalizer: &Value, added: Value) -> tokenizers::Tokenizer {
    let mut vocab: Map<String, Value> = byte_chars()
        .iter()
        .zip(0..)
        .map(|(c, id)| (c.to_string(), json!(id)))
        .collect();
    let merges = [
        "t h",
        "th e",
        "Ġ the",
        "i n",
        "Ġ a",
        "l l",
        "' ll",
        "0 0",
        "Ġ Ġ",
        "ĠĠ ĠĠ",
        "Ċ Ċ",
        "Ã ©",
        "Ġ Ã©",
        "ä ½",
        "ð Ł",
        "ðŁ ĺ",
        "Ì ģ",
    ];
    for merge in merges {
        vocab.insert(merge.replace(' ', ""), json!(vocab.len()));
    }
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [300], "tokens": ["<s>"]}},
        },
        "decoder": null,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    });
    serde_json::from_value(json).unwrap()
}

fn added(strip: bool) -> Value {
    let token = |id: u32, content: &str, normalized: bool, strip: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": strip,
               "rstrip": false, "normalized": normalized, "special": !normalized})
    };
    json!([
        token(300, "<s>", false, false),
        token(301, "<s><s>", false, strip),
        token(302, "the", true, false),
        token(303, "\u{e9}", true, false),
    ])
}

fn pre_tokenizers() -> Vec<Value> {
    let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex});
    let digits = |alone: bool| json!({"type": "Digits", "individual_digits": alone});
    let split = json!({"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": false});
    let sequence = |stages: &[Value]| json!({"type": "Sequence", "pretokenizers": stages});
    vec![
        byte_level(true),
        byte_level(false),
        sequence(&[split, byte_level(false)]),
        sequence(&[digits(true), byte_level(true)]),
        sequence(&[digits(false), byte_level(true)]),
    ]
}

#[test]
fn known_configurations_have_a_fast_path() {
    for normalizer in [Value::Null, json!({"type": "NFC"})] {
        for pre_tokenizer in pre_tokenizers() {
            let tokenizer = tokenizer(&pre_tokenizer, &normalizer, added(false));
            assert!(Fast::new(&tokenizer).is_some(), "{pre_tokenizer}");
        }
    }
}

#[test]
fn other_configurations_are_left_to_the_library() {
    let plain = &pre_tokenizers()[0];
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        ]})
    };
    let prefix = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
    let cases = [
        (plain, json!({"type": "Lowercase"}), added(false)),
        (plain, Value::Null, added(true)),
        (&prefix, Value::Null, added(false)),
        // Automata can do neither.
        (&split(r"\w++|\W"), Value::Null, added(false)),
        (&split(r"\p{N}{1,3}+|.|\s"), Value::Null, added(false)),
        (&split(r"\w+(?=\w)|.|\s"), Value::Null, added(false)),
    ];
    for (pre_tokenizer, normalizer, added) in cases {
        let tokenizer = tokenizer(pre_tokenizer, &normalizer, added);
        assert!(Fast::new(&tokenizer).is_none(), "{pre_tokenizer}");
    }
    assert!(Words::new(r"\p{L}+|\s+").is_some());
}

#[test]
fn a_byte_without_a_token_is_left_to_the_library() {
    let mut json =
        serde_json::to_value(tokenizer(&pre_tokenizers()[0], &Value::Null, added(false))).unwrap();
    json["model"]["vocab"].as_object_mut().unwrap().remove("Z");
    let tokenizer: tokenizers::Tokenizer = serde_json::from_value(json).unwrap();
    let fast = Fast::new(&tokenizer).unwrap();
    assert_eq!(fast.encode(tokenizer.get_model(), "aZb", false, true), None);
    // The words before it have left nothing behind.
    let encoded = fast
        .encode(tokenizer.get_model(), "ab", false, true)
        .unwrap();
    assert_eq!(encoded.offsets, [0..1, 1..2]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tokens_are_those_of_the_library(
        text in r"([ -~]|[ \n\r\t]|the|'ll|'S|<s>|<s><s>|00|\PC|é|e\u{301}|😀|你|\s){0,40}",
        which in 0_usize..5,
        composed in any::<bool>(),
        special in any::<bool>(),
    ) {
        let normalizer = if composed { json!({"type": "NFC"}) } else { Value::Null };
        let tokenizer = tokenizer(&pre_tokenizers()[which], &normalizer, added(false));
        let fast = Fast::of(&tokenizer).unwrap();
        let expected = tokenizer.encode(text.as_str(), special).unwrap();
        // Twice: words that are new and words that are known.
        for _ in 0..2 {
            match fast.encode(tokenizer.get_model(), &text, special, true) {
                Some(encoded) => {
                    prop_assert_eq!(&encoded.ids, expected.get_ids());
                    let offsets: Vec<_> = encoded.offsets.iter().map(|r| (r.start, r.end)).collect();
                    prop_assert_eq!(&offsets, expected.get_offsets());
                }
                None => prop_assert!(composed && !is_nfc(&text)),
            }
        }
    }
}
