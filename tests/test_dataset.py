"""Training samples: equal to the reference's, aligned as numbered frames show, the same however they are read."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import multiprocessing
import os
import pickle
import select
import shutil
import signal
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
import torch

import audio
from conftest import INSIDE, ROOT
from dataset import (
    Augmentation,
    Batches,
    Draw,
    Loader,
    MatchedWindows,
    SyncNetDataset,
    Wav2LipDataset,
    evaluation_windows,
    samples,
)
from dataset.index import WindowIndex
from dataset.mels import open_mel
from demo.talking_head import write_sound
from errors import UserError
from hparams import hparams as hp
from mouths import crop

STEP = 3  # grey levels between one synthetic frame and the next


@pytest.fixture(scope="session")
def golden(shared):
    return np.load(shared / "golden/dataset.npz")


@pytest.fixture
def golden_clip(shared, tmp_path):
    """A folder as the reference left it: no mel.npy."""
    folder = tmp_path / "s0" / "00001"
    folder.mkdir(parents=True)
    for file in (shared / "golden/preprocessed/s0/00001").iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


@pytest.fixture
def bare_clip(tmp_path, speech):
    """Thirty frames and 1.2 s of sound, and no mel.npy."""
    folder = write_clip(tmp_path / "s0" / "00002", range(30))
    (folder / "mel.npy").unlink()
    shutil.copyfile(speech, folder / "audio.wav")
    return folder


def write_clip(folder, frames=range(60), mel_frames=200):
    """Frame i is uniformly STEP * i grey, mel frame t is t in every band."""
    folder.mkdir(parents=True)
    for i in frames:
        cv2.imwrite(str(folder / f"{i}.jpg"), np.full((24, 20, 3), STEP * i, np.uint8))
    np.save(folder / "mel.npy", np.repeat(np.arange(mel_frames, dtype=np.float32)[:, None], hp.num_mels, 1))
    return folder


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return [write_clip(root / "s1" / name) for name in "abcde"]


def test_clip_listed_twice_has_one_number(clips):
    """With two, it used to be compared with itself as if it were another clip."""
    index = WindowIndex([clips[0], clips[1], clips[0], clips[2]])
    assert [clip.number for clip in index.clips] == [0, 1, 0, 3]


def frame_numbers(pictures):
    """The frame number that each of (..., height, width) shows."""
    return (pictures.float().mean(dim=(-2, -1)) * 255 / STEP).round().int().tolist()


def starts_of(mels):
    """The first mel frame of each of (..., num_mels, mel_step_size); asserts that the following ones come next."""
    first = mels[..., :1, :1]
    assert torch.equal(mels, (first + torch.arange(hp.mel_step_size)).expand_as(mels))
    return first.flatten().int().tolist()


def same(samples, others):
    return all(torch.equal(a, b) for x, y in zip(samples, others, strict=True) for a, b in zip(x, y, strict=True))


# --------------------------------------------------------------------------------------------------------------------
# Against the reference


@pytest.mark.parametrize("positive", [True, False])
def test_golden_expert_sample(golden, golden_clip, positive):
    data = SyncNetDataset([golden_clip])
    x, mel, y = data.sample(Draw(data.index.clips[0], 10, 40, positive))
    assert x.shape == (15, 48, 96) and mel.shape == (1, 80, 16) and y.tolist() == [float(positive)]
    assert x.dtype == mel.dtype == y.dtype == torch.float32
    assert np.abs(x.numpy() - golden["syncnet_x_positive" if positive else "syncnet_x_negative"]).max() <= 2 / 255
    assert np.abs(mel.numpy() - golden["syncnet_mel"]).max() < 1e-3


def test_golden_generator_sample(golden, golden_clip):
    data = Wav2LipDataset([golden_clip])
    sample = data.sample(Draw(data.index.clips[0], 10, 40, True))
    for name, values, tolerance in zip(("x", "indiv_mels", "mel", "y"), sample, (2 / 255, 1e-3, 1e-3, 2 / 255)):
        assert values.dtype == torch.float32 and values.shape == golden[f"wav2lip_{name}"].shape
        assert np.abs(values.numpy() - golden[f"wav2lip_{name}"]).max() <= tolerance, name


def test_mel_equals_the_references(golden, golden_clip):
    SyncNetDataset([golden_clip])
    mel = np.load(golden_clip / "mel.npy")
    assert mel.dtype == np.float32 and np.abs(mel - golden["mel_T"])[INSIDE].max() < 1e-3


def test_mel_is_computed_once_and_saved(bare_clip, monkeypatch):
    before = SyncNetDataset([bare_clip])
    assert (bare_clip / "mel.npy").exists()
    monkeypatch.setattr(audio, "load_wav", None)
    assert same([before[3]], [SyncNetDataset([bare_clip])[3]])
    assert not list(bare_clip.glob(".*"))


def test_mel_of_sound_that_was_replaced_is_computed_again(bare_clip):
    """Training used to keep the sound from before it was corrected, while every check read the new one."""
    before, _ = open_mel(str(bare_clip))
    before = before.copy()
    write_sound(bare_clip / "audio.wav", np.zeros(4 * hp.sample_rate // 5, np.float32))
    later = (bare_clip / "mel.npy").stat().st_mtime + 5
    os.utime(bare_clip / "audio.wav", (later, later))
    os.utime(bare_clip / "mel.npy", (later - 1, later - 1))
    after, _ = open_mel(str(bare_clip))
    assert (after == -hp.max_abs_value).all() and not (before == -hp.max_abs_value).all()


def test_read_only_folder_can_be_used(bare_clip):
    bare_clip.chmod(0o555)
    first = Wav2LipDataset([bare_clip])[0]
    assert not (bare_clip / "mel.npy").exists()
    bare_clip.chmod(0o755)
    assert same([first], [Wav2LipDataset([bare_clip])[0]]) and (bare_clip / "mel.npy").exists()


def test_full_disk_leaves_no_half_written_mel(bare_clip, monkeypatch):
    def fail(where, *_):
        with contextlib.nullcontext(where) if hasattr(where, "write") else open(where, "wb") as file:
            file.write(b"half of it")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", fail)
        assert len(SyncNetDataset([bare_clip]).index) == 26  # windows of five in thirty frames
    assert sorted(p.name for p in bare_clip.iterdir() if p.suffix != ".jpg") == ["audio.wav"]


# --------------------------------------------------------------------------------------------------------------------
# Alignment, with frames that show their number


@pytest.mark.parametrize("fps", [25.0, 30.0])
def test_expert_alignment(clips, monkeypatch, fps):
    monkeypatch.setattr(hp, "fps", fps)
    data = SyncNetDataset(clips, seed=3)
    labels = []
    for key in range(60):
        (x, mel, y), draw = data[key], data.draw(key)
        assert draw.wrong != draw.frame
        shown = draw.frame if y.item() else draw.wrong
        assert frame_numbers(x.unflatten(0, (5, 3))) == [[shown + i] * 3 for i in range(5)]
        assert starts_of(mel) == [int(80 * draw.frame / fps)]
        labels.append(y.item())
    assert 15 < sum(labels) < 45


def test_matched_windows(clips):
    """Sound and picture are of one window; several windows in a row are of one clip; an epoch has all clips."""
    data = MatchedWindows(clips, seed=3, windows_per_clip=4)
    places = []
    for key in range(len(data)):
        x, mel, place = data[key]
        number, frame = place.tolist()
        assert frame_numbers(x.unflatten(0, (5, 3))) == [[frame + i] * 3 for i in range(5)]
        assert starts_of(mel) == [int(80 * frame / 25)]
        assert data.clip_of(key) == str(clips[number])
        places.append((number, frame))
    groups = [places[first : first + 4] for first in range(0, len(data), 4)]
    assert all(len({number for number, _ in group}) == 1 for group in groups)
    assert sorted(group[0][0] for group in groups) == list(range(len(clips)))
    assert all(len(set(group)) > 1 for group in groups)
    assert Batches(data, 4).epoch_of(len(clips)) == 1
    with pytest.raises(ValueError, match="not -1"):
        MatchedWindows(clips, windows_per_clip=-1)


def test_generator_alignment(clips):
    data = Wav2LipDataset(clips)
    for key in range(40):
        (x, indiv_mels, mel, y), (_, frame, wrong, _) = data[key], data.draw(key)
        right, other = ([[first + i for i in range(5)]] * 3 for first in (frame, wrong))
        assert wrong != frame and frame_numbers(y) == right
        assert frame_numbers(x[:3, :, :48]) == right and not x[:3, :, 48:].any()
        assert frame_numbers(x[3:]) == other
        assert starts_of(mel) == [int(80 * frame / 25)]
        assert starts_of(indiv_mels) == [int(80 * (frame - 1 + i) / 25) for i in range(5)]


def test_mel_lead_shifts_the_mels_of_frames(clips):
    data = Wav2LipDataset(clips, mel_lead=0)
    assert data.index.clips[0].starts[0] == 0
    (_, indiv_mels, _, _), draw = data[5], data.draw(5)
    assert starts_of(indiv_mels) == [int(80 * (draw.frame + i) / 25) for i in range(5)]


def test_mask_top_sets_how_much_is_hidden(clips):
    x, _, _, y = Wav2LipDataset(clips, mask_top=0.25)[5]
    assert not x[:3, :, 24:].any() and torch.equal(x[:3, :, :24], y[:, :, :24])
    with pytest.raises(UserError, match="mask_top must lie between 0 and 1, not 1"):
        Wav2LipDataset(clips, mask_top=1.0)


def test_only_windows_with_all_their_sound_start_samples(tmp_path):
    clip = write_clip(tmp_path / "c", range(60), mel_frames=112)  # the window of frame 30 ends with the sound
    (clip / "clip.json").write_text("{}")  # without it, this would look like another frame rate
    expert, generator = SyncNetDataset([clip]).index.clips[0], Wav2LipDataset([clip]).index.clips[0]
    assert expert.windows.tolist() == list(range(56))
    assert expert.starts.tolist() == [i for i in range(56) if int(3.2 * i) + 16 <= 112]
    assert generator.starts.tolist() == [i for i in range(1, 56) if int(3.2 * (i + 3)) + 16 <= 112]
    assert {SyncNetDataset([clip]).draw(key).wrong > expert.starts[-1] for key in range(40)} == {True, False}


def test_windows_do_not_span_gaps_in_frame_numbers(tmp_path):
    frames = [*range(1, 8), *range(10, 14), *range(20, 32)]  # the middle run has only four
    clip = write_clip(tmp_path / "c", frames)
    (clip / "32.jpg").touch()  # left empty by a killed run
    shutil.copyfile(clip / "7.jpg", clip / "008.jpg")
    index = SyncNetDataset([clip]).index
    assert index.clips[0].windows.tolist() == [1, 2, 3, *range(20, 28)]
    assert len(index) == 11


@pytest.mark.parametrize("nearest", [1, 10])
def test_negatives_keep_their_distance(clips, nearest):
    data = SyncNetDataset(clips, negative_distance=nearest)
    draws = [data.draw(key) for key in range(300)]
    distances = {abs(draw.wrong - draw.frame) for draw in draws}
    assert min(distances) == nearest and max(distances) <= 55
    assert {draw.wrong > draw.frame for draw in draws} == {True, False}


def test_frames_without_a_negative_do_not_start_samples(tmp_path):
    clip = write_clip(tmp_path / "c", range(20))  # windows 0 to 15
    assert SyncNetDataset([clip], negative_distance=10).index.clips[0].starts.tolist() == [*range(6), *range(10, 16)]
    with pytest.raises(ValueError, match="not 0"):
        SyncNetDataset([clip], negative_distance=0)


# --------------------------------------------------------------------------------------------------------------------
# Unusable clips


def spoil(folder, how):
    """Make an unusable clip; return the reason to be reported."""
    if how == "missing":
        return "no such folder"
    write_clip(folder, range(15) if how == "short" else range(0, 60, 2) if how == "holes" else range(60))
    if how == "short":
        return "15 frames, at least 16"
    if how in RENAMED:
        for picture in folder.glob("*.jpg"):
            picture.rename(folder / RENAMED[how].format(int(picture.stem)))
        return f"0 frames, at least 16 are needed; frames are named 0.jpg, 1.jpg, …, not {RENAMED[how].format(0)} and"
    if how == "holes":
        return "no 5 consecutive frames"
    mel = folder / "mel.npy"
    if how == "no sound":
        mel.unlink()
        return "neither mel.npy nor audio.wav"
    if how == "bad wav":
        mel.unlink()
        (folder / "audio.wav").write_bytes(b"not sound")
        return "audio.wav cannot be read"
    if how == "bad mel":
        mel.write_bytes(mel.read_bytes()[:5000])
        return "mel.npy cannot be read"
    if how == "other mel":
        np.save(mel, np.zeros((80, 200), np.float32))
        return "(80, 200), not float32 (mel frames, 80)"
    if how == "30 fps":  # 60 pictures in 2 s
        np.save(mel, np.zeros((161, 80), np.float32))
        return "2.4 s of frames, at 25 fps, and 2.0 s of sound; its frames have another rate"
    if how == "little sound":
        np.save(mel, np.zeros((15, 80), np.float32))
        return "with their sound (15 mel frames)"
    raise AssertionError(how)


RENAMED = {"padded": "{:05}.jpg", "capital": "{}.JPG", "other format": "{}.png", "prefix": "frame{}.jpg"}
UNREADABLE = ["missing", "short", "holes", "no sound", "bad wav", "bad mel", "other mel", "little sound", "30 fps"]
SPOILT = [*RENAMED, *UNREADABLE]


@pytest.mark.filterwarnings("ignore:PySoundFile failed", "ignore::FutureWarning")
@pytest.mark.parametrize("how", SPOILT)
def test_unusable_clips_are_named_with_the_reason(tmp_path, clips, how):
    reason = spoil(tmp_path / "bad", how)
    data = SyncNetDataset([tmp_path / "bad", clips[0]])
    assert [clip.folder for clip in data.index.clips] == [str(clips[0])]
    assert list(data.index.unusable) == [str(tmp_path / "bad")] and reason in data.index.unusable[str(tmp_path / "bad")]


@pytest.mark.parametrize("mel_frames, doubtful", [(183, False), (193, False), (239, False), (260, True)])
def test_sound_much_longer_than_the_frames_is_reported(tmp_path, mel_frames, doubtful):
    """2.4 s of pictures with 2.29, 2.41, 2.99 and 3.25 s of sound: the last may have 20 frames a second."""
    index = SyncNetDataset([write_clip(tmp_path / "c", mel_frames=mel_frames)]).index
    assert list(index.length_warnings) == [str(tmp_path / "c")] * doubtful


def test_gaps_are_not_taken_for_another_rate(tmp_path):
    """Frame numbers still tell the time, and clips of preprocess.py are trusted."""
    holes = write_clip(tmp_path / "holes", [*range(20), *range(40, 60)])
    ours = write_clip(tmp_path / "ours", mel_frames=120)
    (ours / "clip.json").write_text("{}")
    index = SyncNetDataset([holes, ours]).index
    assert len(index.clips) == 2 and not index.length_warnings


def test_lists_without_a_usable_clip_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"the list of clips is empty \(looked for clip folders with 0.jpg, 1.jpg"):
        SyncNetDataset([])
    folders = [tmp_path / f"clip{i}" for i in range(5)]
    with pytest.raises(ValueError, match="none of 5 clips") as error:
        Wav2LipDataset(folders)
    assert f"{folders[2]}: no such folder" in str(error.value) and "clip3" not in str(error.value)


def test_damage_during_training_is_named(tmp_path):
    clip = write_clip(tmp_path / "c")
    data = SyncNetDataset([clip])
    billions = bytearray((clip / "20.jpg").read_bytes())
    height = billions.index(b"\xff\xc0") + 5
    billions[height : height + 4] = b"\xff\xfe\xff\xfe"  # a size, as from flipped bits, that OpenCV refuses
    for content in (b"not a picture", billions):
        (clip / "20.jpg").write_bytes(content)
        with pytest.raises(ValueError, match="20.jpg is not a picture that can be decoded"):
            data.sample(Draw(data.index.clips[0], 18, 40, True))
    (clip / "20.jpg").unlink()
    with pytest.raises(ValueError, match="20.jpg cannot be read"):
        data.sample(Draw(data.index.clips[0], 18, 40, True))
    np.save(clip / "mel.npy", np.zeros((20, 80), np.float32))
    with pytest.raises(ValueError, match="has become shorter"):
        data.sample(Draw(data.index.clips[0], 30, 40, True))
    (clip / "mel.npy").unlink()
    with pytest.raises(ValueError, match="mel.npy cannot be read"):
        data.sample(Draw(data.index.clips[0], 30, 40, True))


def cut_short(picture):
    """Write half of a JPEG, which OpenCV decodes with a grey lower part."""
    whole = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8))[1].tobytes()
    picture.write_bytes(whole[: len(whole) // 2])
    assert cv2.imread(str(picture)) is not None


def zeros_at_the_end(picture):
    """As a power cut leaves a file whose length reached the disk before its content."""
    cut_short(picture)
    picture.write_bytes(picture.read_bytes() + bytes(4096))


def no_picture(picture):
    picture.write_text("junk")


@pytest.mark.parametrize(
    "kind, spoil",
    [
        (SyncNetDataset, no_picture),
        (Wav2LipDataset, cut_short),
        (MatchedWindows, zeros_at_the_end),
    ],
)
def test_damaged_windows_are_replaced_by_others(tmp_path, kind, spoil):
    """By the same ones in every process, and only where files are damaged; those are named."""
    clip = write_clip(tmp_path / "a")
    data = kind([clip], seed=3)
    before = [data[key] for key in range(24)]
    damaged = {10, 20, 30, 40}
    for frame in damaged:
        spoil(clip / f"{frame}.jpg")
    alone, several = Loader(data, Batches(data, 4)), Loader(data, Batches(data, 4), num_workers=2)
    batches = list(itertools.islice(alone, 6))
    assert same(batches, itertools.islice(several, 6)) and set(alone.damaged) <= set(several.damaged)
    several.close()
    assert alone.damaged and set(alone.damaged) <= {f"{clip}/{frame}.jpg" for frame in damaged}
    assert same(batches[4:], itertools.islice(Loader(data, Batches(data, 4, start=4)), 2))
    after = [data[key] for key in range(24)]
    unchanged = [same([a], [b]) for a, b in zip(before, after)]
    assert all(unchanged[key] for key in range(24) if not data.read(key)[1]) and not all(unchanged)
    seen = {frame for sample in after for frame in frame_numbers(sample[0].flatten(0, -3)) if frame}
    assert not seen & damaged


def test_wholly_damaged_clip_is_replaced_by_another(tmp_path):
    folders = [write_clip(tmp_path / name) for name in "ab"]
    data = SyncNetDataset(folders)
    for path in folders[0].glob("*.jpg"):
        path.write_text("junk")
    assert {data.read(key)[0][0].shape for key in range(8)} == {(15, 48, 96)}
    for path in folders[1].glob("*.jpg"):
        path.unlink()
    with pytest.raises(ValueError, match="jpg cannot be read .*, like everything else that was tried"):
        data.read(0)


def test_prepared_mels_need_no_sound_library(clips, monkeypatch):
    for name in ("librosa", "soundfile"):
        monkeypatch.setitem(sys.modules, name, None)
    assert len(Wav2LipDataset(clips)[0]) == 4


# --------------------------------------------------------------------------------------------------------------------
# The same samples, however they are read


def read(data, batches, count, num_workers=0):
    return list(itertools.islice(Loader(data, batches, num_workers), count))


@pytest.mark.parametrize("kind", [SyncNetDataset, Wav2LipDataset])
def test_workers_do_not_change_samples(clips, kind):
    data = kind(clips, seed=7)
    alone = read(data, Batches(data, 4), 4)
    assert alone[0][0].shape[0] == 4
    assert same(alone, read(kind(clips, seed=7), Batches(data, 4), 4, num_workers=2))
    assert not same(alone, read(kind(clips, seed=8), Batches(data, 4), 4))


def test_processes_share_the_same_global_batches(clips):
    data = SyncNetDataset(clips)
    alone = read(data, Batches(data, 6), 3)
    shares = [read(data, Batches(data, 6, rank=rank, world_size=2), 3) for rank in range(2)]
    assert same(alone, [[torch.cat(parts) for parts in zip(*ranks)] for ranks in zip(*shares)])
    with pytest.raises(ValueError, match="batch of 5 cannot be shared equally by 2"):
        Batches(data, 5, world_size=2)


def test_resuming_in_mid_epoch_reads_only_what_follows(clips, monkeypatch):
    data = SyncNetDataset(clips, augmentation=Augmentation(mirror=0.5, brightness=0.2))
    through = read(data, Batches(data, 3), 6, num_workers=2)
    loaded = []
    monkeypatch.setattr(samples, "_read_picture", lambda path: loaded.append(path) or cv2.imread(path))
    assert same(through[4:], read(data, Batches(data, 3, start=4), 2))
    assert len(loaded) == 2 * 3 * 5  # nothing of the first four batches was read


def test_epochs_draw_every_clip_once_in_varying_order(clips):
    data = SyncNetDataset(clips)
    epochs = [[data.clip_of(key) for key in range(5 * epoch, 5 * epoch + 5)] for epoch in range(6)]
    assert all(sorted(epoch) == sorted(map(str, clips)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 1
    batches = Batches(data, 4)
    assert [batches.epoch_of(batch) for batch in range(6)] == [0, 0, 1, 2, 3, 4]
    assert batches.clips_of(1) == [data.clip_of(key) for key in (4, 5, 6, 7)] == [epochs[0][4], *epochs[1][:3]]


def test_evaluation_windows_are_fixed(clips):
    data = SyncNetDataset(clips)
    windows = evaluation_windows(10, 4)
    assert windows == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    loader = Loader(data, windows, num_workers=1)
    assert same(loader, list(loader)) and same(loader, read(SyncNetDataset(clips), windows, 9))
    shares = [evaluation_windows(11, 2, rank, 3) for rank in range(3)]
    assert sorted(itertools.chain(*itertools.chain(*shares))) == list(range(11))
    assert evaluation_windows(1, 2, rank=1, world_size=2) == []


@pytest.mark.skipif(sys.platform == "win32", reason="pipes cannot be waited for with select")
def test_workers_of_a_thread_keep_nothing_open(clips):
    """Learning on the page held up the lip-sync of whoever finished meanwhile: its encoder waited for the end."""
    here, there = os.pipe()
    data = SyncNetDataset(clips)
    ended: list[bool] = []

    def read():
        loader = Loader(data, Batches(data, 2), num_workers=1)
        first = next(iter(loader))
        os.close(there)
        ended.append(
            select.select([here], [], [], 2)[0] == [here]
            and same([first], [next(iter(Loader(data, Batches(data, 2))))])
        )
        loader.close()

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    os.close(here)
    assert ended == [True]


def test_settings_travel_with_the_data_set(clips, monkeypatch):
    """A loader worker that is a fresh process, as on Windows, has the defaults in its own hparams."""
    with monkeypatch.context() as patch:
        patch.setattr(hp, "fps", 50.0)
        patch.setattr(hp, "img_size", 64)
        data = SyncNetDataset(clips)
        here = data[2]
    assert here[0].shape == (15, 32, 64) and same([here], [pickle.loads(pickle.dumps(data))[2]])


def test_loading_leaves_the_global_random_state_alone(clips):
    data = SyncNetDataset(clips, augmentation=Augmentation(mirror=0.5))
    states = torch.random.get_rng_state(), np.random.get_state()[1]
    read(data, Batches(data, 2), 2, num_workers=1)
    assert torch.equal(states[0], torch.random.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()


LOADING = """
import signal, sys, time, cli, dataset
stop = []
for name in (signal.SIGINT, signal.SIGTERM):
    signal.signal(name, lambda number, _: stop.append(number))
