"""Reads what a run wrote for TensorBoard, Weights & Biases, MLflow and trackio with
those programs' own readers, and compares it with metrics.jsonl: each row is there once,
also where the run went on from a checkpoint.

    export TRACKIO_DIR=$PWD/out/trackio
    trainer train run.yaml --output_dir out --use_tensorboard true --use_wandb true \\
        --use_mlflow true --mlflow_tracking_uri out/mlruns --use_trackio true
    python scripts/check_trackers.py out

Names of programs after the folder check these alone (`out trackio`). Needs tensorboard,
mlflow-skinny, wandb 0.17 (the last whose reader is Python), and trackio 0.24 or later.
"""

import glob
import json
import os
import sys

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"


def check_tensorboard(folder, losses):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(f"{folder}/runs", size_guidance={"scalars": 0})
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("train/loss")}
    assert len(events.Scalars("train/loss")) == len(found)
    assert found.keys() == losses.keys(), (found, losses)
    assert all(abs(found[step] - losses[step]) < 1e-5 * abs(losses[step]) for step in losses)
    print("TensorBoard:", len(events.Tags()["scalars"]), "curves")


def check_wandb(folder, losses):
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    (path,) = glob.glob(f"{folder}/wandb/offline-run-*/run-*.wandb")
    store = DataStore()
    store.open_for_scan(path)
    found, kinds = {}, []
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kinds.append(record.WhichOneof("record_type"))
        if kinds[-1] == "history":
            row = {item.key: json.loads(item.value_json) for item in record.history.item}
            if "loss" in row:
                assert row["train/global_step"] not in found, row
                found[row["train/global_step"]] = row["loss"]
    assert found == losses, (found, losses)
    assert kinds[:2] == ["header", "run"] and kinds[-1] == "exit", kinds
    print("Weights & Biases:", len(kinds), "records")


def check_mlflow(folder, losses):
    from mlflow.store.tracking.file_store import FileStore

    store = FileStore(f"{folder}/mlruns")
    (run,) = [
        run
        for experiment in store.search_experiments()
        for run in store.search_runs([experiment.experiment_id], "", 1)
    ]
    assert run.info.status == "FINISHED", run.info
    history = store.get_metric_history(run.info.run_id, "loss")
    found = [(metric.step, metric.value) for metric in history]
    assert found == list(losses.items()), (found, losses)
    print("MLflow:", len(run.data.metrics), "metrics,", len(run.data.params), "parameters")


def check_trackio(folder, losses):
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    with open(f"{folder}/trackio.json") as file:
        mark = json.load(file)
    project = mark["project"]
    assert project in SQLiteStorage.get_projects()

    def check():
        (run,) = [run for run in trackio.Api().runs(project) if run.id == mark["run_id"]]
        assert run.name == mark["run_name"] and "learning_rate" in run.config, run
        logs = SQLiteStorage.get_logs(project, run.name, run_id=run.id)
        found = {log["step"]: log["train/loss"] for log in logs if "train/loss" in log}
        assert found == losses, (found, losses)
        names = SQLiteStorage.get_all_metrics_for_run(project, run.name)
        assert not run.alerts() and "train/loss" in names
        return names

    # As the run left the database, and with the tables that trackio adds itself.
    names = check()
    SQLiteStorage.init_db(project)
    assert check() == names
    print("trackio:", len(names), "curves")


CHECKS = {
    "tensorboard": check_tensorboard,
    "wandb": check_wandb,
    "mlflow": check_mlflow,
    "trackio": check_trackio,
}


def main():
    folder = sys.argv[1]
    with open(f"{folder}/metrics.jsonl") as file:
        rows = [json.loads(line) for line in file]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    for name in sys.argv[2:] or CHECKS:
        CHECKS[name](folder, losses)


main()
