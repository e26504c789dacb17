//! What comes from outside must give rows, text or bins, or an error: never a
//! panic, an endless loop or a broken promise.
//!
//! `cargo test -p trainer-fuzz --release` runs each target for a second;
//! `BOLERO_RANDOM_TEST_TIME_MS=600000 BOLERO_RANDOM_ITERATIONS=1000000000` for
//! ten minutes. `cargo bolero test -p trainer-fuzz TARGET` (nightly) runs one
//! guided by coverage.

use std::path::PathBuf;

use bolero::check;
use seqprep::{
    CollateOptions, FirstFitOptions, Packing, PackingError, Sample, best_fit_decreasing,
    best_fit_decreasing_limited, collate_packed, first_fit, group_by_length, sequential,
};
use serde_json::{Value, json};
use trainer_config::{Dataset, DatasetFormat, SpecialTokens};
use trainer_data::{ChatTemplate, Tokenizer, source};

/// Pieces of the formats, so that random bytes get past their first characters.
const PIECES: [&[u8]; 32] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\"",
    b"\\",
    b"\n",
    b"\r\n",
    b"\"text\"",
    b"{\"text\": \"a\"}\n",
    b"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n",
    b"null",
    b"true",
    b"-1e999",
    b"\\ud800",
    b"\\u0000",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\0",
    b"a,b\n1,2\n",
    b"\"a\"\"b\"",
    b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
    b"\x28\xb5\x2f\xfd",
    b"PAR1",
    b"ARROW1\0\0",
    b"\xff\xff\xff\xff",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":",
    b"9999999999999999999",
    b" ",
];

/// Bytes in which some values stand for whole pieces.
fn spelled(input: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(input.len() * 2);
    for &byte in input {
        match byte.checked_sub(0xe0) {
            Some(piece) => bytes.extend_from_slice(PIECES[usize::from(piece)]),
            None => bytes.push(byte),
        }
    }
    bytes
}

fn read(path: PathBuf, ds_type: Option<DatasetFormat>) {
    let dataset = Dataset {
        path,
        ds_type,
        ..Dataset::default()
    };
    let Ok(rows) = source::open(&dataset) else {
        return;
    };
    for row in rows.take(10_000) {
        match row {
            // Which decodes every column.
            Ok(row) => assert!(row.names().len() == row.columns.iter().count()),
            Err(error) => {
                let message = error.to_string();
                assert!(message.contains("fuzzed"), "no file in: {message}");
                break;
            }
        }
    }
}

#[test]
fn readers() {
    let folder = tempfile::tempdir().unwrap();
    let formats = [
        ("fuzzed.json", None),
        ("fuzzed.jsonl", None),
        ("fuzzed.csv", None),
        ("fuzzed.txt", None),
        ("fuzzed.parquet", None),
        ("fuzzed.arrow", None),
        ("fuzzed.jsonl.gz", None),
        ("fuzzed.jsonl.zst", None),
        ("fuzzed", Some(DatasetFormat::Json)),
    ];
    check!()
        .with_type::<(u8, Vec<u8>)>()
        .for_each(|(format, input)| {
            let (name, ds_type) = formats[usize::from(*format) % formats.len()];
            let path = folder.path().join(name);
            std::fs::write(&path, spelled(input)).unwrap();
            read(path, ds_type);
        });
}

/// Files that are right but for a few bytes.
#[test]
fn damaged_files() {
    let folder = tempfile::tempdir().unwrap();
    let whole = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\u{e9}\\n\"}], \"n\": 1.5}\n"
        .repeat(3);
    check!()
        .with_type::<(bool, Vec<(u16, u8)>)>()
        .for_each(|(lines, edits)| {
            let mut bytes = whole.clone().into_bytes();
            for (place, byte) in edits.iter().take(8) {
                let place = usize::from(*place) % bytes.len();
                bytes[place] = *byte;
            }
            let path = folder.path().join(if *lines {
                "fuzzed.jsonl"
            } else {
                "fuzzed.json"
            });
            std::fs::write(&path, bytes).unwrap();
            read(path, None);
        });
}

const WORDS: [&str; 48] = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "-%}",
    "{%-",
    " for ",
    " in ",
    " endfor ",
    " if ",
    " else ",
    " elif ",
    " endif ",
    " set ",
    " x ",
    " = ",
    "messages",
    "message",
    "[",
    "]",
    "(",
    ")",
    ".",
    "'",
    "\"",
    "|",
    " tojson ",
    " trim ",
    " length ",
    "range(",
    "9",
    "0",
    "-1",
    "loop.index0",
    " generation ",
    " endgeneration ",
    " macro ",
    " endmacro ",
    "raise_exception(",
    "strftime_now(",
    ".split(",
    "namespace(",
    " break ",
    " continue ",
    "\n",
    "a",
];

fn template_of(input: &[u8]) -> String {
    input
        .iter()
        .map(|byte| WORDS[usize::from(*byte) % WORDS.len()])
        .collect()
}

#[test]
fn chat_templates() {
    let messages = json!([
        {"role": "user", "content": "a <b> \u{e9}"},
        {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, 2.5]}}}]},
    ]);
    check!().with_type::<Vec<u8>>().for_each(|input| {
        let source = template_of(input);
        if let Ok(template) = ChatTemplate::new("fuzzed", &source, [("eos_token", "</s>")]) {
            // An error is as good as a text.
            drop(template.render(&messages, true));
        }
    });
}

