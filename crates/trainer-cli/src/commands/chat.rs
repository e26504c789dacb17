//! `trainer chat`: a conversation with the trained model.

use std::io::{BufRead, IsTerminal, Write};

use serde_json::{Value, json};

use super::inference::take_the_likeliest;
use crate::args::{Run, Shown};
use crate::failure::Failure;
use crate::session::{load_layers, load_trained_model, select_device};
use crate::text::{Prompt, Writer, written_out};

const HELP: &str = "/exit ends, /reset forgets the conversation, /system TEXT begins a new one under \
                    these instructions; text that begins with a slash is said with two";

pub(crate) fn run(run: &Run) -> Result<(), Failure> {
    let ([greedy], overrides) = run.flags(["greedy"])?;
    let mut config = load_layers(&run.config, written_out(overrides))?.config;
    if greedy.is_some() {
        take_the_likeliest(&mut config);
    }
    let device = select_device(&config)?.device;
    let trained = load_trained_model(&config, &device, Shown::default())?;
    let writer = Writer::new(&config, &trained.model, &trained.tokenizer, false)?;
    if !writer.has_template() {
        return Err(Failure::new(
            "a conversation needs a chat template, and the tokenizer has none; name one in \
             `chat_template`",
        ));
    }
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        eprintln!("{HELP}");
    }
    let mut messages: Vec<Value> = Vec::new();
    let mut turns = 0;
    let mut lines = std::io::stdin().lock().lines();
    loop {
        if terminal {
            eprint!("> ");
        }
        let Some(line) = lines.next() else {
            return Ok(());
        };
        let line =
            line.map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
        let said = match line.trim() {
            "" => continue,
            "/exit" => return Ok(()),
            "/reset" => {
                messages.clear();
                continue;
            }
            command => match (command.strip_prefix("/system "), command.strip_prefix('/')) {
                (Some(text), _) => {
                    messages = vec![json!({"role": "system", "content": text.trim()})];
                    continue;
                }
                (None, Some(text)) if text.starts_with('/') => text,
                (None, Some(_)) => {
                    eprintln!("there is no {command}: {HELP}");
                    continue;
                }
                (None, None) => line.as_str(),
            },
        };
        messages.push(json!({"role": "user", "content": said}));
        let mut out = std::io::stdout().lock();
        let prompt = [Prompt::Messages(messages.clone())];
        let answers = writer.answer(&prompt, turns, |_, piece| {
            out.write_all(piece.as_bytes())?;
            out.flush()
        })?;
        writeln!(out)?;
        for answer in answers {
            messages.push(json!({"role": "assistant", "content": answer.text}));
        }
        turns += 1;
    }
}