data = dataset.SyncNetDataset(sys.argv[1:])
for _ in range(2):
    stop.clear()
    for batch in dataset.Loader(data, dataset.Batches(data, 4), num_workers=2):
        print(flush=True)
        if stop:
            time.sleep(0.3)  # saving a checkpoint
            break
    print("stopped by", *map(int, stop), flush=True)
def work(args):
    data.hp = None  # which no sample can be read without
    for batch in dataset.Loader(data, dataset.Batches(data, 4), num_workers=2):
        pass
sys.exit(cli.run(cli.Parser("loads"), work, []))
"""


@pytest.fixture(scope="module")
def loading(clips):
    """A program that loads until SIGINT, then until SIGTERM, then with an error: what stopped it, its end, errors."""
    command = [sys.executable, "-W", "ignore", "-c", LOADING, *map(str, clips)]  # torch warns if there is one core
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **pipes)
    hangs = threading.Timer(300, process.kill)
    hangs.start()
    stops = []
    for number in (signal.SIGINT, signal.SIGTERM):
        for _ in range(2):
            process.stdout.readline()  # a batch from each worker
        os.killpg(process.pid, number)
        stops.append(next((line for line in iter(process.stdout.readline, "") if line != "\n"), ""))
    _, errors = process.communicate()
    hangs.cancel()
    return stops, process.returncode, errors


def test_signals_to_the_whole_job_stop_only_the_main_process(loading):
    """Terminals and cluster managers signal the process group; a worker that died of it would be an error."""
    stops, _, errors = loading
    assert stops == [f"stopped by {number:d}\n" for number in (signal.SIGINT, signal.SIGTERM)], errors


def test_error_in_a_worker_ends_the_program(loading):
    """Workers ignore SIGTERM, with which Python ends them at exit: it used to wait for them for ever."""
    _, code, errors = loading
    assert code == 1 and "AttributeError" in errors


def test_failed_loader_has_ended_its_processes(clips):
    """If their end was left to the garbage collector, one of torch's threads might run it, and the program hung."""
    data = SyncNetDataset(clips)
    data.hp = None
    before = set(multiprocessing.active_children())
    with pytest.raises(AttributeError) as failure:  # whose traceback keeps the processes' owner alive
        next(iter(Loader(data, Batches(data, 2), num_workers=1)))
    assert failure.tb is not None and set(multiprocessing.active_children()) <= before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's
