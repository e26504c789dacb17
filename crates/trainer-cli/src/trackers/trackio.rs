//! A run in a database of trackio: an SQLite file for each project, in the folder
//! where `trackio show`, `trackio list` and `trackio.Api()` look.
//!
//! Tables that are missing are made as trackio 0.24 and later has them; those that
//! are there stay as they are, other runs with them. A row has an id made of its
//! run, its step and the names of its values: one that comes a second time, after
//! going back to a checkpoint, takes the place of the first.

use std::collections::HashSet;
use std::env;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use serde_json::{Value, json};
use trainer_core::LogRow;

use super::wire::crc32;
use super::{
    Ending, Log, Mark, Run, at, calendar, drawn_id, hub_name, logged, now, scalars, step_of,
};

/// Tables and indexes of trackio that a run without media, traces and artifacts needs.
const TABLES: &str = "
CREATE TABLE IF NOT EXISTS metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL,
    timestamp TEXT NOT NULL, run_name TEXT NOT NULL, step INTEGER NOT NULL,
    metrics TEXT NOT NULL, log_id TEXT, space_id TEXT);
CREATE TABLE IF NOT EXISTS configs (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL,
    run_name TEXT NOT NULL, config TEXT NOT NULL, created_at TEXT NOT NULL, UNIQUE(run_id));
CREATE TABLE IF NOT EXISTS system_metrics (id INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id TEXT NOT NULL, timestamp TEXT NOT NULL, run_name TEXT NOT NULL,
    metrics TEXT NOT NULL, log_id TEXT, space_id TEXT);
CREATE TABLE IF NOT EXISTS project_metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS idx_metrics_run_step ON metrics(run_id, step);
CREATE INDEX IF NOT EXISTS idx_metrics_run_timestamp ON metrics(run_id, timestamp);
CREATE INDEX IF NOT EXISTS idx_metrics_run_record ON metrics(run_id, run_name, timestamp);
CREATE UNIQUE INDEX IF NOT EXISTS idx_metrics_log_id ON metrics(log_id) WHERE log_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_metrics_pending ON metrics(space_id) WHERE space_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS idx_configs_run_name ON configs(run_name);
";

/// A new row, in place of one of the same id.
const INSERT: &str = "INSERT OR REPLACE INTO metrics \
    (timestamp, run_id, run_name, step, metrics, log_id, space_id) VALUES (?, ?, ?, ?, ?, ?, ?)";

/// Which run a folder is of, so that a training that goes on there continues it.
const MARK: Mark = Mark("trackio.json");

/// How long another process may keep the database before a row is put off.
const PATIENCE: Duration = Duration::from_millis(100);
/// The same at the beginning and the end of a run.
const LONG_PATIENCE: Duration = Duration::from_secs(10);

/// A run that is being written.
pub(super) struct Trackio {
    path: PathBuf,
    connection: Connection,
    id: String,
    name: String,
    space: Option<String>,
    /// Rows that are not written yet.
    waiting: Vec<Row>,
}

struct Row {
    time: String,
    step: i64,
    metrics: Vec<u8>,
    id: String,
}

/// What trackio calls a run.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// As files are called after it.
    pub(super) project: String,
    pub(super) name: Option<String>,
    pub(super) space: Option<String>,
}

impl Trackio {
    /// Begins a run; goes on with that of `output` after `steps_done` steps.
    pub(super) fn create(
        output: &Path,
        names: &Names,
        run: &Run,
        steps_done: usize,
    ) -> io::Result<Self> {
        Self::create_in(&home()?, output, names, run, steps_done)
    }

    fn create_in(
        home: &Path,
        output: &Path,
        names: &Names,
        run: &Run,
        steps_done: usize,
    ) -> io::Result<Self> {
        fs::create_dir_all(home).map_err(at(home))?;
        let path = home.join(format!("{}.db", names.project));
        let connection = {
            let _lock = lock(&home.join(format!("{}.lock", names.project)))?;
            open(&path).map_err(|error| failed(&path, &error))?
        };
        let folder = fs::canonicalize(output)?;
        let mark = (steps_done > 0).then(|| MARK.read(&folder)).flatten();
        let known = mark.and_then(|mark| mark["run_id"].as_str().map(str::to_owned));
        let name = names.name.as_deref().filter(|name| !name.is_empty());
        let mut trackio = Self {
            path,
            connection,
            id: known.unwrap_or_else(|| drawn_id(32)),
            name: name.unwrap_or(&run.name).to_owned(),
            space: names.space.clone(),
            waiting: Vec::new(),
        };
        trackio
            .begin(run, steps_done)
            .map_err(|error| failed(&trackio.path, &error))?;
        MARK.write(
            &folder,
            json!({
                "database": trackio.path.to_string_lossy(),
                "project": names.project,
                "run_id": trackio.id,
                "run_name": trackio.name,
            }),
        )?;
        if steps_done > 0 {
            // Those of a run that had no tracker, or that trackio could not take.
            for row in logged(&folder)? {
                trackio.wait(&row);
            }
            trackio.write_missing()?;
        }
        Ok(trackio)
    }

