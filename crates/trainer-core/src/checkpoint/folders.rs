//! The checkpoints of an output folder: their names, which of them are complete,
//! and which are deleted.

use std::fs;
use std::path::{Path, PathBuf};

use super::manifest::{self, Origin};
use super::state::STATE;
use crate::error::{Result, TrainerError};

const PREFIX: &str = "checkpoint-";

/// Given to a folder before its files are deleted, so that a half-deleted one is
/// not taken for a checkpoint.
const DELETED: &str = ".deleted-";

/// The folder of the checkpoint after `step`.
pub(crate) fn path(output: &Path, step: usize) -> PathBuf {
    output.join(format!("{PREFIX}{step}"))
}

/// The folders named as checkpoints, by their step.
pub(crate) fn all(output: &Path) -> Result<Vec<(usize, PathBuf)>> {
    let entries = match fs::read_dir(output) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(TrainerError::io(output)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(TrainerError::io(output))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let step = name.strip_prefix(PREFIX).and_then(|step| step.parse().ok());
        if let Some(step) = step {
            found.push((step, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Whether a run can go on from a checkpoint; if not, why.
pub(crate) fn check(path: &Path) -> Result<(), String> {
    manifest::check(path)?;
    match path.join(STATE).exists() {
        true => Ok(()),
        false => Err("it holds the model alone (save_only_model)".into()),
    }
}

/// The checkpoint that was written last of those that `takes` accepts by where they come
/// from and `fits`, which returns why one is not, accepts as they are; with why later ones
/// are not. One whose manifest cannot be read comes before the others, by its step.
pub(crate) fn newest<T>(
    output: &Path,
    takes: impl Fn(&Origin) -> bool,
    mut fits: impl FnMut(&Path) -> Result<T, String>,
) -> Result<(Option<(PathBuf, T)>, Vec<String>)> {
    let mut skipped = Vec::new();
    let mut found: Vec<_> = all(output)?
        .into_iter()
        .map(|(step, path)| (manifest::origin(&path).ok(), step, path))
        .filter(|(origin, ..)| origin.as_ref().is_none_or(&takes))
        .collect();
    found.sort_by_key(|(origin, step, _)| {
        let written = origin.as_ref().map_or(u64::MAX, |origin| origin.written);
        (written, *step)
    });
    for (.., path) in found.into_iter().rev() {
        match check(&path).and_then(|()| fits(&path)) {
            Ok(fit) => return Ok((Some((path, fit)), skipped)),
            Err(reason) => skipped.push(format!("{} is skipped: {reason}", path.display())),
        }
    }
    Ok((None, skipped))
}

/// The checkpoint of a run after a step, if there is a complete one.
pub(crate) fn of_run(output: &Path, run: &str, step: usize) -> Option<PathBuf> {
    let path = path(output, step);
    let origin = manifest::complete(&path).ok()?;
    (origin.run == run && origin.step == step).then_some(path)
}

/// When the latest checkpoint was written, as [`Origin::written`] has it; 0 where there is
/// none.
pub(crate) fn latest(output: &Path) -> Result<u64> {
    let found = all(output)?;
    let origins = found
        .iter()
        .filter_map(|(_, path)| manifest::origin(path).ok());
    Ok(origins.map(|origin| origin.written).max().unwrap_or(0))
}

/// Deletes the oldest checkpoints of a run until `limit` are left; those of the steps
/// in `keep` stay and count. Those of another run are not this one's to delete, and do not
/// count; nor does a folder of this name that is no complete checkpoint.
///
/// Returns what could not be deleted, and why.
pub(crate) fn prune(output: &Path, run: &str, limit: usize, keep: &[usize]) -> Result<Vec<String>> {
    let mut found: Vec<(Origin, PathBuf)> = all(output)?
        .into_iter()
        .filter_map(|(_, path)| Some((manifest::complete(&path).ok()?, path)))
        .filter(|(origin, _)| origin.run == run)
        .collect();
    found.sort_by_key(|(origin, _)| origin.written);
    let mut excess = found.len().saturating_sub(limit.max(1));
    let newest = found.pop();
    debug_assert!(newest.is_some(), "one has just been written");
    let mut failed = Vec::new();
    for (origin, path) in found {
        if excess == 0 {
            break;
        }
        if keep.contains(&origin.step) {
            continue;
        }
        excess -= 1;
        if let Err(error) = delete(&path) {
            failed.push(format!("{} could not be deleted: {error}", path.display()));
        }
    }
    Ok(failed)
}

fn delete(path: &Path) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let hidden = path.with_file_name(format!("{DELETED}{name}"));
    if hidden.exists() {
        fs::remove_dir_all(&hidden)?;
    }
    fs::rename(path, &hidden)?;
    fs::remove_dir_all(&hidden)
}

/// Removes what an earlier process left half-written or half-deleted: checkpoints, and
/// files of the model at the end.
pub(crate) fn sweep(output: &Path) {
    let Ok(entries) = fs::read_dir(output) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(DELETED) || is_unfinished(&name) {
            // What cannot be removed takes room and does no other harm.
            let _ = match entry.path().is_dir() {
                true => fs::remove_dir_all(entry.path()),
                false => fs::remove_file(entry.path()),
            };
        }
    }
}

/// `.NAME.PROCESS.tmp`, as [`write_atomically`](trainer_model::write_atomically) and its
/// like name what is not complete yet.
fn is_unfinished(name: &str) -> bool {
    let process = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(".tmp"))
        .and_then(|name| name.rsplit_once('.'));
    // Another writer of such files puts a counter behind the process.
    process.is_some_and(|(name, process)| {
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        !name.is_empty() && process.splitn(2, '-').all(is_number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checkpoints of one run, in the order they were written in.
    fn folder(steps: &[usize]) -> tempfile::TempDir {
        let output = tempfile::tempdir().unwrap();
        add(output.path(), "a", steps);
        output
    }

    fn add(output: &Path, run: &str, steps: &[usize]) {
        for &step in steps {
            let path = path(output, step);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("weights"), "abc").unwrap();
            fs::write(path.join(STATE), "{}").unwrap();
            let origin = Origin::new(run, step, latest(output).unwrap());
            manifest::write(&path, &origin, &[]).unwrap();
        }
    }

    /// The newest checkpoint, of one run or of all.
    fn last(output: &Path, run: Option<&str>) -> Option<PathBuf> {
        let takes = |origin: &Origin| run.is_none_or(|run| origin.run == run);
        let (found, _) = newest(output, takes, |_| Ok(())).unwrap();
        Some(found?.0)
    }

    fn steps(output: &Path) -> Vec<usize> {
        all(output)
            .unwrap()
            .into_iter()
            .map(|(step, _)| step)
            .collect()
    }

    #[test]
    fn the_oldest_go_and_the_best_and_the_newest_stay() {
        let output = folder(&[2, 4, 8, 10]);
        let output = output.path();
        assert_eq!(prune(output, "a", 2, &[2]).unwrap(), Vec::<String>::new());
        assert_eq!(steps(output), [2, 10]);
        prune(output, "a", 0, &[]).unwrap();
        assert_eq!(steps(output), [10]);
    }

    #[test]
    fn a_run_deletes_its_own_and_the_last_one_written_is_the_newest() {
        let output = folder(&[100, 200]);
        let output = output.path();
        // Begun anew in the same folder.
        add(output, "b", &[10, 20, 30]);
        prune(output, "b", 2, &[]).unwrap();
        assert_eq!(steps(output), [20, 30, 100, 200]);
        assert_eq!(last(output, None), Some(path(output, 30)));
        assert_eq!(last(output, Some("a")), Some(path(output, 200)));
        assert_eq!(of_run(output, "a", 200), Some(path(output, 200)));
        assert_eq!(of_run(output, "b", 200), None);
        // Gone on from the first one of the earlier run.
        add(output, "a", &[110]);
        prune(output, "a", 2, &[]).unwrap();
        assert_eq!(steps(output), [20, 30, 110, 200]);
        assert_eq!(last(output, None), Some(path(output, 110)));
        assert_eq!(last(output, Some("b")), Some(path(output, 30)));
        assert_eq!(last(output, Some("c")), None);
    }

    #[test]
    fn incomplete_ones_do_not_count_and_are_left_alone() {
        let output = folder(&[5, 10, 15]);
        let output = output.path();
        fs::write(path(output, 10).join("weights"), "ab").unwrap();
        fs::create_dir(path(output, 7)).unwrap();
        prune(output, "a", 2, &[]).unwrap();
        assert_eq!(steps(output), [5, 7, 10, 15]);
    }

    #[test]
    fn one_of_another_version_is_named_as_such() {
        let output = folder(&[5]);
        let file = path(output.path(), 5).join(manifest::MANIFEST);
        let text =
            r#"{"format": 1, "step": 5, "files": [{"name": "a", "bytes": 1, "blake3": ""}]}"#;
        fs::write(file, text).unwrap();
        let reason = check(&path(output.path(), 5)).unwrap_err();
        assert_eq!(reason, "it has layout 1, this version reads 2");
    }

    #[test]
    fn damaged_checkpoints_are_named_and_passed_over() {
        let output = folder(&[5, 10, 15, 20]);
        fs::write(path(output.path(), 20).join("weights"), "abd").unwrap();
        fs::write(path(output.path(), 15).join("weights"), "ab").unwrap();
        fs::remove_file(path(output.path(), 10).join(manifest::MANIFEST)).unwrap();
        let (found, skipped) = newest(output.path(), |_| true, |_| Ok(())).unwrap();
        assert_eq!(found, Some((path(output.path(), 5), ())));
        let reasons: Vec<_> = skipped
            .iter()
            .map(|text| text.split(" is skipped: ").nth(1).unwrap_or_default())
            .collect();
        assert!(
            reasons[0].starts_with("it is incomplete: manifest.json"),
            "{reasons:?}"
        );
        assert_eq!(reasons[1], "weights is damaged: its hash differs");
        assert_eq!(reasons[2], "weights has 2 bytes, 3 were written");
    }

    #[test]
    fn what_was_left_unfinished_is_swept_away() {
        let output = folder(&[1]);
        fs::create_dir(output.path().join(".checkpoint-2.77.tmp")).unwrap();
        fs::create_dir(output.path().join(".deleted-checkpoint-0")).unwrap();
        let files = [".model.safetensors.77.tmp", ".tokenizer.json.77-3.tmp"];
        let others = [".lock", ".notes.tmp", "a.77.tmp", ".a.b-3.tmp"];
        for name in files.iter().chain(&others) {
            fs::write(output.path().join(name), "").unwrap();
        }
        sweep(output.path());
        let left = fs::read_dir(output.path()).unwrap().flatten();
        let mut left: Vec<_> = left
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        left.sort();
        let mut expected = [&others[..], &["checkpoint-1"]].concat();
        expected.sort_unstable();
        assert_eq!(left, expected);
    }
}