def test_processes_end_if_another_cannot_start(clips, monkeypatch):
    """As at a limit of processes. Nobody knew them any more, and the program waited for them for ever."""
    before, started = set(multiprocessing.active_children()), []
    start = multiprocessing.process.BaseProcess.start

    def limited(process):
        if started:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        started.append(process)
        start(process)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", limited)
    data = SyncNetDataset(clips)
    with pytest.raises(OSError, match="unavailable"):
        next(iter(Loader(data, Batches(data, 2), num_workers=2)))
    started[0].join(60)
    assert set(multiprocessing.active_children()) <= before


def test_second_ctrl_c_ends_the_processes(clips, monkeypatch):
    """It came while the first one waited for a process that hung in a read, which then stayed."""
    data, before = SyncNetDataset(clips), set(multiprocessing.active_children())
    loader = Loader(data, Batches(data, 2), num_workers=1)
    next(iter(loader))

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(loader._loader._iterator._workers_done_event, "set", interrupted)  # waiting for its lock
    with pytest.raises(KeyboardInterrupt):
        loader.close()
    assert set(multiprocessing.active_children()) <= before


# --------------------------------------------------------------------------------------------------------------------
# Augmentation


@pytest.fixture(scope="module")
def picture():
    """Smooth, with a different ramp in each channel and direction."""
    across, down = np.meshgrid(np.linspace(20, 200, 130), np.linspace(40, 220, 160))
    return np.dstack([across, down, (across + down) / 2]).astype(np.uint8)