/// Templates that are right but for a few words, so that more of them render.
#[test]
fn damaged_templates() {
    let words = [
        "{% for message in messages %}",
        "{{ '<|' + message['role'] + '|>' }}",
        "{% if loop.first %}",
        "{{ message.content | trim }}",
        "{% else %}",
        "{{ message['content'] }}",
        "{% endif %}",
        "{% generation %}",
        "{{ eos_token }}",
        "{% endgeneration %}",
        "{% endfor %}",
        "{% if add_generation_prompt %}",
        "{{ '<|assistant|>' }}",
        "{% endif %}",
    ];
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    check!().with_type::<Vec<(u8, u8)>>().for_each(|edits| {
        let mut source: Vec<&str> = words.to_vec();
        for (place, word) in edits.iter().take(6) {
            let place = usize::from(*place) % source.len();
            source[place] = WORDS[usize::from(*word) % WORDS.len()];
        }
        if let Ok(template) = ChatTemplate::new("fuzzed", &source.concat(), [("eos_token", "</s>")])
        {
            drop(template.render(&messages, true));
        }
    });
}

/// A byte-level tokenizer with a few merges and added tokens.
fn tokenizer() -> (tempfile::TempDir, Tokenizer) {
    let mut others = 256_u32..;
    let mut vocab = serde_json::Map::new();
    for byte in 0_u32..256 {
        let code = match byte {
            33..=126 | 161..=172 | 174..=255 => byte,
            _ => others.next().unwrap(),
        };
        vocab.insert(char::from_u32(code).unwrap().to_string(), json!(byte));
    }
    let merges = [
        "t h",
        "th e",
        "\u{120} the",
        "i n",
        "0 0",
        "\u{120} \u{120}",
        "\u{c3} \u{a9}",
    ];
    for merge in merges {
        vocab.insert(merge.replace(' ', ""), json!(vocab.len()));
    }
    let token = |id: u32, content: &str| json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true});
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [token(300, "<s>"), token(301, "</s>"), token(302, "<s></s>")],
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    });
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let tokenizer = Tokenizer::from_dir(folder.path(), &SpecialTokens::default()).unwrap();
    (folder, tokenizer)
}

#[test]
fn tokens_give_their_text_back() {
    let (_folder, tokenizer) = tokenizer();
    assert!(tokenizer.has_fast_path());
    check!().with_type::<Vec<u8>>().for_each(|input| {
        let text = String::from_utf8_lossy(&spelled(input)).into_owned();
        let encoded = tokenizer.encode_with_offsets(&text, false).unwrap();
        assert_eq!(tokenizer.encode(&text, false).unwrap(), encoded.ids);
        assert_eq!(tokenizer.decode(&encoded.ids, false).unwrap(), text);
        // Tokens follow one another, and cover every byte.
        let mut end = 0;
        for offsets in &encoded.offsets {
            assert!(offsets.start <= end && offsets.end >= end && offsets.start < offsets.end);
            assert!(text.is_char_boundary(offsets.start) && text.is_char_boundary(offsets.end));
            end = offsets.end;
        }
        assert_eq!(end, text.len());
    });
}

#[test]
fn packers() {
    check!()
        .with_type::<(u32, u8, Vec<(bool, u32)>)>()
        .for_each(|(capacity, limit, lengths)| {
            // Most lengths are small against the capacity, some are anything.
            let lengths: Vec<u32> = lengths
                .iter()
                .map(|(any, len)| {
                    if *any {
                        *len
                    } else {
                        len % capacity.saturating_add(1).max(1)
                    }
                })
                .collect();
            let limits = FirstFitOptions {
                group_size: usize::from(*limit) + 1,
                bin_size: usize::from(*limit),
            };
            let fits = lengths.iter().all(|len| len <= capacity);
            let packed: [Result<Packing, PackingError>; 4] = [
                best_fit_decreasing(&lengths, *capacity),
                best_fit_decreasing_limited(&lengths, *capacity, limits.bin_size),
                first_fit(&lengths, *capacity, limits),
                sequential(&lengths, *capacity),
            ];
            for packing in packed {
                let Ok(packing) = packing else {
                    assert!(!fits || *limit == 0);
                    continue;
                };
                let mut seen = vec![0_u8; lengths.len()];
                for bin in packing.bins() {
                    let tokens: u64 = bin.iter().map(|&i| u64::from(lengths[i as usize])).sum();
                    assert!(tokens <= u64::from(*capacity));
                    bin.iter().for_each(|&i| seen[i as usize] += 1);
                }
                assert!(seen.iter().all(|&times| times == 1));
            }
            assert_eq!(
                group_by_length(&lengths, usize::from(*limit), 1).len(),
                lengths.len()
            );
        });
}

#[test]
fn collation() {
    check!()
        .with_type::<Vec<Vec<(u8, u8, Option<u8>)>>>()
        .for_each(|rows| {
            let rows: Vec<Vec<Sample>> = rows
                .iter()
                .map(|row| {
                    let sample = |(ids, labels, positions): &(u8, u8, Option<u8>)| Sample {
                        input_ids: vec![1; usize::from(*ids)],
                        labels: vec![1; usize::from(*labels)],
                        position_ids: positions.map(|len| vec![5; usize::from(len)]),
                    };
                    row.iter().map(sample).collect()
                })
                .collect();
            if let Ok(batch) = collate_packed(&rows, &CollateOptions::default()) {
                assert_eq!(batch.slots(), batch.input_ids.len());
                let tokens: usize = rows.iter().flatten().map(Sample::len).sum();
                assert_eq!(batch.real_tokens(), tokens);
            }
        });
}

/// The pieces above are no accident of their number.
#[test]
fn every_high_byte_is_a_piece() {
    assert_eq!(spelled(&[0xe0, 0xff, b'a']), [b'{', b' ', b'a']);
    assert!(matches!(
        serde_json::from_slice::<Value>(PIECES[11]),
        Ok(Value::Object(_))
    ));
}
