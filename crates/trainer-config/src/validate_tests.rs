//! Every key against values that it cannot take.

use serde_json::{Map, Value, json};

use crate::load_str;
use crate::shape::{ROOT, Shape};

/// Values of every kind, as they stand in a file.
const VALUES: [&str; 10] = [
    "maybe",
    "true",
    "7",
    "-3",
    "0.5",
    "1e300",
    "[]",
    "[[7]]",
    "{}",
    "{zzz: {}}",
];

/// Stands for the value.
const HERE: &str = "@";

/// Every key with a file that sets it, and nothing else that is not needed.
fn keys(shape: &Shape, path: &str, file: &Value, out: &mut Vec<(String, Value)>) {
    let inner = |name: &str| match path.is_empty() {
        true => name.to_owned(),
        false => format!("{path}.{name}"),
    };
    match shape {
        Shape::Struct { properties, .. } => {
            for (name, shape) in properties {
                let pointer = format!("/{}", inner(name).replace('.', "/"));
                let mut file = file.clone();
                set(&mut file, &pointer, json!(HERE));
                out.push((inner(name), file.clone()));
                keys(shape, &inner(name), &file, out);
            }
        }
        Shape::List { items, .. } => {
            let mut file = file.clone();
            let pointer = format!("/{}", path.replace('.', "/"));
            let entry = match path {
                "datasets" | "test_datasets" => json!({"path": "a.jsonl", "type": "alpaca"}),
                _ => json!(HERE),
            };
            set(&mut file, &pointer, json!([entry]));
            keys(items, &inner("0"), &file, out);
            if !matches!(**items, Shape::Struct { .. }) {
                out.push((inner("0"), file));
            }
        }
        Shape::Map(values) => {
            let mut file = file.clone();
            let pointer = format!("/{}", inner("own").replace('.', "/"));
            set(&mut file, &pointer, json!(HERE));
            out.push((inner("own"), file.clone()));
            keys(values, &inner("own"), &file, out);
        }
        Shape::OneOf(shapes) => {
            for shape in shapes {
                keys(shape, path, file, out);
            }
        }
        _ => {}
    }
}

/// Puts a value where a pointer says; what is in its way becomes an object.
fn set(file: &mut Value, pointer: &str, value: Value) {
    let mut here = file;
    for name in pointer.split('/').skip(1) {
        here = match (name.parse::<usize>(), here) {
            (Ok(index), Value::Array(items)) => &mut items[index],
            (_, here) => {
                if !here.is_object() {
                    *here = Value::Object(Map::new());
                }
                &mut here[name]
            }
        };
    }
    *here = value;
}

#[test]
fn a_value_that_a_key_cannot_take_is_met_with_what_it_can() {
    let minimal = json!({
        "base_model": "m",
        "learning_rate": 0.001,
        "datasets": [{"path": "a.jsonl", "type": "alpaca"}],
    });
    let mut all = Vec::new();
    keys(&ROOT, "", &minimal, &mut all);
    assert!(all.len() > 300, "{} keys", all.len());
    let mut refused = 0;
    let mut silent = Vec::new();
    for (path, file) in &all {
        for value in VALUES {
            let text = file.to_string().replace(&format!("\"{HERE}\""), value);
            let Err(errors) = load_str("c.yaml", &text) else {
                continue;
            };
            for error in errors.diagnostics() {
                let about = format!("`{path}`");
                if !(error.message.starts_with(&about) || error.message.ends_with(&about)) {
                    continue;
                }
                refused += 1;
                // What is wanted stands beside the mark of a number out of range.
                let said = |note: &str| note.starts_with("must be") || note.starts_with("needs");
                if error.help.is_empty() && !error.labels.iter().any(|label| said(&label.note)) {
                    silent.push(format!("{path}: {value}\n{error}"));
                }
                assert!(error.help.iter().all(|help| !help.is_empty()), "{error}");
            }
        }
    }
    assert!(refused > 1000, "{refused} values were refused");
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}