def test_no_augmentation_is_a_plain_resize(picture):
    faces = Augmentation().apply([picture] * 5, 96, np.random.default_rng(0))
    assert faces.shape == (5, 96, 96, 3)
    assert np.abs(faces - cv2.resize(picture, (96, 96)).astype(int)).max() <= 2


def test_mirror(picture):
    face = Augmentation(mirror=1.0).apply([picture], 96, np.random.default_rng(0))[0]
    assert np.abs(face - cv2.resize(picture, (96, 96))[:, ::-1].astype(int)).max() <= 2


def test_frames_of_a_window_are_augmented_alike(picture):
    everything = Augmentation(0.5, 0.1, 0.1, 0.2, 0.2, 0.2, 1.0)
    results = [everything.apply([picture] * 5, 96, np.random.default_rng(seed)) for seed in range(8)]
    assert all((faces == faces[0]).all() for faces in results)
    assert len({faces.tobytes() for faces in results}) == 8


def test_shift_moves_by_at_most_its_share(picture):
    rng = np.random.default_rng(0)
    face = Augmentation(shift=0.1).apply([picture], 96, rng)[0].astype(int)
    plain = cv2.resize(picture, (96, 96)).astype(int)
    difference = (face - plain)[20:76, 20:76].mean(axis=(0, 1)) / 180  # ramps of 180 levels over the whole face
    assert 0 < np.abs(difference[:2]).max() <= 0.1 and np.isclose(difference[2], difference[:2].mean(), atol=0.01)


