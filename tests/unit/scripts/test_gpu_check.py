"""The measurement for a GPU that can be had for minutes runs here, on a CPU and in a small shape."""

import json

import pytest

from benchmarks import gpu_check

pytest.importorskip("transformers")

FIGURES = ("prefill_32", "prefill_128", "token_ms_16", "token_ms_100")


def run(folder, *options: str) -> dict:
    gpu_check.main(["--shape", "small", "--out", str(folder), *options])
    return {file.stem: json.loads(file.read_text()) for file in folder.iterdir()}


def test_each_figure_stands_beside_that_of_generate_in_a_file_and_in_the_table(tmp_path, capsys):
    rows = run(tmp_path, "--precisions", "bf16")
    assert all(rows["bf16"][name] > 0 for name in FIGURES)
    assert all(f"generate_{name}" in rows["bf16"] for name in FIGURES)
    assert rows["bf16"]["load_s"] > 0 < rows["bf16"]["load_again_s"]
    assert "| bf16 |" in capsys.readouterr().out


def test_a_precision_that_cannot_be_loaded_says_why_and_the_next_is_measured(tmp_path, monkeypatch):
    from jupyter_sc2.engines.torch import engine

    load = engine.load

    def without_bitsandbytes(model, *, precision, offline):
        if precision == "4bit":
            raise RuntimeError("No module named\n'bitsandbytes'")
        return load(model, precision=precision, offline=offline)

    monkeypatch.setattr(engine, "load", without_bitsandbytes)
    rows = run(tmp_path, "--precisions", "4bit", "bf16")
    assert rows["4bit"] == {"precision": "4bit", "error": "No module named 'bitsandbytes'"}
    assert rows["bf16"]["token_ms_100"] > 0


def test_figures_are_there_as_soon_as_they_are_measured(tmp_path):
    row = gpu_check.Record(tmp_path / "bf16.json", until=float("inf"))
    row["load_s"] = 1.5
    assert json.loads((tmp_path / "bf16.json").read_text()) == {"precision": "bf16", "load_s": 1.5}


def test_without_time_nothing_is_measured(tmp_path, capsys):
    assert run(tmp_path, "--precisions", "bf16", "--seconds", "0") == {}
    assert "| bf16 |" in capsys.readouterr().out
