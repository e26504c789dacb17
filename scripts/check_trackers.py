"""Reads what a run wrote for TensorBoard, Weights & Biases and MLflow with those
programs' own readers, and compares it with metrics.jsonl.

    trainer train run.yaml --output_dir out --use_tensorboard true --use_wandb true \\
        --use_mlflow true --mlflow_tracking_uri out/mlruns
    python scripts/check_trackers.py out

Needs tensorboard, mlflow-skinny, and wandb 0.17 (the last whose reader is Python).
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
    assert {metric.step: metric.value for metric in history} == losses
    print("MLflow:", len(run.data.metrics), "metrics,", len(run.data.params), "parameters")


def main():
    folder = sys.argv[1]
    with open(f"{folder}/metrics.jsonl") as file:
        rows = [json.loads(line) for line in file]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    check_tensorboard(folder, losses)
    check_wandb(folder, losses)
    check_mlflow(folder, losses)


main()