@pytest.mark.parametrize("kind", ["zoom", "brightness", "contrast", "colour"])
def test_zoom_and_levels_change_by_at_most_their_share(picture, kind):
    rng = np.random.default_rng(0)
    inside = np.s_[12:84, 12:84]
    plain = cv2.resize(picture, (96, 96)).astype(float)[inside].reshape(-1, 3)
    gains, offsets = [], []
    for _ in range(50):
        face = Augmentation(**{kind: 0.1}).apply([picture], 96, rng)[0].astype(float)[inside].reshape(-1, 3)
        lines = [np.polyfit(plain[:, channel], face[:, channel], 1) for channel in range(3)]
        gains.append([gain for gain, _ in lines])
        offsets.append([offset / 255 for _, offset in lines])
    gains, offsets = np.array(gains), np.array(offsets)
    if kind == "brightness":
        assert np.abs(gains - 1).max() < 0.01 and np.ptp(offsets, axis=1).max() < 0.01
        assert -0.105 < offsets.min() < -0.08 and 0.08 < offsets.max() < 0.105
    else:
        assert 0.89 < gains.min() < 0.92 and 1.08 < gains.max() < 1.11
        alike = np.ptp(gains, axis=1).max() < 0.02
        assert alike == (kind != "colour")


def test_blur_softens_by_at_most_its_width():
    dot = np.zeros((96, 96, 3), np.uint8)
    dot[44:52, 44:52] = 255
    rng = np.random.default_rng(0)
    faces = [Augmentation(blur=2.0).apply([dot], 96, rng)[0][48, :, 0] / 255.0 for _ in range(40)]
    place = np.arange(96)
    spreads = [np.average((place - 47.5) ** 2, weights=face) - np.var(np.arange(8)) for face in faces]
    assert -0.1 < min(spreads) < 0.2 and 3.0 < max(spreads) < 4.1  # squares of the standard deviation


