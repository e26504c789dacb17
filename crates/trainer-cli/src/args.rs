//! The command line: subcommands, and `--key value` for every configuration key.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands;
use crate::failure::Failure;

/// Fine-tunes language models from one YAML file.
#[derive(Debug, Parser)]
#[command(
    name = "trainer",
    version,
    about,
    propagate_version = true,
    after_help = EXIT_CODES,
    after_long_help = format!("{EXIT_CODES}\n\n{EXAMPLES}")
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by a signal or a STOP file";

const EXAMPLES: &str = "\
Examples:
  trainer check run.yaml
  trainer train run.yaml --learning_rate 1e-5 --datasets.0.path more.jsonl
  trainer train run.yaml --resume_from_checkpoint model-out/run
  trainer compare model-out/a model-out/b --out compare.html
  TRAINER__MICRO_BATCH_SIZE=4 trainer train run.yaml

While a run is under way, SIGINT (Ctrl-C) or SIGTERM finishes the step, writes a
checkpoint and ends; a second one ends at once. Files named SAVE, EVALUATE or STOP
in the output folder do the same without a terminal.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model as the file says and save it to output_dir.
    ///
    /// `--explain-cache` says first why the prepared data is used, or is not.
    #[command(after_help = "\
Examples:
  trainer train run.yaml
  trainer train run.yaml --max_steps 100 --use_tensorboard true
  trainer train --quiet --json run.yaml | jq .loss")]
    Train(Train),
    /// Check a file and print every value that is in force, with its origin, and how
    /// much memory a run will take.
    ///
    /// The memory is that of the largest batch: of the prepared data where there is
    /// some (`trainer preprocess`), else of rows of `sequence_len` tokens.
    /// `--probe` loads model and data, times three micro-batches and says how long the
    /// run will take; it writes nothing.
    #[command(after_help = "\
Examples:
  trainer check run.yaml
  trainer check run.yaml --micro_batch_size 8
  trainer check --probe run.yaml")]
    Check(Check),
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
    /// Train for a few steps and say how fast that is and where the time goes.
    ///
    /// Printed are medians over `--steps` steps (10), after `--warmup` others (3): the
    /// time of a step and of its phases (waiting for data, forward, backward,
    /// optimizer), tokens a second, floating-point operations a second by the formula
    /// in docs/performance.md, their share of what a matrix product alone reaches here,
    /// and the peak memory. Nothing is evaluated, and output_dir is not touched.
    #[command(after_help = "\
Examples:
  trainer bench run.yaml
  trainer bench --steps 20 run.yaml --micro_batch_size 4
  trainer bench --json run.yaml | jq .tokens_per_second")]
    Bench(Bench),
    /// Loss and perplexity of a model on the evaluation data of a file.
    ///
    /// The data is that of test_datasets, each also alone, else the part that
    /// val_set_size holds back. The model is the trained one in output_dir (the base
    /// model where nothing is trained yet), or that of `--model`.
    #[command(after_help = "\
Examples:
  trainer evaluate run.yaml
  trainer evaluate run.yaml --model models/SmolLM2-135M-Instruct
  trainer evaluate run.yaml --json --val_set_size 0.1")]
    Evaluate(Evaluate),
    /// Train with every combination of values that a second file lists.
    ///
    /// Each key of that file has a list of values; under the key `_` stands a list
    /// of mappings, values that belong together. Runs are written to
    /// output_dir/sweep-001 and so on; a table of results is printed and saved as
    /// sweep.json and sweep.html in output_dir.
    #[command(after_help = "\
Example:
  printf 'learning_rate: [1e-4, 3e-4]\\n_: [{num_epochs: 1}, {num_epochs: 2}]\\n' > sweep.yaml
  trainer sweep run.yaml sweep.yaml")]
    Sweep(Sweep),
    /// Write a page with the curves of several runs.
    Compare {
        /// Output folders of the runs.
        #[arg(required = true)]
        runs: Vec<PathBuf>,
        /// The page.
        #[arg(long, default_value = "compare.html")]
        out: PathBuf,
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
    /// Print the completions of a shell.
    #[command(after_help = "\
Example:
  trainer completions bash > ~/.local/share/bash-completion/completions/trainer")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    #[command(after_help = "Example:\n  trainer man | man -l -")]
    Man,
}

