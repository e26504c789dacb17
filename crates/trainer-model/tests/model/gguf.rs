//! GGUF files: what is exported comes back, and what a file says is checked.

use std::fs;
use std::path::Path;

use trainer_model::{CausalLm, GgufExport, GgufType, GgufValue, SaveDtype, export_gguf, open_gguf};

use crate::{cpu, folder, load, values};

fn export(model: &CausalLm, path: &Path, format: GgufType) -> Vec<String> {
    let export = GgufExport {
        name: "a name".into(),
        format,
        tokenizer: vec![
            (
                "tokenizer.ggml.model".into(),
                GgufValue::Text("gpt2".into()),
            ),
            (
                "tokenizer.ggml.tokens".into(),
                GgufValue::Texts(vec!["ä".into(), String::new()]),
            ),
            (
                "tokenizer.ggml.scores".into(),
                GgufValue::F32s(vec![0.5, -1.0]),
            ),
            (
                "tokenizer.ggml.token_type".into(),
                GgufValue::I32s(vec![1, -3]),
            ),
            ("tokenizer.ggml.add_bos_token".into(), GgufValue::Bool(true)),
            ("a.number".into(), GgufValue::I32(-7)),
        ],
    };
    export_gguf(model, &export, path).unwrap()
}

/// Weights and configuration of every family survive, bit for bit in F32.
#[test]
fn an_exported_model_comes_back() {
    for name in [
        "llama",
        "llama3-rope",
        "mistral-swa",
        "qwen2",
        "qwen3",
        "gemma3",
        "phi3",
    ] {
        let target = tempfile::tempdir().unwrap();
        let path = target.path().join("model.gguf");
        let model = load(&folder(name), &cpu());
        export(&model, &path, GgufType::F32);
        let opened = open_gguf(&path).unwrap();
        assert_eq!(opened.metadata()["general.name"].text(), Some("a name"));
        assert_eq!(opened.metadata()["a.number"], GgufValue::I32(-7));
        assert_eq!(
            opened.metadata()["tokenizer.ggml.tokens"],
            GgufValue::Texts(vec!["ä".into(), String::new()])
        );
        let back = target.path().join("back");
        opened.write(&back, SaveDtype::F32).unwrap();
        let back = load(&back, &cpu());
        let (before, after) = (values(&model), values(&back));
        assert_eq!(before.len(), after.len(), "{name}");
        for (tensor, before) in &before {
            // 1 is added to the norms of Gemma and taken off again.
            let close =
                |(a, b): (&f32, &f32)| (a - b).abs() <= if name == "gemma3" { 1e-7 } else { 0.0 };
            assert!(
                before.iter().zip(&after[tensor]).all(close),
                "{name} {tensor}"
            );
        }
        let logits = |model: &CausalLm| model.next_logits(&[3, 44, 501, 7, 9]).unwrap();
        for (a, b) in logits(&model).iter().zip(logits(&back)) {
            assert!((a - b).abs() < 1e-5, "{name}: {a} {b}");
        }
    }
}

#[test]
fn smaller_formats_are_near() {
    let model = load(&folder("llama"), &cpu());
    let exact = values(&model);
    let mut sizes = Vec::new();
    for (format, step) in [
        (GgufType::F16, 1.0 / 2048.0),
        (GgufType::Bf16, 1.0 / 256.0),
        (GgufType::Q8_0, 1.0 / 127.0),
    ] {
        let target = tempfile::tempdir().unwrap();
        let path = target.path().join("model.gguf");
        let notes = export(&model, &path, format);
        assert!(notes.is_empty(), "{notes:?}");
        sizes.push(fs::metadata(&path).unwrap().len());
        let back = target.path().join("back");
        open_gguf(&path)
            .unwrap()
            .write(&back, SaveDtype::F32)
            .unwrap();
        for (name, got) in values(&load(&back, &cpu())) {
            let want = &exact[&name];
            if !want.len().is_multiple_of(32) || !name.contains("proj") {
                continue;
            }
            for (got, want) in got.chunks(32).zip(want.chunks(32)) {
                let largest = want.iter().fold(0.0_f32, |max, x| max.max(x.abs()));
                for (a, b) in got.iter().zip(want) {
                    assert!((a - b).abs() <= largest * step, "{name}: {a} {b}");
                }
            }
        }
    }
    assert!(sizes[0] > sizes[2] && sizes[0] == sizes[1], "{sizes:?}");
}