def test_augmentation_does_not_change_the_draws(clips):
    plain, varied = SyncNetDataset(clips), SyncNetDataset(clips, augmentation=Augmentation(brightness=0.2))
    pairs = [(plain[key], varied[key]) for key in range(8)]
    assert all(torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]) for a, b in pairs)
    assert not any(torch.equal(a[0], b[0]) for a, b in pairs)
    assert plain.draw(5)[1:] == varied.draw(5)[1:]


# --------------------------------------------------------------------------------------------------------------------
# The benchmark


def test_benchmark_compares_equal_samples(monkeypatch, capsys):
    from benchmarks import dataset as benchmark

    threads = torch.get_num_threads(), cv2.getNumThreads()
    monkeypatch.setattr(benchmark, "ROUND_SECONDS", 0.02)
    monkeypatch.setattr(benchmark, "CLIPS", 1)
    assert benchmark.main(["--seconds", "1"]) == 0
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["name"] for line in lines] == ["expert_samples", "generator_samples"]
    assert all(line["ratio"] > 0 and line["largest_difference"] < 1e-3 for line in lines)


# --------------------------------------------------------------------------------------------------------------------
# Twins


def test_reference_is_the_twins_frame_of_the_same_moment(tmp_path):
    """The twin's pictures are inverted."""
    one, two = write_clip(tmp_path / "p" / "one"), write_clip(tmp_path / "p" / "two")
    for path in two.glob("*.jpg"):
        picture = cv2.imread(str(path))
        cv2.imwrite(str(path), 255 - picture)
    (one / "twin.txt").write_text("two\n")
    data = Wav2LipDataset([one], mel_lead=0)
    for key in range(5):
        x, _, _, y = data[key]
        assert torch.allclose(x[3:], 1 - y, atol=3 / 255)
    plain = Wav2LipDataset([one], mel_lead=0, twins=False)
    assert all(not torch.allclose(plain[key][0][3:], 1 - plain[key][3], atol=3 / 255) for key in range(5))


