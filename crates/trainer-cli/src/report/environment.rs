//! What a run runs on, and the command that repeats it.

use std::fs;
use std::path::PathBuf;

use trainer_config::{Loaded, Origin};
use trainer_core::memory;

/// A name and a value for each thing that can change speed or result.
pub(crate) fn environment(backend: &str) -> Vec<(&'static str, String)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    vec![
        ("trainer", env!("CARGO_PKG_VERSION").to_owned()),
        ("backend", backend.to_owned()),
        ("processor", field("/proc/cpuinfo", "model name", ':')),
        ("threads", threads.to_string()),
        ("memory", machine_memory()),
        (
            "system",
            format!(
                "{} ({}, {})",
                field("/etc/os-release", "PRETTY_NAME", '=').trim_matches('"'),
                fs::read_to_string("/proc/sys/kernel/osrelease").map_or_else(
                    |_| std::env::consts::OS.to_owned(),
                    |it| it.trim().to_owned()
                ),
                std::env::consts::ARCH
            ),
        ),
    ]
}

fn machine_memory() -> String {
    let field = field("/proc/meminfo", "MemTotal", ':');
    let kilobytes: Option<u64> = field.split(' ').next().and_then(|it| it.parse().ok());
    kilobytes.map_or(field, |it| format!("{:.1} GiB", memory::gib(it * 1024)))
}

/// The first value of that name in a file of names and values.
fn field(path: &str, name: &str, separator: char) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(separator)?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_else(|| "unknown".to_owned())
}

/// Keys that go on with a run: not for one that is to be made again.
const RESUMING: [(&str, &str); 2] = [
    ("resume_from_checkpoint", "null"),
    ("auto_resume_from_checkpoints", "false"),
];

/// What makes the whole run again, for a shell: what was typed, with the environment
/// variables that are part of the configuration, but for [`RESUMING`]; where the file
/// has these, they are taken back.
pub(crate) fn command(loaded: &Loaded) -> String {
    let of_variable = |name: &str| {
        let key = name.strip_prefix("TRAINER__").map(str::to_lowercase);
        key.filter(|key| !RESUMING.iter().any(|(resuming, _)| resuming == key))
    };
    let mut variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| of_variable(name).is_some())
        .collect();
    variables.sort();
    let variables = variables
        .into_iter()
        .map(|(name, value)| format!("{name}={}", quoted(&value)));
    let words = std::env::args_os().enumerate().map(|(place, word)| {
        let word = match place {
            // The name, not where this copy of the program lies.
            0 => PathBuf::from(word)
                .file_name()
                .unwrap_or_default()
                .to_owned(),
            _ => word,
        };
        word.to_string_lossy().into_owned()
    });
    let words = from_the_beginning(words.collect());
    let words = words.iter().map(|word| quoted(word));
    let keys = &loaded.config.checkpoint;
    let resumes = [
        keys.resume_from_checkpoint.is_some(),
        keys.auto_resume_from_checkpoints,
    ];
    let taken_back = RESUMING.iter().zip(resumes).filter_map(|((key, off), on)| {
        let of_file = matches!(loaded.origins.get(key), Origin::File { .. });
        (on && of_file).then(|| format!("--{key} {off}"))
    });
    let parts: Vec<String> = variables.chain(words).chain(taken_back).collect();
    parts.join(" ")
}

/// Words of a command without [`RESUMING`] and their values.
fn from_the_beginning(words: Vec<String>) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let flag = word.strip_prefix("--").unwrap_or_default();
        let (key, value) = flag.split_once('=').unzip();
        let key = key.unwrap_or(flag);
        if !RESUMING.iter().any(|(resuming, _)| *resuming == key) {
            kept.push(word);
        } else if value.is_none() {
            words.next_if(|next| !next.starts_with("--"));
        }
    }
    kept
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::{from_the_beginning, quoted};

    #[test]
    fn words_are_quoted_for_a_shell() {
        let got = ["--lr=1e-4", "", "a b", "it's", "$HOME"].map(quoted);
        assert_eq!(got, ["--lr=1e-4", "''", "'a b'", r"'it'\''s'", "'$HOME'"]);
    }

    #[test]
    fn a_run_is_made_again_from_its_beginning() {
        let left = |words: &str| {
            let words = words.split(' ').map(str::to_owned).collect();
            from_the_beginning(words).join(" ")
        };
        for resuming in [
            "--auto_resume_from_checkpoints",
            "--auto_resume_from_checkpoints true",
            "--auto_resume_from_checkpoints=true",
            "--resume_from_checkpoint out/checkpoint-5",
        ] {
            let words = format!("trainer train a.yaml {resuming} --seed -1");
            assert_eq!(left(&words), "trainer train a.yaml --seed -1");
        }
        let whole = "trainer train a.yaml --save_steps 5";
        assert_eq!(left(whole), whole);
        assert_eq!(
            left(&format!("{whole} --auto_resume_from_checkpoints")),
            whole
        );
    }
}
