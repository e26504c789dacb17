//! The command line: subcommands, and `--key value` for every configuration key.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::session::Failure;

/// Fine-tunes language models from one YAML file.
#[derive(Debug, Parser)]
#[command(name = "trainer", version, about, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model as the file says and save it to output_dir.
    ///
    /// `--explain-cache` says first why the prepared data is used, or is not.
    Train(Run),
    /// Check a file and print every value that is in force, with its origin.
    Check(Run),
    /// Turn the data sets of a file into tokens, keep them in
    /// dataset_prepared_path and print an account of the rows.
    ///
    /// `--export_jsonl FILE` writes the training rows, one JSON object a line;
    /// `--save_to_disk FOLDER` writes them for `datasets.load_from_disk`;
    /// `--explain-cache` says first why the prepared data is used, or is not.
    Preprocess(Run),
    /// Show rows as the model will see them: what is trained, masked and padded.
    ///
    /// `--rows N` is how many (3), `--tokens` shows one line a token with its
    /// position, id and role, `--html FILE` writes a page instead.
    Preview(Run),
    /// Let the trained model go on with a prompt (the base model where nothing is
    /// trained yet).
    ///
    /// The prompt is `--prompt TEXT`, the text of `--file FILE`, or standard
    /// input. Each line of a `.jsonl` file is one, `{"prompt": ...}` or
    /// `{"messages": [...]}`, and comes back with its `completion`. Prompts go
    /// through the chat template; `--raw` takes them as they are.
    ///
    /// `--max_new_tokens`, `--temperature`, `--top_k`, `--top_p`, `--min_p` and
    /// `--repetition_penalty` are short for `generation_...`; `--greedy` takes the
    /// likeliest token each time. `--logits` writes the prompt's tokens and the
    /// scores of every token that may follow, in place of an answer.
    Inference(Run),
    /// Talk with the trained model (the base model where nothing is trained yet).
    ///
    /// One line is one message; `/exit` ends, `/reset` forgets the conversation,
    /// `/system TEXT` begins a new one. Flags are those of `inference`.
    Chat(Run),
    /// Write the trained model as a GGUF file, for llama.cpp and its kin.
    ///
    /// `--gguf FILE` is the file, `--dtype` the number format of its matrices:
    /// f32, f16 (the default), bf16 or q8_0.
    Export(Run),
    /// Make a model folder, to train from, of a GGUF file.
    Import {
        /// The GGUF file.
        file: PathBuf,
        /// The folder to write.
        folder: PathBuf,
        /// Number format of the weights: bf16 or f32.
        #[arg(long, default_value = "bf16")]
        dtype: String,
    },
    /// Fine-tune the model in examples/ and show its answers before and after.
    Demo {
        /// Folder of the examples.
        #[arg(default_value = "examples")]
        folder: PathBuf,
    },
    /// Multiply the adapter of a run into its model and save that to output_dir/merged.
    ///
    /// The adapter is that of `lora_model_dir`, else of output_dir. `--out FOLDER`
    /// saves elsewhere. The merged model must then give the adapter's logits.
    #[command(name = "merge-lora")]
    MergeLora(Run),
    /// Print the JSON schema of the configuration file, for editors.
    Schema,
}

/// Keys of the file and their values on the command line.
pub(crate) type Overrides = Vec<(String, String)>;

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The configuration file.
    pub(crate) config: PathBuf,
    /// Values for keys of the file: `--learning_rate 1e-4`, `--datasets.0.path x.jsonl`.
    #[arg(
        value_name = "--KEY VALUE",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    overrides: Vec<String>,
}

impl Run {
    /// Takes flags that are no keys of the file out of the overrides, each with
    /// its last value. Words may be joined by `-` or `_`.
    pub(crate) fn flags<const N: usize>(
        &self,
        names: [&str; N],
    ) -> Result<([Option<String>; N], Overrides), Failure> {
        let mut values = [const { None }; N];
        let mut rest = Vec::new();
        for (key, value) in self.overrides()? {
            let name = key.replace('-', "_");
            match names.iter().position(|flag| *flag == name) {
                Some(place) => values[place] = Some(value),
                None => rest.push((key, value)),
            }
        }
        Ok((values, rest))
    }

    /// The overrides as (key, value) pairs. A flag without a value is `true`.
    pub(crate) fn overrides(&self) -> Result<Overrides, Failure> {
        let mut pairs = Vec::new();
        let mut words = self.overrides.iter().peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--") else {
                return Err(Failure::new(format!(
                    "error: unexpected argument \"{word}\"; values are given as --key value"
                )));
            };
            let pair = match flag.split_once('=') {
                Some((key, value)) => (key.to_owned(), value.to_owned()),
                // A negative number is a value, another flag is not.
                None => match words.next_if(|next| !next.starts_with("--")) {
                    Some(value) => (flag.to_owned(), value.clone()),
                    None => (flag.to_owned(), "true".to_owned()),
                },
            };
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

impl Command {
    pub(crate) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Train(run) => commands::train::run(&run),
            Self::Check(run) => commands::check::run(&run),
            Self::Preprocess(run) => commands::preprocess::run(&run),
            Self::Preview(run) => commands::preview::run(&run),
            Self::Inference(run) => commands::inference::run(&run),
            Self::Chat(run) => commands::chat::run(&run),
            Self::Export(run) => commands::export::run(&run),
            Self::Import {
                file,
                folder,
                dtype,
            } => commands::export::import(&file, &folder, &dtype),
            Self::Demo { folder } => commands::demo::run(&folder),
            Self::MergeLora(run) => commands::merge_lora::run(&run),
            Self::Schema => commands::schema::run(),
        }
    }
}
