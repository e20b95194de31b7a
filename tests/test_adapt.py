"""Adapting a generator to one person."""

from __future__ import annotations

import itertools
import shlex
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

import adapt
import adaptation
import training
from adaptation import AdaptationOptions
from conftest import run_ffmpeg
from dataset import Wav2LipDataset
from demo.talking_head import Recipe, write_clip
from distributed import Distributed
from errors import UserError
from faces import FaceSearch
from hparams import HParams
from hparams import hparams as hp
from models import SyncNet_color, Wav2Lip, weights
from reporting import SILENT
from training import loop

DETECTOR = ("--face_detector", "centerface")


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    path = tmp_path_factory.mktemp("person") / "person one.mp4"
    write_clip(path, Recipe(seed=3, seconds=5.2, size=(160, 160)))
    return path


@pytest.fixture(scope="module")
def expert(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("expert") / "expert.pth"
    torch.save({"state_dict": SyncNet_color(0.125).state_dict(), "width": 0.125}, path)
    return path


@pytest.fixture(scope="module")
def beginner(tmp_path_factory):
    """An untrained generator, which any training improves."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("generator") / "beginner.pth"
    torch.save({"state_dict": Wav2Lip(0.125).state_dict(), "width": 0.125, "blend": "feather"}, path)
    return path


@pytest.fixture(scope="module")
def clips(person, tmp_path_factory):
    """What is learned from the video, and what is held out."""
    options = AdaptationOptions(search=FaceSearch("centerface"))
    return adaptation.prepare(person, tmp_path_factory.mktemp("prepared"), options)


@pytest.fixture
def prepared(clips, monkeypatch):
    """Spares a test of what comes after it the preparation of the video."""
    monkeypatch.setattr(adaptation, "prepare", lambda *_: clips)


@pytest.fixture(autouse=True)
def a_step_takes_half_a_second(monkeypatch):
    """By the clock of the training, however busy the machine is."""
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks) / 2, perf_counter=time.perf_counter)
    monkeypatch.setattr(loop, "time", clock)


@pytest.fixture(autouse=True)
def evaluate_one_batch_only(monkeypatch):
    monkeypatch.setattr(adaptation, "MAX_EVAL_BATCHES", 1)


@pytest.mark.parametrize("minutes", [float("nan"), float("inf"), 0.0, -1.0])
def test_impossible_training_times_are_refused(minutes):
    with pytest.raises(UserError, match="give a number above 0"):
        adaptation.AdaptationOptions(minutes)


def run(person, outfile, expert, generator, *flags, minutes=0.03, hp=""):
    networks = ["--syncnet_checkpoint_path", expert, "--judge_checkpoint_path", expert, "--checkpoint_path", generator]
    settings = ["--hparams", f"batch_size=2,num_workers=0{hp and ','}{hp}"]  # quicker steps, and no process to start
    command = ["--face", person, "--outfile", outfile, "--minutes", minutes, *networks, *DETECTOR, *settings, *flags]
    return adapt.main([*map(str, command)])


def held_out_l1(printed):
    line = next(line for line in printed.splitlines() if "(L1)" in line)
    before, after = (float(word) for word in line.replace(",", "").split() if word.replace(".", "").isdigit())
    return before, after


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_best_weights_are_kept_with_or_without_a_mean(decay):
    group, expert = Distributed(torch.device("cpu")), SyncNet_color(0.125)
    task = adaptation.PersonTask(group, HParams(ema_decay=decay), expert, width=0.125)
    weight = next(task.result.parameters())
    with torch.no_grad():
        for level, l1 in ((1.0, 0.5), (2.0, 0.2), (3.0, 0.4)):
            weight.fill_(level)
            task.keep_if_best({"l1": l1})
    task.restore_best()
    assert (weight == 2.0).all()


def test_adapting_improves_a_generator(person, expert, beginner, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/usr/bin/wav2lip-adapt"])
    outfile = tmp_path / "new folder" / "person.pth"
    settings = "initial_learning_rate=1e-3,ema_decay=0.9,eval_interval=2"
    assert run(person, outfile, expert, beginner, hp=settings) == 0
    output = capsys.readouterr().out
    before, after = held_out_l1(output)
    assert after < before
    command = output.splitlines()[-1].removeprefix(f"{outfile}: ")
    flags = ["--checkpoint_path", str(outfile), "--face", str(person), "--audio", "SPEECH"]
    assert shlex.split(command) == ["wav2lip", *flags] and " " in str(outfile)
    model = weights.load_model(outfile)
    assert model.width == 0.125 and model.blend == "feather" and list(model.pads) == [0, 0, 0, 0]
    start = weights.load_model(beginner)
    assert not torch.equal(next(model.parameters()), next(start.parameters()))
    sheet = cv2.imread(str(outfile.with_name(f"{outfile.stem}_before_after.png")))
    assert sheet.shape[0] == 3 * 192 and sheet.std() > 10


@pytest.mark.usefixtures("prepared")
def test_training_after_the_last_evaluation_counts(person, expert, beginner, tmp_path, capsys):
    settings = "initial_learning_rate=1e-3,ema_decay=0.9,eval_interval=1000"
    assert run(person, tmp_path / "out.pth", expert, beginner, hp=settings) == 0
    before, after = held_out_l1(capsys.readouterr().out)
    assert after < before


@pytest.mark.usefixtures("prepared")
def test_checkpoints_of_the_reference_can_be_adapted(person, expert, beginner, tmp_path):
    """Trained on several GPUs, with an optimizer, and without a note on how its mouths are pasted."""
    state = {f"module.{name}": value for name, value in torch.load(beginner)["state_dict"].items()}
    optimizer = torch.optim.Adam(Wav2Lip(0.125).parameters(), 1e-4).state_dict()
    content = {"state_dict": state, "optimizer": optimizer, "global_step": 7, "global_epoch": 1}
    torch.save(content | {"width": 0.125}, tmp_path / "theirs.pth", _use_new_zipfile_serialization=False)
    assert run(person, tmp_path / "out.pth", expert, tmp_path / "theirs.pth", minutes=0.01) == 0
    model = weights.load_model(tmp_path / "out.pth")
    assert (model.width, model.blend, model.reference, model.mask_top) == (0.125, "box", "same", 0.5)


@pytest.mark.usefixtures("prepared")
def test_mask_is_the_one_that_the_generator_was_trained_with(person, expert, beginner, tmp_path, capsys):
    torch.save(torch.load(beginner) | {"mask_top": 0.375}, tmp_path / "eyes.pth")
    command = person, tmp_path / "out.pth", expert, tmp_path / "eyes.pth"
    assert run(*command, minutes=0.01) == 0
    assert weights.load_model(tmp_path / "out.pth").mask_top == 0.375
    assert run(*command, minutes=0.01, hp="mask_top=0.5") == 2
    assert "was trained with mask_top=0.375, this run has 0.5" in capsys.readouterr().err


@pytest.mark.usefixtures("prepared")
def test_worse_weights_are_not_kept(person, expert, beginner, tmp_path, capsys):
    """With a ruinous learning rate, the original weights stay."""
    outfile = tmp_path / "person.pth"
    settings = "initial_learning_rate=0.05,ema_decay=0.5,eval_interval=1"
    assert run(person, outfile, expert, beginner, minutes=0.02, hp=settings) == 0
    before, after = held_out_l1(capsys.readouterr().out)
    assert after <= before


@pytest.mark.usefixtures("prepared")
def test_stopping_keeps_the_best_weights_so_far(person, expert, beginner, tmp_path, capsys, monkeypatch):
    """It used to say that all was saved, in a folder that was gone. Twins are shown unless switched off (below)."""
    twins_used = []

    def stops(_, train, *rest):
        twins_used.append(train.twins)
        raise training.Stopped("stopped after step 3, which is saved")

    monkeypatch.setattr(training, "fit", stops)
    outfile = tmp_path / "person.pth"
    assert run(person, outfile, expert, beginner) == 130 and twins_used == [True]
    assert f"stopped early; {outfile} has the best weights so far" in capsys.readouterr().err
    assert weights.load_model(outfile).width == 0.125 and outfile.with_name("person_before_after.png").exists()


@pytest.mark.usefixtures("prepared")
def test_stopping_keeps_what_was_learned_since_the_last_evaluation(person, expert, beginner, tmp_path, monkeypatch):
    """It was dropped, and the training blamed: before the first evaluation, all of it."""
    fit, evaluate, better = training.fit, adaptation.evaluate, itertools.count()

    def improving(*given):
        one = evaluate(*given)
        return replace(one, figures={**one.figures, "l1": 1.0 / (1 + next(better)), "detail": 0.0})

    def stops(task, train, val, plan, report):
        fit(task, train, val, replace(plan, max_steps=2, minutes=None), report)
        raise training.Stopped("stopped after step 2")

    monkeypatch.setattr(adaptation, "evaluate", improving)
    monkeypatch.setattr(training, "fit", stops)
    options = AdaptationOptions(0.01, beginner, expert, expert, "batch_size=2")
    adapted = adaptation.adapt(person, tmp_path / "person.pth", options)
    assert adapted.stopped and adapted.is_better


def test_library_prints_nothing_and_restores_the_settings(person, expert, beginner, tmp_path, told, capfd):
    before, search = vars(hp).copy(), FaceSearch("centerface")
    options = AdaptationOptions(0.01, beginner, expert, expert, "batch_size=2", search=search)
    arguments = str(person), str(tmp_path / "person.pth"), options, told
    with ThreadPoolExecutor(1) as thread:  # signals are for the main thread
        adapted = thread.submit(adaptation.adapt, *arguments).result()
    assert adapted.sheet == tmp_path / "person_before_after.png" and adapted.sheet.exists()
    old, new = (one.figures["l1"] + 2 * one.figures["detail"] for one in (adapted.before, adapted.after))
    assert adapted.is_better == (new < old)
    assert "the last 10% held out" in told.notes[0] and any("batches of 2" in note for note in told.notes)
    assert capfd.readouterr() == ("", "")
    assert vars(hp) == before


def test_settings_are_restored_after_an_error():
    before = vars(hp).copy()
    with pytest.raises(UserError, match="unknown hparam"), hp.changed("batch_size=3", "no_such=1"):
        raise AssertionError("must not be reached")
    with pytest.raises(KeyError), hp.changed("batch_size=3", "width=0.5"):
        assert (hp.batch_size, hp.width) == (3, 0.5)
        raise KeyError
    assert vars(hp) == before


def test_settings_belong_to_one_training_at_a_time():
    before, entered, other_entered = vars(hp).copy(), threading.Event(), threading.Event()

    def other() -> int:
        entered.wait()
        with hp.changed("batch_size=5"):
            other_entered.set()
            return hp.batch_size

    with ThreadPoolExecutor(1) as thread:
        with hp.changed("batch_size=3"):
            waiting = thread.submit(other)
            entered.set()
            assert not other_entered.wait(0.1) and hp.batch_size == 3
        assert waiting.result() == 5
    assert vars(hp) == before


def test_held_out_frames_are_not_trained_on(person, tmp_path):
    learned, held_out = adaptation.prepare(person, tmp_path, AdaptationOptions(search=FaceSearch("centerface")))
    frames = [{int(path.stem) for path in folder.glob("*.jpg")} for folder in (learned, held_out)]
    assert not frames[0] & frames[1] and max(frames[0]) < min(frames[1])
    assert (learned / "mel.npy").read_bytes() == (held_out / "mel.npy").read_bytes()
    assert len(frames[1]) / (len(frames[0]) + len(frames[1])) == pytest.approx(0.1, abs=0.05)


def test_only_frames_with_sound_are_trained_on(tmp_path, monkeypatch):
    """Eight seconds of a face, with sound for the first four or six."""

    def write(clip, _):
        folder = clip.folder
        for i in range(200):
            cv2.imwrite(str(folder / f"{i}.jpg"), np.full((96, 96, 3), i, np.uint8))
        np.save(folder / "mel.npy", np.zeros((480, 80), np.float32))
        (folder / "clip.json").write_text("{}")
        return SimpleNamespace(seconds=sound_seconds)

    monkeypatch.setattr(adaptation, "write_clip", write)
    options = AdaptationOptions(search=FaceSearch("centerface"))
    (tmp_path / "four").mkdir()
    sound_seconds = 4.0
    with pytest.raises(UserError, match="shows a face with sound for 4.00 s; adapting needs 5 s at least"):
        adaptation.prepare(tmp_path / "face.mp4", tmp_path / "four", options)
    (tmp_path / "nearly five").mkdir()
    sound_seconds = 4.96
    with pytest.raises(UserError, match="for 4.96 s; adapting needs 5 s"):  # it said 5.0, but 5 are needed
        adaptation.prepare(tmp_path / "face.mp4", tmp_path / "nearly five", options)
    (tmp_path / "six").mkdir()
    sound_seconds = 6.0
    learned, held_out = adaptation.prepare(tmp_path / "face.mp4", tmp_path / "six", options)
    assert sorted(int(path.stem) for path in held_out.glob("*.jpg")) == list(range(131, 150))  # the last of 146 windows
    assert len(list(learned.glob("*.jpg"))) == 131 + 50  # frames without sound stay, but are in no window


def test_enough_is_held_out_despite_gaps(tmp_path, monkeypatch):
    """With every fourth frame at the end missing, nothing used to be held out, and the error was about a folder."""

    def write(clip, _):
        folder = clip.folder
        for i in shown:
            cv2.imwrite(str(folder / f"{i}.jpg"), np.full((96, 96, 3), i, np.uint8))
        np.save(folder / "mel.npy", np.zeros((800, 80), np.float32))
        (folder / "clip.json").write_text("{}")
        return SimpleNamespace(seconds=10.0)

    monkeypatch.setattr(adaptation, "write_clip", write)
    options = AdaptationOptions(search=FaceSearch("centerface"))
    shown = [i for i in range(250) if i < 150 or i % 4]
    (tmp_path / "some").mkdir()
    learned, held_out = adaptation.prepare(tmp_path / "face.mp4", tmp_path / "some", options)
    assert len(Wav2LipDataset([held_out]).index) >= 14 and len(Wav2LipDataset([learned]).index) > 100
    assert not Wav2LipDataset([held_out]).index.length_warnings
    shown = [i for i in range(250) if i % 4]
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="shows a face for 5 frames in a row only 0 times"):
        adaptation.prepare(tmp_path / "face.mp4", tmp_path / "none", options)


@pytest.mark.usefixtures("prepared")
def test_progress_before_a_failure_is_not_lost(person, expert, beginner, tmp_path, monkeypatch, capsys):
    """As when the process that reads the pictures is killed."""

    def breaks(task, *_):
        task.keep_if_best({"l1": 0.0})
        raise RuntimeError("a worker was killed")

    monkeypatch.setattr(training, "fit", breaks)
    assert run(person, tmp_path / "out.pth", expert, beginner) == 1
    assert "a worker was killed" in capsys.readouterr().err
    assert weights.load_model(tmp_path / "out.pth").width == 0.125
    monkeypatch.setattr(training, "fit", lambda *_: 1 / 0)
    assert run(person, tmp_path / "nothing.pth", expert, beginner) == 1
    assert not (tmp_path / "nothing.pth").exists()  # it would only be the original


def test_settings_are_checked_before_any_work(expert, beginner, tmp_path, capsys):
    (tmp_path / "person.mp4").write_bytes(b"no video")
    more = ("--hparams", "batch_size=0")
    assert run(tmp_path / "person.mp4", tmp_path / "out.pth", expert, beginner, *more) == 2
    assert "batch_size must be 1 or more" in capsys.readouterr().err


@pytest.mark.usefixtures("prepared")
def test_twins_can_be_switched_off(person, expert, beginner, tmp_path, monkeypatch):
    twins_used = []

    def stop(_, train, *rest):
        twins_used.append(train.twins)
        raise training.Stopped("enough")

    monkeypatch.setattr(training, "fit", stop)
    assert run(person, tmp_path / "out.pth", expert, beginner, hp="twin_reference=false") == 130
    assert twins_used == [False]


def test_twin_shows_the_head_in_the_same_place(tmp_path, astronaut, monkeypatch):
    """The head drifts to and fro; its twin, of other frames, must always be where it is."""
    clips = [tmp_path / name for name in ("learned", "kept")]
    for clip in clips:
        clip.mkdir()
    face = cv2.resize(astronaut[60:230, 160:300], (96, 96))
    shifts = np.round(6 * np.sin(np.arange(60) / 5)).astype(int)
    for i, shift in enumerate(shifts):
        cv2.imwrite(str(clips[i >= 50] / f"{i}.jpg"), np.roll(face, shift, axis=1), [cv2.IMWRITE_JPEG_QUALITY, 98])
    seen, read = [], adaptation._read
    monkeypatch.setattr(adaptation, "_read", lambda path: seen.append(path.parent.name) or read(path))
    adaptation.write_twins(clips[0], clips[:1])
    assert set(seen) == {"learned"}  # otherwise training would show held-out frames
    adaptation.write_twins(clips[1], clips)
    for i in (3, 20, 55):
        clip = clips[i >= 50]
        twin = clip.with_name((clip / "twin.txt").read_text())
        real, other = (cv2.imread(str(folder / f"{i}.jpg"))[:48, 10:-10].astype(float) for folder in (clip, twin))
        assert np.abs(real - other).mean() < 3
    assert all(
        len(list(clip.with_name(f"{clip.name}_twin").iterdir())) == len(list(clip.glob("*.jpg"))) for clip in clips
    )


def test_twin_is_another_moment_with_a_similar_head(tmp_path):
    """Greys stand for poses: each is most like those just before and after it, which have the same mouth."""
    clip = tmp_path / "learned"
    clip.mkdir()
    for i in range(24):
        cv2.imwrite(str(clip / f"{i}.jpg"), np.full((96, 96, 3), 10 * i, np.uint8))
    with hp.changed("negative_distance=5"):
        adaptation.write_twins(clip, [clip])
    twin = clip.with_name((clip / "twin.txt").read_text())
    apart = [abs(round(cv2.imread(str(twin / f"{i}.jpg")).mean() / 10) - i) for i in range(24)]
    assert min(apart) == 5 and max(apart) <= 8 and max(apart[8:-8]) <= 6


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("-t", 2), "shows a face with sound for"),
        (("-c:v", "copy", "-af", "volume=0"), "silent"),
        (("-c", "copy", "-t", 0.2), "cannot be learned from"),
    ],
)
def test_unusable_videos_get_one_line(person, expert, beginner, tmp_path, capsys, change, words):
    run_ffmpeg("-i", person, *change, tmp_path / "video.mp4")
    assert run(tmp_path / "video.mp4", tmp_path / "out.pth", expert, beginner) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1 and not (tmp_path / "out.pth").exists()


def test_video_without_a_face_gets_one_line(speech, expert, beginner, tmp_path, capsys):
    wall = ("-f", "lavfi", "-i", "smptebars=size=160x160:rate=25:duration=5.5")
    run_ffmpeg(*wall, "-stream_loop", 5, "-i", speech, "-t", 5.5, "-pix_fmt", "yuv420p", tmp_path / "wall.mp4")
    assert run(tmp_path / "wall.mp4", tmp_path / "out.pth", expert, beginner) == 2
    err = capsys.readouterr().err
    assert "no face in any of 138 frames" in err and err.count("\n") == 1 and not (tmp_path / "out.pth").exists()


@pytest.mark.parametrize(
    ("face", "outfile", "words"),
    [
        ("missing.mp4", "x.pth", "does not exist"),
        (".", "x.pth", "is a folder; give one file"),
        ("here.mp4", "x.PNG", "must end in one of .pth"),
        ("here.mp4", "other.mp4", "must end in one of .pth"),
        ("here.mp4", ".", "folder"),
        ("here.pth", "here.pth", "one of the files to read"),  # it would be lost
    ],
)
def test_bad_arguments(expert, beginner, tmp_path, capsys, face, outfile, words):
    for name in ("here.mp4", "here.pth"):
        (tmp_path / name).write_bytes(b"no video")
    assert run(tmp_path / face, tmp_path / outfile, expert, beginner) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_audio_encoder_stays_frozen(expert):
    """With norms that learn, its statistics used to change, though ``opening`` was fitted to its old output."""
    options = adaptation.AdaptationOptions(expert=expert, judge=expert, settings="frozen_norms=false")
    with adaptation.hp.changed(adaptation.SETTINGS, options.settings):
        task = adaptation.open_task(adaptation.open_group(options), 0.125, options, SILENT)
        task.train_mode(True)
        before = {name: value.clone() for name, value in task.generator.audio_encoder.state_dict().items()}
        x, mels = torch.rand(2, 6, 5, 96, 96), torch.randn(2, 5, 1, 80, 16)
        task.train_step([x, mels, torch.randn(2, 1, 80, 16), torch.rand(2, 3, 5, 96, 96)])
    after = task.generator.audio_encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert any(module.training for module in task.generator.modules())


def test_too_few_separate_windows_are_refused(tmp_path):
    """Eleven frames used to be held out; the data set's error then named a folder unknown to the user."""
    shown = [*(10 * n + i for n in range(12) for i in range(5)), *range(120, 129)]
    with pytest.raises(UserError, match="too few to learn from"):
        adaptation._first_kept(shown[-30:], tmp_path / "person.mp4")


@pytest.mark.usefixtures("prepared")
def test_what_only_measures_better_is_no_improvement(person, expert, beginner, tmp_path, monkeypatch):
    """The same weights may score a little differently the next time, as on a GPU."""
    evaluate, better = adaptation.evaluate, itertools.count()

    def imprecise(*given):
        one = evaluate(*given)
        figures = {**one.figures, "l1": one.figures["l1"] - 1e-6 * next(better)}
        return adaptation.Evaluation(figures, one.shown, one.real)

    def stops(*_):
        raise training.Stopped("stopped before the first step")

    monkeypatch.setattr(adaptation, "evaluate", imprecise)
    monkeypatch.setattr(training, "fit", stops)
    options = AdaptationOptions(0.01, beginner, expert, expert, "batch_size=2")
    assert not adaptation.adapt(person, tmp_path / "person.pth", options).is_better
    kept, start = (weights.read_checkpoint(path, Wav2Lip) for path in (tmp_path / "person.pth", beginner))
    for name in ("pads", "mel_lead"):  # nor is the network used otherwise: its padding used to go
        assert getattr(kept, name) == getattr(start, name)