def test_data_sets_read_the_settings_when_they_are_made(tmp_path):
    """Not when the module is imported."""
    clip = write_clip(tmp_path / "p" / "one")
    usual = Wav2LipDataset([clip])
    with hp.changed("mel_lead=0,mask_top=0.25"):
        changed, named = Wav2LipDataset([clip]), Wav2LipDataset([clip], mel_lead=1, mask_top=0.5)
    assert changed.mel_frames == range(5) and changed.mask_start == 24
    assert usual.mel_frames == named.mel_frames == range(-1, 4) and usual.mask_start == named.mask_start == 48


@pytest.mark.parametrize("text", ["", "nobody", "../..", "short"])
def test_unusable_twin_is_ignored(tmp_path, text):
    one, short = write_clip(tmp_path / "p" / "one"), write_clip(tmp_path / "p" / "short")
    (short / "3.jpg").unlink()
    (one / "twin.txt").write_text(text)
    data, plain = (Wav2LipDataset([one], mel_lead=0, twins=twins) for twins in (True, False))
    assert same(data[0], plain[0])


@pytest.mark.parametrize("augmented", [False, True])
def test_large_faces_are_learned_as_inference_shows_them(tmp_path, augmented):
    """Pixels were skipped: grain of 500 pixels stayed as strong in 96, which inference averages away."""
    folder = write_clip(tmp_path / "s0" / "00001")
    grain = np.random.default_rng(0).normal(128, 30, (500, 400, 3)).clip(0, 255).astype(np.uint8)
    for path in folder.glob("*.jpg"):
        cv2.imwrite(str(path), grain)
    shown = crop(cv2.imread(str(folder / "0.jpg")), (0, 0, 400, 500))
    if augmented:
        learned = Augmentation().apply([cv2.imread(str(folder / "0.jpg"))], 96, np.random.default_rng(0))[0]
        assert np.abs(learned.astype(int) - shown).mean() < 2
    else:
        x, *_ = Wav2LipDataset([folder])[0]
        np.testing.assert_array_equal((255 * x[3:, 0]).round().numpy().transpose(1, 2, 0), shown)
    assert shown.std() < 10


def test_expert_sees_the_lower_half_in_bgr(tmp_path):
    folder = write_clip(tmp_path / "c")
    for path in folder.glob("*.jpg"):
        picture = np.zeros((96, 96, 3), np.uint8)
        picture[48:] = (40, 120, 200)
        cv2.imwrite(str(path), picture)
    data = SyncNetDataset([folder])
    x, *_ = data.sample(Draw(data.index.clips[0], 10, 40, True))
    assert 255 * x.unflatten(0, (5, 3)).mean((0, 2, 3)).numpy() == pytest.approx([40, 120, 200], abs=4)
