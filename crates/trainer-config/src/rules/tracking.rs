//! Rules about tracking: what needs a network cannot be done.

use super::Rules;
use crate::diagnostic::Diagnostic;

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
        let on = keys.use_wandb.unwrap_or(keys.wandb_project.is_some());
        let switches = [
            (on, "use_wandb", &wandb[..]),
            (keys.use_mlflow, "use_mlflow", &mlflow[..]),
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
    }
}