#[derive(Debug, Args)]
pub(crate) struct Train {
    #[command(flatten)]
    pub(crate) shown: Shown,
    /// Draw live curves on the terminal, with keys to save, evaluate and stop.
    #[arg(long, conflicts_with_all = ["json", "quiet"])]
    pub(crate) tui: bool,
    #[command(flatten)]
    pub(crate) run: Run,
}

/// What is printed of a run.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Shown {
    /// Print warnings and errors only.
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Print log rows on standard output, one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

impl Shown {
    /// Adds the flags that stand among the keys, and takes them out.
    pub(crate) fn with(mut self, overrides: Overrides) -> (Self, Overrides) {
        let mut rest = Vec::new();
        for (key, value) in overrides {
            match (key.as_str(), value.as_str()) {
                ("quiet", "true") => self.quiet = true,
                ("json", "true") => self.json = true,
                _ => rest.push((key, value)),
            }
        }
        (self, rest)
    }

    /// Says something of the course of things.
    pub(crate) fn note(self, text: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("{text}");
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Steps that are timed.
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    /// Steps before these.
    #[arg(long)]
    pub(crate) warmup: Option<usize>,
    #[command(flatten)]
    pub(crate) shown: Shown,
    #[command(flatten)]
    pub(crate) run: Run,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Time three micro-batches and estimate how long the run takes.
    #[arg(long)]
    pub(crate) probe: bool,
    #[command(flatten)]
    pub(crate) run: Run,
}

#[derive(Debug, Args)]
pub(crate) struct Evaluate {
    /// Folder of the model to evaluate, in place of output_dir.
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) shown: Shown,
    #[command(flatten)]
    pub(crate) run: Run,
}

#[derive(Debug, Args)]
pub(crate) struct Sweep {
    #[command(flatten)]
    pub(crate) shown: Shown,
    /// The configuration file.
    pub(crate) config: PathBuf,
    /// The file of values to try.
    pub(crate) sweep: PathBuf,
    #[command(flatten)]
    pub(crate) keys: Keys,
}

/// Keys of the file and their values on the command line.
pub(crate) type Overrides = Vec<(String, String)>;

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The configuration file.
    pub(crate) config: PathBuf,
    #[command(flatten)]
    keys: Keys,
}

#[derive(Debug, Args)]
pub(crate) struct Keys {
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
        for (key, value) in self.keys.overrides()? {
            let name = key.replace('-', "_");
            match names.iter().position(|flag| *flag == name) {
                Some(place) => values[place] = Some(value),
                None => rest.push((key, value)),
            }
        }
        Ok((values, rest))
    }
}

impl Keys {
    /// The overrides as (key, value) pairs. A flag without a value is `true`.
    pub(crate) fn overrides(&self) -> Result<Overrides, Failure> {
        let mut pairs = Vec::new();
        let mut words = self.overrides.iter().peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--") else {
                return Err(Failure::new(format!(
                    "unexpected argument \"{word}\"; values are given as --key value"
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
            Self::Train(train) => commands::train::run(&train),
            Self::Check(check) => commands::check::run(&check),
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
            Self::Bench(bench) => commands::bench::run(&bench),
            Self::Evaluate(evaluate) => commands::evaluate::run(&evaluate),
            Self::Sweep(sweep) => commands::sweep::run(&sweep),
            Self::Compare { runs, out } => commands::compare::run(&runs, &out),
            Self::Demo { folder } => commands::demo::run(&folder),
            Self::MergeLora(run) => commands::merge_lora::run(&run),
            Self::Schema => commands::schema::run(),
            Self::Completions { shell } => commands::shell::completions(shell),
            Self::Man => commands::shell::manual(),
        }
    }
}