    /// Writes the configuration, and takes back what came after the checkpoint.
    fn begin(&mut self, run: &Run, steps_done: usize) -> rusqlite::Result<()> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let time = timestamp(now());
        let mut config = run.config.clone();
        config.insert("_Username".to_owned(), Value::Null);
        config.insert("_Created".to_owned(), time.as_str().into());
        config.insert("_Group".to_owned(), Value::Null);
        let earlier: Option<(String, Vec<u8>)> = transaction
            .query_row(
                "SELECT run_name, CAST(config AS BLOB) FROM configs WHERE run_id = ?",
                [&self.id],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        if let Some((name, earlier)) = earlier {
            // A run can be renamed in the dashboard, and put into a group.
            self.name = name;
            if let Ok(Value::Object(mut earlier)) = serde_json::from_slice(&earlier) {
                earlier.retain(|key, _| key.starts_with('_'));
                config.extend(earlier);
            }
        }
        transaction.execute(
            "INSERT OR REPLACE INTO configs (run_id, run_name, config, created_at) \
             VALUES (?, ?, ?, ?)",
            params![
                self.id,
                self.name,
                Value::Object(config).to_string().into_bytes(),
                time
            ],
        )?;
        transaction.execute(
            "DELETE FROM metrics WHERE run_id = ? AND step > ?",
            params![self.id, steps_done as i64],
        )?;
        if let Some(space) = &self.space {
            transaction.execute(
                "INSERT OR REPLACE INTO project_metadata (key, value) VALUES ('space_id', ?)",
                [space],
            )?;
        }
        transaction.commit()
    }

    /// Adds a row to those that are not written yet.
    fn wait(&mut self, row: &LogRow) {
        let step = step_of(row);
        let mut metrics: LogRow = scalars(row)
            .map(|(key, _)| (hub_name(key), row[key].clone()))
            .collect();
        if metrics.is_empty() {
            return;
        }
        let names: Vec<&str> = metrics.keys().map(String::as_str).collect();
        let id = format!(
            "{}-{step}-{:08x}",
            self.id,
            crc32(names.join("\n").as_bytes())
        );
        metrics.insert("train/global_step".to_owned(), step.into());
        self.waiting.push(Row {
            time: timestamp(now()),
            step,
            metrics: Value::Object(metrics).to_string().into_bytes(),
            id,
        });
    }

    /// Writes the rows that wait, but for those that are there.
    fn write_missing(&mut self) -> io::Result<()> {
        let known = || -> rusqlite::Result<HashSet<String>> {
            let mut select = self
                .connection
                .prepare("SELECT log_id FROM metrics WHERE run_id = ? AND log_id IS NOT NULL")?;
            select.query_map([&self.id], |row| row.get(0))?.collect()
        };
        let known = known().map_err(|error| failed(&self.path, &error))?;
        self.waiting.retain(|row| !known.contains(&row.id));
        self.write(LONG_PATIENCE).map(|_| ())
    }

    /// Writes the rows that wait; false if another process keeps the database.
    fn write(&mut self, patience: Duration) -> io::Result<bool> {
        let mut all = || -> rusqlite::Result<()> {
            self.connection.busy_timeout(patience)?;
            let transaction = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut insert = transaction.prepare(INSERT)?;
            for row in &self.waiting {
                insert.execute(params![
                    row.time,
                    self.id,
                    self.name,
                    row.step,
                    row.metrics,
                    row.id,
                    self.space,
                ])?;
            }
            drop(insert);
            transaction.commit()
        };
        match all() {
            Ok(()) => {
                self.waiting.clear();
                Ok(true)
            }
            Err(error)
                if matches!(
                    error.sqlite_error_code(),
                    Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(failed(&self.path, &error)),
        }
    }
}

impl Log for Trackio {
    fn row(&mut self, _step: i64, row: &LogRow) -> io::Result<()> {
        self.wait(row);
        self.write(PATIENCE).map(|_| ())
    }

    fn ended(&mut self, _ending: Ending) -> io::Result<()> {
        if self.write(LONG_PATIENCE)? {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "{}: another process keeps the database locked; {} rows are missing there, and are in \
             metrics.jsonl",
            self.path.display(),
            self.waiting.len()
        )))
    }
}

/// Where trackio looks for its databases.
fn home() -> io::Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = set("TRACKIO_DIR") {
        return Ok(folder.into());
    }
    let user = || {
        env::home_dir().ok_or_else(|| {
            io::Error::other("no home folder; say by TRACKIO_DIR where trackio keeps its runs")
        })
    };
    let cache = match (set("HF_HOME"), set("XDG_CACHE_HOME")) {
        (Some(folder), _) => PathBuf::from(folder),
        (None, Some(folder)) => Path::new(&folder).join("huggingface"),
        (None, None) => user()?.join(".cache/huggingface"),
    };
    // As a shell would, and Python's `expanduser` does.
    let cache = match cache.strip_prefix("~") {
        Ok(rest) => user()?.join(rest),
        Err(_) => cache,
    };
    Ok(cache.join("trackio"))
}

