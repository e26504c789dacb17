//! Rules about tracking: what needs a network cannot be done.

use super::Rules;
use crate::diagnostic::Diagnostic;

/// Ends of names of projects that trackio keeps for files beside its databases.
const TRACKIO_ENDS: [&str; 8] = [
    "_system",
    "_configs",
    "_traces",
    "_artifacts",
    "_artifact_versions",
    "_artifact_aliases",
    "_run_artifact_links",
    "_external_run_artifact_links",
];

impl Rules<'_> {
    pub(super) fn tracking(&mut self) {
        let config = self.config;
        let keys = &config.tracking;
        let wandb = ["wandb_entity", "wandb_name", "wandb_run_id", "wandb_mode"];
        let mlflow = [
            "mlflow_tracking_uri",
            "mlflow_experiment_name",
            "mlflow_run_name",
        ];
        let trackio = ["trackio_run_name", "trackio_space_id"];
        let on = keys.use_wandb.unwrap_or(keys.wandb_project.is_some());
        let switches = [
            (on, "use_wandb", &wandb[..]),
            (keys.use_mlflow, "use_mlflow", &mlflow[..]),
            (keys.trackio(), "use_trackio", &trackio[..]),
        ];
        for (on, switch, names) in switches {
            for name in names {
                if on || !self.is_set(name) {
                    continue;
                }
                let label = self.key(name, "has no effect");
                self.report(
                    Diagnostic::warning(format!("`{name}` needs `{switch}: true`")),
                    [label],
                    &format!("add `{switch}: true`, or remove it"),
                );
            }
        }
        let uri = keys.mlflow_tracking_uri.as_deref().unwrap_or_default();
        if uri.contains("://") && !uri.starts_with("file:") && self.usable(&["mlflow_tracking_uri"])
        {
            let label = self.value("mlflow_tracking_uri", "is no folder");
            self.error(
                "MLflow runs are written to a folder, not to a server or a database",
                [label],
                "write a folder such as `mlruns`; `mlflow server --backend-store-uri mlruns` \
                 serves it, `mlflow migrate-filestore` moves it to a database",
            );
        }
        if keys.trackio() {
            self.trackio();
        }
    }

    fn trackio(&mut self) {
        let keys = &self.config.tracking;
        let project = keys.trackio_project();
        let reserved = |end: &&str| project.len() > end.len() && project.ends_with(end);
        if project.starts_with("registry-") || TRACKIO_ENDS.iter().any(reserved) {
            let label = self.value("trackio_project_name", "is a name of trackio's own");
            self.error(
                &format!("trackio does not allow a project `{project}`"),
                [label],
                "a name must not begin with `registry-` nor end as the files beside its databases \
                 do (`_system`, `_configs`, `_traces`, `_artifacts` and so on); write another one",
            );
        }
        if let Some(name) = &keys.trackio_project_name
            && *name != project
        {
            let label = self.value("trackio_project_name", "is not what trackio calls it");
            self.report(
                Diagnostic::warning(format!("the project of trackio will be `{project}`")),
                [label],
                &format!(
                    "trackio keeps letters, digits, `-` and `_` of a name and drops the rest; \
                     write `{project}`, or another name"
                ),
            );
        }
        if let Some(space) = keys.trackio_space() {
            let label = self.key("trackio_space_id", "takes effect later");
            self.report(
                Diagnostic::warning(format!(
                    "nothing is sent to the Space `{space}` while training"
                )),
                [label],
                &format!(
                    "the run is written to trackio's own folder and marked for the Space; \
                     `trackio sync --project {project}` sends it"
                ),
            );
        }
    }
}
