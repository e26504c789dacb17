//! What a run runs on, and the command that repeats it.

use std::fs;
use std::path::PathBuf;

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

/// What was typed, with the environment variables that are part of the
/// configuration, for a shell.
pub(crate) fn command() -> String {
    let mut variables: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("TRAINER__"))
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
        quoted(&word.to_string_lossy())
    });
    variables.chain(words).collect::<Vec<_>>().join(" ")
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
    use super::quoted;

    #[test]
    fn words_are_quoted_for_a_shell() {
        let got = ["--lr=1e-4", "", "a b", "it's", "$HOME"].map(quoted);
        assert_eq!(got, ["--lr=1e-4", "''", "'a b'", r"'it'\''s'", "'$HOME'"]);
    }
}