/// The lock that trackio takes while it makes tables; given back with the file.
fn lock(path: &Path) -> io::Result<File> {
    let file = File::create(path).map_err(at(path))?;
    let pause = Duration::from_millis(100);
    for _ in 0..LONG_PATIENCE.as_millis() / pause.as_millis() {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => sleep(pause),
            Err(TryLockError::Error(error)) => return Err(at(path)(error)),
            Ok(()) => return Ok(file),
        }
    }
    Err(io::Error::other(format!(
        "{}: another process keeps the lock",
        path.display()
    )))
}

/// Opens a project's database, which then has the tables of a run.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(LONG_PATIENCE)?;
    // As trackio does: readers do not wait for the writer, and a row needs no fsync.
    let asked = env::var("TRACKIO_SQLITE_JOURNAL_MODE").unwrap_or_default();
    let mode = match asked.as_str() {
        "delete" | "truncate" | "persist" | "memory" | "off" => &asked,
        _ => "wal",
    };
    connection.pragma_update_and_check(None, "journal_mode", mode, |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.execute_batch(&format!("BEGIN IMMEDIATE;{TABLES}COMMIT;"))?;
    connection.prepare(INSERT)?;
    Ok(connection)
}

fn failed(path: &Path, error: &rusqlite::Error) -> io::Error {
    let text = error.to_string();
    let hint = match text.contains("no such column") || text.contains("has no column") {
        true => {
            "; its tables are not those of trackio 0.24 and later: `trackio show` of a current \
             trackio brings an older database up to date"
        }
        false => "",
    };
    io::Error::other(format!("{}: {text}{hint}", path.display()))
}

/// A time in seconds since 1970 as Python writes it.
fn timestamp(seconds: f64) -> String {
    let [year, month, day, hour, minute, second] = calendar(seconds as u64);
    let micros = (seconds.fract() * 1e6) as u32;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        Run {
            name: "out".to_owned(),
            config: LogRow::from_iter([("learning_rate".to_owned(), json!(0.1))]),
        }
    }

    fn names() -> Names {
        Names {
            project: "glossary".to_owned(),
            ..Names::default()
        }
    }

    fn row(step: i64, loss: f64) -> LogRow {
        LogRow::from_iter([
            ("loss".to_owned(), json!(loss)),
            ("step".to_owned(), json!(step)),
        ])
    }

    /// Steps and losses of the database, as they were written.
    fn losses(home: &Path) -> Vec<(i64, f64)> {
        let connection = Connection::open(home.join("glossary.db")).unwrap();
        let mut select = connection
            .prepare("SELECT step, metrics FROM metrics ORDER BY id")
            .unwrap();
        let rows = select.query_map([], |row| {
            let metrics: Vec<u8> = row.get(1)?;
            let metrics: Value = serde_json::from_slice(&metrics).unwrap();
            Ok((row.get(0)?, metrics["train/loss"].as_f64().unwrap()))
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn rows_wait_for_a_locked_database() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path();
        let mut log = Trackio::create_in(home, home, &names(), &run(), 0).unwrap();
        let other = Connection::open(home.join("glossary.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        log.row(1, &row(1, 2.0)).unwrap();
        log.row(2, &row(2, 1.0)).unwrap();
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(losses(home), []);
        log.row(3, &row(3, 0.5)).unwrap();
        assert_eq!(losses(home), [(1, 2.0), (2, 1.0), (3, 0.5)]);
        log.ended(Ending::Finished).unwrap();
    }

    /// A row that the run takes a second time, after going back, replaces the first.
    #[test]
    fn a_step_has_its_rows_once() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path();
        let mut log = Trackio::create_in(home, home, &names(), &run(), 0).unwrap();
        let evaluation = LogRow::from_iter([
            ("eval_loss".to_owned(), json!(3.0)),
            ("step".to_owned(), json!(1)),
        ]);
        log.row(1, &row(1, 2.0)).unwrap();
        log.row(1, &row(1, 1.5)).unwrap();
        assert_eq!(losses(home), [(1, 1.5)]);
        log.row(1, &evaluation).unwrap();
        let count = "SELECT COUNT(*) FROM metrics";
        let count: i64 = log
            .connection
            .query_row(count, [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 2);
    }

    #[test]
    fn tables_of_an_old_version_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path();
        let old = Connection::open(home.join("glossary.db")).unwrap();
        old.execute_batch("CREATE TABLE metrics (id INTEGER PRIMARY KEY, run_name TEXT)")
            .unwrap();
        drop(old);
        let Err(error) = Trackio::create_in(home, home, &names(), &run(), 0) else {
            panic!("an old table was taken");
        };
        let text = error.to_string();
        assert!(
            text.contains("glossary.db: ") && text.contains("`trackio show`"),
            "{text}"
        );
    }

    #[test]
    fn times_are_those_of_python() {
        assert_eq!(
            timestamp(951_782_400.25),
            "2000-02-29T00:00:00.250000+00:00"
        );
    }
}
