//! Data sets of the hub, against a server of our own that answers as the hub does:
//! which commit a branch is at, which files it has, and their bytes.
//!
//! The client reads the address of the hub from the environment, so each case runs
//! this program once more, with the address set, on the one test that is ignored
//! otherwise.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use trainer_config::Dataset;
use trainer_data::source::open;

const MAIN: &str = "1111111111111111111111111111111111111111";
const V2: &str = "2222222222222222222222222222222222222222";

/// Files of each commit.
const FILES: [(&str, &str, &str); 5] = [
    (MAIN, "README.md", "# A data set"),
    (
        MAIN,
        "train.jsonl",
        "{\"text\": \"one\"}\n{\"text\": \"two\"}\n",
    ),
    (MAIN, "test.jsonl", "{\"text\": \"three\"}\n"),
    (
        V2,
        "data/train-00000-of-00001.jsonl",
        "{\"text\": \"four\"}\n",
    ),
    (V2, "extra/other.jsonl", "{\"text\": \"five\"}\n"),
];

/// A hub with the data set `me/words`, and `me/closed` that asks for a token.
struct Hub {
    address: String,
    /// What was asked of it.
    requests: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let log = Arc::clone(&log);
                std::thread::spawn(move || answer(&stream.unwrap(), &log));
            }
        });
        Self { address, requests }
    }
}

fn answer(stream: &TcpStream, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_owned());
        }
        let mut words = lines[0].split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let path = target.split('?').next().unwrap();
        let token = lines
            .iter()
            .any(|line| line.eq_ignore_ascii_case("authorization: bearer hf_test"));
        log.lock().unwrap().push(format!("{method} {path}"));
        let (status, headers, body) = reply(path, token);
        let body_sent = if method == "HEAD" { "" } else { body.as_str() };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n",
            body.len()
        );
        let mut stream = stream;
        if stream.write_all((head + body_sent).as_bytes()).is_err() {
            return;
        }
    }
}

fn reply(path: &str, token: bool) -> (&'static str, String, String) {
    let json = |value: Value| {
        let kind = "Content-Type: application/json\r\n".to_owned();
        ("200 OK", kind, value.to_string())
    };
    let refused = |status| (status, String::new(), String::new());
    if path.contains("me/closed") && !token {
        return refused("401 Unauthorized");
    }
    if let Some(rest) = path.strip_prefix("/api/datasets/me/") {
        let (_, rest) = rest.split_once('/').unwrap();
        let commit = match rest.split_once('/').unwrap() {
            (_, "main" | MAIN) => MAIN,
            (_, "v2" | V2) => V2,
            _ => return refused("404 Not Found"),
        };
        if rest.starts_with("revision/") {
            return json(json!({"id": "me/words", "sha": commit}));
        }
        let files: Vec<Value> = FILES
            .iter()
            .filter(|(at, ..)| *at == commit)
            .map(|(_, name, text)| {
                json!({"type": "file", "oid": format!("{:040x}", name.len()), "path": name, "size": text.len()})
            })
            .collect();
        return json(json!(files));
    }
    if let Some((_, rest)) = path.split_once("/resolve/")
        && let Some((commit, name)) = rest.split_once('/')
        && let Some((.., text)) = FILES
            .iter()
            .find(|(at, file, _)| (*at, *file) == (commit, name))
    {
        let headers = format!(
            "ETag: \"{:040x}\"\r\nX-Repo-Commit: {commit}\r\n",
            name.len()
        );
        return ("200 OK", headers, (*text).to_owned());
    }
    refused("404 Not Found")
}

/// What the case in the environment reads, a row in a line. Not a test by itself.
#[test]
#[ignore = "run by the tests with the address of a hub"]
fn read_what_the_environment_says() {
    let dataset: Dataset = serde_json::from_str(&std::env::var("HUB_DATASET").unwrap()).unwrap();
    match open(&dataset) {
        Ok(rows) => {
            for row in rows {
                println!("ROW {}", row.unwrap().columns["text"]);
            }
        }
        Err(error) => println!("ERROR {error}"),
    }
}

/// What a data set gives when it is read from a hub at this address, with this cache.
fn read(address: &str, cache: &Path, dataset: Value, token: Option<&str>) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "read_what_the_environment_says",
        ])
        .env("HUB_DATASET", dataset.to_string())
        .env("HF_ENDPOINT", address)
        .env("HF_HOME", cache)
        .env("NO_PROXY", "127.0.0.1")
        .env_remove("HF_TOKEN")
        .env_remove("HF_HUB_CACHE")
        .current_dir(cache);
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    let Output {
        stdout,
        stderr,
        status,
    } = command.output().unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout)
        .unwrap()
        .lines()
        .filter_map(|line| {
            let start = line.find("ROW ").or_else(|| line.find("ERROR "))?;
            Some(line[start..].replace(address, "HUB"))
        })
        .collect()
}

#[test]
fn downloads_and_then_needs_no_network() {
    let hub = Hub::new();
    let cache = tempfile::tempdir().unwrap();
    let get = |dataset: Value| read(&hub.address, cache.path(), dataset, None);
    let words = json!({"path": "me/words", "type": "completion"});
    assert_eq!(get(words.clone()), ["ROW \"one\"", "ROW \"two\""]);
    let fetched = || {
        let requests = hub.requests.lock().unwrap();
        requests
            .iter()
            .filter(|line| line.starts_with("GET /datasets"))
            .count()
    };
    assert_eq!(fetched(), 2, "the data files, and not the README");
    assert_eq!(get(words.clone()), ["ROW \"one\"", "ROW \"two\""]);
    assert_eq!(fetched(), 2, "nothing is downloaded twice");

    let test = json!({"path": "me/words", "split": "test", "type": "completion"});
    assert_eq!(get(test), ["ROW \"three\""]);
    let tagged = json!({"path": "me/words", "revision": "v2", "data_files": "data/*.jsonl"});
    assert_eq!(get(tagged), ["ROW \"four\""]);

    // A port that nobody listens at.
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let away = format!("http://{nobody}");
    assert_eq!(
        read(&away, cache.path(), words.clone(), None),
        ["ROW \"one\"", "ROW \"two\""]
    );
    let empty = tempfile::tempdir().unwrap();
    let lines = read(&away, empty.path(), words, None);
    assert!(
        lines.len() == 1
            && lines[0].starts_with(
                "ERROR data set me/words: cannot be downloaded from the Hugging Face hub: "
            )
            && lines[0].ends_with("download the files elsewhere and give their folder as `path`"),
        "{lines:?}"
    );
}

#[test]
fn refusals_say_what_helps() {
    let hub = Hub::new();
    let cache = tempfile::tempdir().unwrap();
    let closed = json!({"path": "me/closed", "type": "completion"});
    let refused = read(&hub.address, cache.path(), closed.clone(), None);
    assert_eq!(
        refused,
        [
            "ERROR data set me/closed: cannot be downloaded from the Hugging Face hub: Authentication required (url=HUB/api/datasets/me/closed/revision/main); \
             set HF_TOKEN to a token that may read it, after accepting its terms on its page"
        ]
    );
    let allowed = read(&hub.address, cache.path(), closed, Some("hf_test"));
    assert_eq!(allowed, ["ROW \"one\"", "ROW \"two\""]);
    let revision = json!({"path": "me/words", "revision": "v9", "type": "completion"});
    assert_eq!(
        read(&hub.address, cache.path(), revision, None),
        [
            "ERROR data set me/words: cannot be downloaded from the Hugging Face hub: Revision not found: v9 in me/words; \
             look at `revision`: a branch, a tag or a commit"
        ]
    );
}
