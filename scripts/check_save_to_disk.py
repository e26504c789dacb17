"""Loads what `save_to_disk` wrote with the `datasets` library, and saves a data
set with that library for the trainer to read.

    check_save_to_disk.py check FOLDER [EXPORT.jsonl]
    check_save_to_disk.py make FOLDER

`check` compares the rows with those of `trainer preprocess --export_jsonl`,
which gives the training samples in the same order. `make` writes a DatasetDict
of conversations whose messages have missing values, as Arrow fills them in.
Needs `pip install datasets`.
"""

import json
import sys

import datasets


def check(folder, export=None):
    data = datasets.load_from_disk(folder)
    columns = {"input_ids": "int32", "labels": "int64", "attention_mask": "int8"}
    if "position_ids" in data.column_names:
        columns["position_ids"] = "int32"
    found = {name: feature.feature.dtype for name, feature in data.features.items()}
    assert found == columns, found
    tokens = 0
    for row in data:
        assert len({len(values) for values in row.values()}) == 1
        assert all(row["attention_mask"])
        tokens += len(row["input_ids"])
    if export is not None:
        with open(export, encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        assert len(rows) == len(data), (len(rows), len(data))
        for mine, theirs in zip(rows, data):
            # Rows without positions of their own count from 0.
            mine.setdefault("position_ids", list(range(len(mine["input_ids"]))))
            assert {name: mine[name] for name in theirs} == theirs
    # A loaded data set can be worked with and saved again.
    assert len(data.shuffle(seed=0).select(range(min(2, len(data))))) == min(2, len(data))
    print(f"{len(data)} rows, {tokens} tokens: as expected")


def make(folder):
    rows = [
        {"messages": [{"role": "user", "content": f"question {i}"},
                      {"role": "assistant", "content": f"answer {i}", "name": "a"}]}
        for i in range(2500)
    ]
    data = datasets.Dataset.from_list(rows)
    datasets.DatasetDict({"train": data, "test": data.select(range(10))}).save_to_disk(folder)


if __name__ == "__main__":
    {"check": check, "make": make}[sys.argv[1]](*sys.argv[2:])
