//! Keys about files for programs that show training runs. Nothing is sent over
//! the network: each is written in the format that its program reads.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// For which programs a run is written down, besides `metrics.jsonl`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrackingConfig {
    /// Write event files for TensorBoard to `runs/` in `output_dir`.
    pub use_tensorboard: bool,
    /// Write an offline run for Weights & Biases to `wandb/` in `output_dir`, which
    /// `wandb sync` uploads; `true` when `wandb_project` is set.
    pub use_wandb: Option<bool>,
    /// Project of Weights & Biases.
    pub wandb_project: Option<String>,
    /// User or team of Weights & Biases.
    pub wandb_entity: Option<String>,
    /// Name of the run in Weights & Biases.
    pub wandb_name: Option<String>,
    /// Id of the run in Weights & Biases; drawn when absent. A run that goes on from a
    /// checkpoint keeps its id.
    pub wandb_run_id: Option<String>,
    /// `offline` (the default) or `disabled`.
    pub wandb_mode: Option<WandbMode>,
    /// Write the run to a folder of MLflow's file store.
    pub use_mlflow: bool,
    /// Folder of MLflow's file store; `mlruns` when absent.
    pub mlflow_tracking_uri: Option<String>,
    /// Experiment of MLflow; `Default` when absent.
    pub mlflow_experiment_name: Option<String>,
    /// Name of the run in MLflow; that of `output_dir` when absent.
    pub mlflow_run_name: Option<String>,
    /// Write the run to a database of trackio, in `TRACKIO_DIR` or in `trackio` beside
    /// the cache of the hub; `true` when `trackio_project_name` is set.
    pub use_trackio: Option<bool>,
    /// Project of trackio; `huggingface` when absent.
    pub trackio_project_name: Option<String>,
    /// Name of the run in trackio; that of `output_dir` when absent.
    pub trackio_run_name: Option<String>,
    /// Space that `trackio sync` sends the run to; nothing is sent while training.
    pub trackio_space_id: Option<String>,
}

/// How Weights & Biases is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WandbMode {
    /// Files that `wandb sync` uploads.
    Offline,
    /// Not at all.
    Disabled,
}

impl TrackingConfig {
    /// Whether files for Weights & Biases are written.
    #[must_use]
    pub fn wandb(&self) -> bool {
        self.use_wandb.unwrap_or(self.wandb_project.is_some())
            && self.wandb_mode != Some(WandbMode::Disabled)
    }

    /// Whether a database of trackio is written.
    #[must_use]
    pub fn trackio(&self) -> bool {
        self.use_trackio
            .unwrap_or(self.trackio_project_name.is_some())
    }

    /// The project of trackio as its files are called: letters, digits, `-` and `_` of
    /// the name.
    #[must_use]
    pub fn trackio_project(&self) -> String {
        let name = self.trackio_project_name.as_deref();
        let allowed = |c: &char| c.is_alphanumeric() || "-_".contains(*c);
        let kept: String = name
            .unwrap_or("huggingface")
            .chars()
            .filter(allowed)
            .collect();
        match kept.is_empty() {
            true => "default".to_owned(),
            false => kept,
        }
    }

    /// The Space that the run is for.
    #[must_use]
    pub fn trackio_space(&self) -> Option<&str> {
        let space = self.trackio_space_id.as_deref();
        space.filter(|space| !space.is_empty())
    }

    /// Folder of MLflow's file store.
    #[must_use]
    pub fn mlflow_folder(&self) -> &str {
        let uri = self.mlflow_tracking_uri.as_deref().unwrap_or("mlruns");
        let path = uri.strip_prefix("file:").unwrap_or(uri);
        // file:relative, file:/absolute and file:///absolute.
        path.strip_prefix("//").unwrap_or(path)
    }
}