#[test]
fn families_without_a_place_in_gguf_are_errors() {
    let target = tempfile::tempdir().unwrap();
    let model = load(&folder("olmo2"), &cpu());
    let export = GgufExport {
        name: String::new(),
        format: GgufType::F32,
        tokenizer: Vec::new(),
    };
    let error = export_gguf(&model, &export, &target.path().join("x")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "models of type \"olmo2\" cannot be exported to GGUF; supported: llama, mistral, qwen2, qwen3, \
         gemma3_text, phi3"
    );
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}

/// A file with these keys (key, type, value as it stands) and tensors (name,
/// sizes, type, offset) and so many bytes of data.
fn file(
    keys: &[(&str, u32, Vec<u8>)],
    tensors: &[(&str, &[u64], u32, u64)],
    data: usize,
) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, kind, value) in keys {
        out.extend(text(key));
        out.extend(kind.to_le_bytes());
        out.extend(value);
    }
    for (name, sizes, kind, offset) in tensors {
        out.extend(text(name));
        out.extend((sizes.len() as u32).to_le_bytes());
        out.extend(sizes.iter().flat_map(|n| n.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(32) + data, 0);
    out
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// Nothing panics, nothing is allocated by a number that the length of the file
/// does not bear out.
#[test]
fn hostile_gguf_files_are_errors() {
    const HUGE: u64 = u64::MAX;
    let list = |kind: u32, length: u64| [&kind.to_le_bytes()[..], &length.to_le_bytes()].concat();
    let counts = |version: u32, tensors: u64, keys: u64| {
        [
            b"GGUF".as_slice(),
            &version.to_le_bytes(),
            &tensors.to_le_bytes(),
            &keys.to_le_bytes(),
            &[0; 40],
        ]
        .concat()
    };
    let with = |tensors: &[(&str, &[u64], u32, u64)], data| file(&[], tensors, data);
    let key = |kind: u32, value: Vec<u8>| file(&[("k", kind, value)], &[], 0);
    let architecture = |name: &str| file(&[("general.architecture", 8, text(name))], &[], 0);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "the file ends in its metadata"),
        (b"GGUX".to_vec(), "not a GGUF file"),
        (b"GGUF\x03\0\0\0".to_vec(), "the file ends in its metadata"),
        (counts(1, 0, 0), "GGUF version 1 is not supported"),
        (counts(0x0300_0000, 0, 0), "is not supported"),
        (counts(3, HUGE, 0), ""),
        (counts(3, 0, HUGE), ""),
        (
            key(8, HUGE.to_le_bytes().to_vec()),
            "key k: a text claims 18446744073709551615 bytes",
        ),
        (
            key(8, [&3_u64.to_le_bytes()[..], b"\xFF\xFE\xFD"].concat()),
            "a text is not UTF-8",
        ),
        (key(99, Vec::new()), "99 is no type of GGUF"),
        (key(7, vec![2]), "2 is neither true nor false"),
        (key(9, list(8, HUGE)), "a list of 18446744073709551615"),
        (key(9, list(0, 1 << 40)), "a list of 1099511627776"),
        (key(9, list(9, 1)), "lists of lists"),
        (key(9, list(77, 1)), "77 is no type of GGUF"),
        (
            file(&[("k", 0, vec![1]), ("k", 0, vec![1])], &[], 0),
            "key k is there twice",
        ),
        (
            file(&[("general.alignment", 4, vec![3, 0, 0, 0])], &[], 0),
            "general.alignment is no usable number",
        ),
        (
            file(&[("general.alignment", 4, vec![0; 4])], &[], 0),
            "general.alignment is no usable number",
        ),
        (with(&[("t", &[1; 5], 0, 0)], 64), "tensor t: 5 dimensions"),
        (with(&[("t", &[1 << 33, 1 << 33], 0, 0)], 64), "overflow"),
        (with(&[("t", &[1 << 62], 0, 0)], 64), "overflow"),
        (
            with(&[("t", &[16], 0, 8)], 128),
            "begins at byte 8, which is no multiple of 32",
        ),
        (
            with(&[("t", &[16], 0, 32)], 64),
            "of 64 bytes begins at byte 32 of 64",
        ),
        (with(&[("t", &[16], 0, HUGE - 31)], 64), "begins at byte"),
        (
            with(&[("t", &[33], 8, 0)], 64),
            "rows of 33 numbers are no whole blocks of Q8_0",
        ),
        (
            with(&[("a", &[16], 0, 0), ("b", &[16], 0, 32)], 128),
            "tensor b begins at byte 32, inside of tensor a, which ends at 64",
        ),
        (
            with(&[("a", &[8], 0, 0), ("a", &[8], 0, 32)], 64),
            "tensor a is described twice",
        ),
        (
            architecture("gpt2"),
            "models of architecture \"gpt2\" are not imported; supported: llama",
        ),
        (architecture("llama"), "there is no llama.embedding_length"),
    ];
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("model.gguf");
    for (bytes, message) in cases {
        fs::write(&path, bytes).unwrap();
        let error = open_gguf(&path).err().unwrap().to_string();
        assert!(error.contains(message), "{message}: {error}");
        assert!(error.starts_with(path.to_str().unwrap()), "{error}");
    }
}

