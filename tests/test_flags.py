"""benchmarks/flags.py: one table of every measure for every flag, on drawn heads."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import pytest
import torch

import video
from benchmarks import flags, people
from demo.talking_head import Recipe, make_clip
from models import weights


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    """Two utterances of one drawn head, with the ground truth beside them."""
    recipe = Recipe(seed=5, seconds=0.6, size=(192, 192))
    return [make_clip(tmp_path_factory.mktemp("heads"), recipe, number) for number in (0, 1)]


def test_table_has_a_row_for_each_flag(heads, tmp_path, capsys):
    outputs = ["--folder", tmp_path, "--json", tmp_path / "t.json", "--csv", tmp_path / "t.csv"]
    rows = ["blend box", "blend feather"]
    assert flags.main([*map(str, ("--videos", *heads, "--seconds", 0.36, *outputs, "--flags", *rows))]) == 0
    printed = capsys.readouterr().out
    assert "--blend feather is the network's default" in printed and "| --blend box | " in printed
    assert all(f"not measured: {figure}" in printed for figure in ("rest, leak, lmd", "LSE-D", "lmd", "lpips", "csim"))
    table = {row.pop("row"): row for row in csv.DictReader((tmp_path / "t.csv").read_text().splitlines())}
    assert list(table) == ["as filmed", "defaults", "--blend box"]

    def figure(row: str, name: str) -> float:
        return float(table[row][name])

    assert figure("as filmed", "psnr") > figure("defaults", "psnr") > 20  # only re-encoded: nearly what was filmed
    assert figure("as filmed", "motion") == pytest.approx(1, abs=0.2) and table["as filmed"]["cpu_ms"] == ""
    assert figure("--blend box", "seam") > figure("defaults", "seam") > 0
    assert figure("--blend box", "sharpness") < figure("defaults", "sharpness")
    assert figure("defaults", "judge") + figure("defaults", "discrepancy") == pytest.approx(
        figure("defaults", "judge_own")
    )
    assert -1 <= figure("defaults", "aperture") <= 1 and figure("defaults", "cpu_ms") > 0
    clips = json.loads((tmp_path / "t.json").read_text())
    assert sum(clips["defaults"]["seam"]) / 2 == pytest.approx(figure("defaults", "seam"))
    assert cv2.imread(str(tmp_path / "0_clip00000.png")).shape == (3 * flags.SIDE, flags.COLUMNS * flags.SIDE, 3)


def test_rows_share_a_network_unless_they_change_it():
    lips = flags.networks_of({"checkpoint": weights.DEMO}, (flags.DEFAULTS, "blend box", "batch_size 3"))
    assert lips["blend box"] is lips[flags.DEFAULTS] and lips["batch_size 3"].batch_size == 3
    assert lips["batch_size 3"] is not lips[flags.DEFAULTS]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    return flags.write_mirror(tmp_path_factory.mktemp("mirror"))


def test_mirror_network_reproduces_its_reference(mirror):
    network = weights.load_model(mirror)
    faces, mels = torch.rand(1, 6, 96, 96, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 80, 16)
    assert network.width == 1 and 255 * (network(mels, faces) - faces[:, 3:]).abs().mean() < 1.5


def test_mirror_network_scores_geometry_only(heads, mirror, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(flags, "write_mirror", lambda folder: asked.append(folder) or mirror)
    command = ("--videos", *heads, "--seconds", 0.12, "--checkpoint_path", "mirror", "--flags", "resize_factor 2")
    assert flags.main([*map(str, (*command, "--folder", tmp_path, "--json", tmp_path / "t.json"))]) == 0
    rows = json.loads((tmp_path / "t.json").read_text())
    assert asked == [tmp_path] and set(rows["defaults"]) == {*flags.GEOMETRY, "motion", "cpu_ms"}
    assert min(rows["defaults"]["psnr"]) > 30  # the face itself, except for what 96 pixels lose
    small = video.probe(tmp_path / "resize_factor_2" / "other" / "0_clip00000.mp4")
    assert (small.width, small.height) == (96, 96) and len(rows["--resize_factor 2"]["seam"]) == 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--limit", "1"), "give at least two"),
        (("--flags", "blend lace"), "--blend lace is not known"),
        (("--flags", "mouth_gain 9"), "--mouth_gain 9 is not between"),
        (("--flags", "pads 3"), "--pads takes four numbers"),
        (("--flags", "static False"), "static takes no value"),
        (("--flags", "fps"), "fps takes a value"),
        (("--flags", "grin 3"), "grin takes no value, or is not one of"),
        (("--checkpoint_path", "nowhere.pth"), "nowhere.pth does not exist"),
        (("--mediapipe", "nowhere/python"), "--mediapipe nowhere/python cannot be run (No such file"),
    ],
)
def test_wrong_arguments_are_reported_before_any_work(heads, tmp_path, capsys, wrong, words):
    assert flags.main([*map(str, ("--videos", *heads, "--folder", tmp_path / "out")), *wrong]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out" / "filmed").exists()


def test_differences_beyond_chance_are_bold():
    assert flags.differs([2.0, 3.1, 4.0], [1.0, 2.0, 3.0]) and not flags.differs([2.0, 1.0], [1.0, 2.0])
    assert not flags.differs([float("nan"), 1.0], [1.0, 2.0])  # one clip is not enough
    rows = {"defaults": {"seam": [1.0, 2.0, 3.0]}, "--x": {"seam": [2.0, 3.1, 4.0], "leak": [0.5]}}
    lines = flags.text(rows).splitlines()
    assert lines[0] == "| flags | seam | leak |" and lines[2:] == [
        "| defaults | 2.000 |  |",
        "| --x | **3.033** | 0.500 |",
    ]


@pytest.mark.parametrize("names, partners", [
    (("a/1", "a/2", "b/1", "b/2"), [2, 3, 0, 1]), (("a_1", "b_1", "b_2"), [1, 0, 0]), (("a_1", "a_2"), [1, 0]),
    (("v/a_1", "v/b_1", "v/c_1", "p/0", "q/0"), [1, 2, 3, 4, 0]),
])  # fmt: skip
def test_people_get_the_sound_of_another_person(names, partners):
    """Most of ten clips got another sentence of the same person, with whom their movement was then compared."""
    clips = [Path(f"{name}.mp4") for name in names]
    assert people.partners_of(clips) == partners