/// A good file with one thing changed.
#[test]
fn damaged_gguf_models_are_errors() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("model.gguf");
    export(&load(&folder("llama"), &cpu()), &path, GgufType::F32);
    let good = fs::read(&path).unwrap();
    let find = |what: &str| {
        let places = good.windows(what.len());
        places
            .into_iter()
            .position(|part| part == what.as_bytes())
            .unwrap()
            + what.len()
    };
    // Behind a key come its type and its value, behind a tensor's name the number
    // of its sizes, the sizes and its type.
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let heads = find("llama.attention.head_count") + 4;
    let layers = find("llama.block_count") + 4;
    let query = find("blk.0.attn_q.weight");
    let embedding = find("token_embd.weight");
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (changed(heads, &[0; 4]), "num_attention_heads"),
        (changed(heads, &[0xFF; 4]), "num_attention_heads"),
        (changed(heads, &3_u32.to_le_bytes()), "num_key_value_heads"),
        (changed(layers, &[0xFF, 0xFF, 0xFF, 0]), "num_hidden_layers"),
        (changed(query - 8, b"X"), "has no counterpart in the model"),
        // A tensor twice; a layer more than the model has, and layers fewer.
        (
            changed(find("blk.1.attn_q.weight") - 15, b"0"),
            "tensor blk.0.attn_q.weight is described twice",
        ),
        (changed(layers, &1_u32.to_le_bytes()), "has no counterpart"),
        (
            changed(layers, &9_u32.to_le_bytes()),
            "there is no tensor blk.2.",
        ),
        (
            changed(query + 20, &99_u32.to_le_bytes()),
            "number format 99 of ggml; supported: F32",
        ),
        (
            changed(heads, &8_u32.to_le_bytes()),
            "the model that the file describes needs [64, 128]",
        ),
        (
            good[..good.len() - 64].to_vec(),
            "was not written or copied to its end",
        ),
        (changed(embedding + 12, &[0xFF; 8]), "token_embd.weight"),
    ];
    for (index, (bytes, message)) in cases.into_iter().enumerate() {
        fs::write(&path, bytes).unwrap();
        let back = target.path().join(index.to_string());
        let result = open_gguf(&path).and_then(|file| file.write(&back, SaveDtype::F32));
        let error = result.unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
}
