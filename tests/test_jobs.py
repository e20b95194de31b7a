"""Batches: pairs, tables, results that are made already, failures, and several processes."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import signal
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import faces
import files
import inference
import jobs
import video
from conftest import ROOT, Told, write_clip
from errors import UserError
from faces import FaceSearch
from lipsync import LipSync, Take
from models import weights

BOX = ("--face_detector", "haar", "--box", "10", "110", "10", "110")


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """A fifth of a second of a drawn picture, 120x120."""
    path = tmp_path_factory.mktemp("drawn") / "drawn.mp4"
    rows = np.linspace(0, 255, 120).astype(np.uint8)
    write_clip(path, np.stack([np.dstack([rows[:, None] + rows] * 3)] * 5))
    return path


@pytest.fixture
def room(tmp_path, monkeypatch, clip, speech):
    """The current folder, with a.mp4, b.mp4, c.mp4, bad.mp4 and voice.wav."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        shutil.copy(clip, tmp_path / name)
    (tmp_path / "bad.mp4").write_text("not a video")
    shutil.copy(speech, tmp_path / "voice.wav")
    return tmp_path


@pytest.fixture(scope="module")
def read_once():
    """Reads each checkpoint once for all programs, of which most make nothing with it."""
    return cache(weights.read_checkpoint)


@pytest.fixture
def program(room, clip, small_checkpoint, read_once, monkeypatch, capsys):
    """``program("--flag", …)`` runs inference.py, whose ``LipSync.run`` only copies the face and records its arguments.

    Returns the exit code, stdout, stderr, and the calls of this run.
    """
    calls: list[SimpleNamespace] = []
    sound_film = clip.read_bytes()

    def run(self, face, audio, outfile, **options):
        if not face.exists() or face.read_bytes() != sound_film:
            video.probe(face)  # which refuses what is missing or no video
        calls.append(SimpleNamespace(face=face, audio=audio, outfile=outfile, **options))
        outfile.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(face, outfile)
        return FakeTake()

    monkeypatch.setattr(LipSync, "run", run)
    monkeypatch.setattr(weights, "read_checkpoint", lambda path, network, report: read_once(path, network))
    monkeypatch.setattr(LipSync, "load", lambda self, searching: self.generator)
    monkeypatch.setattr(faces, "sfd_is_available", lambda report: False)

    def run_program(*flags):
        capsys.readouterr()
        calls.clear()
        code = inference.main([f"--checkpoint_path={small_checkpoint}", *map(str, flags)])
        return SimpleNamespace(code=code, calls=list(calls), **capsys.readouterr()._asdict())

    return run_program


class FakeTake:
    seconds = 1.2
    options = SimpleNamespace(is_part=False)

    def __len__(self):
        return 30

    __str__ = Take.__str__


def trios(done):
    return [(call.face.name, call.audio.name, str(call.outfile)) for call in done.calls]


def refused(done) -> str:
    """Return the one line with which a command was refused before any work."""
    assert done.code == 2 and not done.calls and done.err.startswith("error: ") and done.err.count("\n") == 1
    return done.err


# --------------------------------------------------------------------------------------------------------------------
# Files and folders


def test_one_face_and_one_speech_are_no_batch(program, room):
    done = program("--face", "a.mp4", "--audio", "voice.wav", "--outfile", "out.mp4")
    assert trios(done) == [("a.mp4", "voice.wav", "out.mp4")] and done.out == "out.mp4: 30 frames, 1.20 s\n"
    assert sorted(path.name for path in room.glob("*out*")) == ["out.mp4"]  # and no note beside it


def test_patterns_are_expanded_on_windows(room, monkeypatch):
    given = [Path("[ab].mp4"), Path("no*.mp4"), Path("c.mp4"), Path(f"{300 * 'x'}*")]
    assert files.expanded(given) == given  # other shells have expanded those that match
    monkeypatch.setattr(files.sys, "platform", "win32")
    assert files.expanded(given) == [Path("a.mp4"), Path("b.mp4"), *given[1:]]


def test_pairs_may_be_given_one_by_one():
    """Only the last --pair counted, silently; of --face and --audio it still does, as in the reference."""
    flags = ["--face", "a.mp4", "--face", "b.mp4", "--pair", "0=a.wav", "--pair", "1=b.wav", "2=c.wav"]
    args = inference.get_parser().parse_args(flags)
    assert args.face == [Path("b.mp4")] and args.pair == [(0, Path("a.wav")), (1, Path("b.wav")), (2, Path("c.wav"))]


def test_a_face_without_its_speech_does_not_speak_its_own_sound(program, room):
    """With one folder for both, a film whose speech was forgotten was its own."""
    for name in ("anna.mp4", "anna.wav", "ben.mp4"):
        (room / "both").mkdir(exist_ok=True)
        shutil.copy("a.mp4" if name.endswith("mp4") else "voice.wav", room / "both" / name)
    done = program("--face", "both", "--audio", "both", "--outfile", "made")
    assert trios(done) == [("anna.mp4", "anna.wav", "made/anna_anna.mp4")]
    assert "both/ben.mp4 is left out" in done.out + done.err


def test_one_speech_for_all_faces(program):
    done = program("--face", "a.mp4", "b.mp4", "--audio", "voice.wav", "--outfile", "made", "--mouth_gain", 1.5)
    assert trios(done) == [("a.mp4", "voice.wav", "made/a_voice.mp4"), ("b.mp4", "voice.wav", "made/b_voice.mp4")]
    assert done.code == 0 and all(call.mouth_gain == 1.5 for call in done.calls)
    assert "made/a_voice.mp4: 30 frames, 1.20 s" in done.out and "2 of 2 videos are made, 0 failed" in done.out


def test_as_many_speeches_as_faces(program):
    done = program("--face", "a.mp4", "b.mp4", "--audio", "b.mp4", "voice.wav")
    assert trios(done) == [("a.mp4", "b.mp4", "results/a_b.mp4"), ("b.mp4", "voice.wav", "results/b_voice.mp4")]


def test_one_face_for_all_speeches(program):
    done = program("--face", "a.mp4", "--audio", "b.mp4", "voice.wav")
    assert [(face, sound) for face, sound, _ in trios(done)] == [("a.mp4", "b.mp4"), ("a.mp4", "voice.wav")]


def test_folders_are_paired_by_name(program, room):
    for name in ("faces/sub", "voices"):
        (room / name).mkdir(parents=True)
    for name in ("faces/a.mp4", "faces/b.mp4", "faces/.hidden.mp4", "faces/sub/d.mp4", "voices/a.mp4", "voices/x.mp4"):
        shutil.copy("a.mp4", name)
    (room / "faces/notes.txt").write_text("a.mp4 is the best")
    for name in ("voices/a.wav", "voices/c.wav", "voices/jingle.wav", "voices/jingle.flac"):  # two, but nobody's
        shutil.copy("voice.wav", name)
    (room / "faces/c.png").write_bytes((ROOT / "docs/page.jpg").read_bytes())
    done = program("--face", "faces", "--audio", "voices")
    assert trios(done) == [("a.mp4", "a.wav", "results/a_a.mp4"), ("c.png", "c.wav", "results/c_c.mp4")]
    assert re.findall("note: (.*) is left out", done.out) == [
        "faces/b.mp4", "voices/jingle.flac", "voices/jingle.wav", "voices/x.mp4"
    ]  # fmt: skip
    assert [(face, sound) for face, sound, _ in trios(program("--face", "faces", "--audio", "voice.wav"))] == [
        (name, "voice.wav") for name in ("a.mp4", "b.mp4", "c.png")
    ]


def test_many_results_of_the_same_name_are_numbered_in_one_pass(tmp_path, monkeypatch):
    """Each tried all numbers from 2 on: ten thousand rows took twenty minutes before anything was made."""
    tried, key = [], jobs.listing._path_key
    monkeypatch.setattr(jobs.listing, "_path_key", lambda path: tried.append(path) or key(path))
    listed = [jobs.Job(tmp_path / f"{n}/video.mp4", tmp_path / "speech.wav") for n in range(60)]
    names = [job.outfile.name for job in jobs.settle(listed, tmp_path / "out")]
    assert names == ["video_speech.mp4", *(f"video_speech_{n}.mp4" for n in range(2, 61))] and len(tried) <= 3 * 60


def test_results_of_the_same_name_are_numbered(program, room):
    (room / "other").mkdir()
    shutil.copy("a.mp4", "other/A.mp4")
    done = program("--face", "a.mp4", "other/A.mp4", "--audio", "voice.wav")
    assert [name for *_, name in trios(done)] == ["results/a_voice.mp4", "results/A_voice_2.mp4"]


def test_names_that_are_too_long_together_are_shortened(program, room):
    face, sound = (f"{letter * 120}" for letter in "éx")
    shutil.copy("a.mp4", f"{face}.mp4")
    shutil.copy("voice.wav", f"{sound}.wav")
    done = program("--face", f"{face}.mp4", "a.mp4", "--audio", f"{sound}.wav")
    assert done.code == 0 and done.calls[0].outfile.name == f"{'é' * 100}.mp4"


@pytest.mark.parametrize("flags, words", [
    (["--face", "a.mp4"], "give --face and --audio (or --pair), or --jobs"),
    (["--face", "a.mp4", "b.mp4", "c.mp4", "--audio", "a.mp4", "voice.wav"], "3 faces and 2 files of --audio"),
    (["--face", "a.mp4", "b.mp4", "--audio", "voice.wav", "--outfile", "out.mp4"], "out.mp4 is the name of one video"),
    (["--face", "empty", "--audio", "voice.wav"], "empty has no video or photo"),
    (["--face", "a.mp4", "--audio", "empty"], "empty has no file with sound"),
    (["--face", ".", "--audio", "voice.wav", "--outfile", "."], "is a folder of --face or --audio"),
    (["--face", "results", "--audio", "voice.wav"], "is a folder of --face or --audio"),  # the default --outfile
    (["--face", "a.mp4", "b.mp4", "--audio", "other"], "such as a.wav for a.mp4"),
    (["--face", "a.mp4", "b.mp4", "--audio", "voice.wav", "--mouth_gain", "99"], "--mouth_gain 99 is not between"),
    (["--face", "a.mp4", "b.mp4", "--audio", "voice.wav", "--checkpoint_path", "no.pth"], "no.pth does not exist"),
    (["--jobs", "jobs.csv", "--face", "a.mp4"], "leave --face and --audio out"),
    (["--jobs", "none.csv"], "none.csv does not exist"),
    (["--jobs", "empty"], "is not a file"),
])  # fmt: skip
def test_impossible_pairs_are_refused(program, room, flags, words):
    (room / "empty").mkdir()
    (room / "other").mkdir()
    (room / "results").mkdir()
    shutil.copy("voice.wav", "other/z.wav")
    shutil.copy("a.mp4", "results/a.mp4")
    assert words in refused(program(*flags))


# --------------------------------------------------------------------------------------------------------------------
# Tables


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding, end", [("utf-8", "\n"), ("utf-8-sig", "\r\n")])
def test_table(program, room, separator, encoding, end):
    (room / "lists").mkdir()
    (room / "лица").mkdir()
    shutil.copy("b.mp4", "лица/b, c.mp4")
    rows = [
        ["Face", "audio", "outfile", "mouth_gain", "lip_delay", "static", "pads", "rotate", "box", "mix", "reference"],
        ["../a.mp4", "../voice.wav", "", "", "", "", "", "", "", "", ""],
        [],
        ['"../лица/b, c.mp4"', "../voice.wav", "own/b.mp4", "1.3", "-40", "no", "0 -5 0 0", "False", "", "", "7"],
        ["../c.mp4", str(room / "voice.wav"), "", "", "", "True", "", "yes", "1 2 3 4", "../a.mp4", "still"],
    ]
    text = "".join(separator.join(row) + end for row in rows)
    (room / "lists/jobs.csv").write_bytes(text.encode(encoding))
    done = program("--jobs", "lists/jobs.csv", "--outfile", "made", "--rotate", "--mouth_gain", 0.5)
    assert done.code == 0 and trios(done) == [
        ("a.mp4", "voice.wav", "made/a_voice.mp4"),
        ("b, c.mp4", "voice.wav", "lists/own/b.mp4"),
        ("c.mp4", "voice.wav", "made/c_voice.mp4"),
    ]
    options = [(c.mouth_gain, c.lip_delay, c.static, c.pads, c.rotate, c.box, c.reference) for c in done.calls]
    assert options == [
        (0.5, None, False, None, 90, None, None),
        (1.3, -40.0, False, [0, -5, 0, 0], 0, None, 7),
        (0.5, None, True, None, 90, [1, 2, 3, 4], "still"),
    ]
    assert done.calls[2].mix.samefile(room / "a.mp4")


def test_separator_that_excel_declares_is_no_row(program, room):
    """Excel's own line does not shift the numbers of rows."""
    (room / "jobs.csv").write_text("sep=;\nface;audio\na.mp4;voice.wav\n")
    assert trios(program("--jobs", "jobs.csv")) == [("a.mp4", "voice.wav", "results/a_voice.mp4")]
    (room / "jobs.csv").write_text("SEP=,\r\nface,audio\r\na.mp4,\r\n")
    assert "row 3 of jobs.csv has no audio" in refused(program("--jobs", "jobs.csv"))


def test_names_that_rows_ask_for_are_not_given_to_others(program, room):
    (room / "jobs.csv").write_text("face,audio,outfile\na.mp4,voice.wav,\nb.mp4,voice.wav,results/a_voice.mp4\n")
    names = ["results/a_voice_2.mp4", "results/a_voice.mp4"]
    assert [name for *_, name in trios(program("--jobs", "jobs.csv"))] == names


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas(program, room, separator):
    """Excel writes them wherever it separates cells by semicolons, and copies them with tabs."""
    text = "face;audio;lip_delay\na.mp4;voice.wav;-12,5\n"
    (room / "jobs.csv").write_text(text.replace(";", separator))
    assert program("--jobs", "jobs.csv").calls[0].lip_delay == -12.5


GOOD = "a.mp4,voice.wav"


@pytest.mark.parametrize("text, words", [
    ("", "jobs.csv is empty"),
    ("\n \n", "jobs.csv is empty"),
    ("face,audio\n", "no line for a video"),
    ("face\na.mp4\n", "has no column 'audio'"),
    (f"{GOOD}\n{GOOD}\n", "has a column 'a.mp4', which is not a flag; columns are face, audio"),
    ("face,audio,lip_dealy\na.mp4,voice.wav,3\n", "'lip_dealy', which is not a flag; is it lip_delay?"),
    ("face,audio,face\na.mp4,voice.wav,b.mp4\n", "two columns 'face'"),
    ("face,audio,checkpoint_path\na.mp4,voice.wav,x\n", "all rows share --checkpoint_path"),
    ("face,audio,pair\na.mp4,voice.wav,0=voice.wav\n", "--pair does not work with tables"),
    ("face,audio,device\na.mp4,voice.wav,cpu\n", "all rows share --device"),
    ("face,audio,face_detector\na.mp4,voice.wav,haar\n", "all rows share --face_detector"),
    ("face,audio,precision\na.mp4,voice.wav,fp32\n", "all rows share --precision"),
    ("face,audio,debug\na.mp4,voice.wav,yes\n", "all rows share --debug"),
    (f"face,audio\n{GOOD}\n\na.mp4,\n", "row 4 of jobs.csv has no audio"),
    (f"face,audio\n{GOOD},b.mp4\n", "row 2 of jobs.csv has 'b.mp4' in a column without a name"),
    (f"face,audio\n{GOOD}\n\"a.mp4,voice.wav\n", "jobs.csv is not a table"),
    (f"face,audio\n{'a' * 70000},voice.wav\n", "jobs.csv is not a table"),
    (f"face,audio\n{'a' * 300},voice.wav\n", "row 2 of jobs.csv: aaaaaaaaaaaaaaaaaaaa… is a name of more than 255"),
    (f"face,audio,mouth_gain\n{GOOD},\nb.mp4,voice.wav,much\n", "row 3 of jobs.csv: argument --mouth_gain: 'much'"),
    (f"face,audio,mouth_gain\n{GOOD},99\n", "row 2 of jobs.csv: --mouth_gain 99 is not between"),
    (f"face,audio,rotate\n{GOOD},maybe\n", "row 2 of jobs.csv: argument --rotate: 'maybe' is not a turn"),
    (f"face,audio,blend\n{GOOD},sharp\n", "row 2 of jobs.csv: argument --blend: invalid choice: 'sharp'"),
    (f"face,audio,crf\n{GOOD},--debug\n", "row 2 of jobs.csv: argument --crf: '--debug' is not a whole number"),
    (f"face,audio,pads\n{GOOD},0 0 0 0 --debug\n", "row 2 of jobs.csv: argument --pads: '--debug' is not a whole"),
    (f"face,audio,pads\n{GOOD},-h\n", "row 2 of jobs.csv: argument --pads: '-h' is not a whole number"),
    (f"face,audio,pads\n{GOOD},1 2\n", "row 2 of jobs.csv: --pads takes four numbers"),
    (f"face,audio,outfile\n{GOOD},x.mp4\nb.mp4,voice.wav,./x.mp4\n", "row 2 of jobs.csv and row 3 of jobs.csv have"),
    (f"face,audio,outfile\n{GOOD},x.txt\n", "row 2 of jobs.csv: x.txt must end in one of"),
    (f"face,audio,outfile\n{GOOD},a.mp4\n", "row 2 of jobs.csv: outfile a.mp4 is one of the files to read"),
    (f"face,audio,outfile\n{GOOD},link.mp4\nb.mp4,voice.wav,\n", "row 2 of jobs.csv: outfile link.mp4 is one of the"),
    (f"face,audio,outfile\n{GOOD},x.mp4\nx.mp4,voice.wav,\n", "row 2 of jobs.csv: outfile x.mp4 is one of the files"),
    (f"face,audio,outfile,mix\n{GOOD},c.mp4,c.mp4\n", "row 2 of jobs.csv: outfile c.mp4 is one of the files"),
])  # fmt: skip
def test_bad_tables_are_refused(program, room, text, words):
    os.link("b.mp4", "link.mp4")
    (room / "jobs.csv").write_text(text)
    assert words in refused(program("--jobs", "jobs.csv"))


@pytest.mark.parametrize("content, words", [
    ("face,audio\nлицо.mp4,voice.wav\n".encode("cp1251"), "jobs.csv is not UTF-8 text"),
    ("face,audio\na.mp4,voice.wav\n".encode("utf-16"), "jobs.csv is not UTF-8 but UTF-16"),
    (b"face,audio\na\0.mp4,voice.wav\n", "jobs.csv is not UTF-8 text"),
])  # fmt: skip
def test_tables_that_are_not_utf8_are_refused(program, room, content, words):
    (room / "jobs.csv").write_bytes(content)
    assert words in refused(program("--jobs", "jobs.csv"))


# --------------------------------------------------------------------------------------------------------------------
# Failures, and how a batch goes on


def test_failures_do_not_stop_the_other_videos(program):
    done = program("--face", "bad.mp4", "a.mp4", "missing.mp4", "b.mp4", "--audio", "voice.wav")
    assert done.code == 2 and [call.face.name for call in done.calls] == ["a.mp4", "b.mp4"]
    table = done.out.partition("2 of 4 videos are made, 2 failed\n")[2].splitlines()
    assert len(table) == 2 and "bad_voice.mp4: bad.mp4 is not a video" in table[0] and "missing.mp4 does" in table[1]
    assert (
        done.err
        == "error: 2 of 4 videos failed, as reported above; the same command, without --again, makes only these\n"
    )


@pytest.mark.parametrize(
    "error, code",
    [(RuntimeError("the encoder\nbroke"), 1), (OSError(5, "the disk broke"), 1), (cv2.error("OpenCV broke"), 1)],
)
def test_failures_beyond_the_users_control(program, monkeypatch, error, code):
    real = LipSync.run

    def run(self, face, *rest, **options):
        if face.name == "b.mp4":
            raise error
        return real(self, face, *rest, **options)

    monkeypatch.setattr(LipSync, "run", run)
    done = program("--face", "bad.mp4", "b.mp4", "c.mp4", "--audio", "voice.wav")
    assert done.code == code and "1 of 3 videos are made, 2 failed" in done.out and "broke" in done.out
    assert [call.face.name for call in done.calls] == ["c.mp4"]


@pytest.mark.parametrize("error, code", [(OSError(28, "No space left on device"), 1), (KeyError("x"), 1)])
def test_failure_that_would_hit_every_video_stops_the_batch(program, monkeypatch, error, code):
    def run(*_, **__):
        raise error

    monkeypatch.setattr(LipSync, "run", run)
    done = program("--face", "a.mp4", "b.mp4", "--audio", "voice.wav")
    assert done.code == code and "videos are made" not in done.out and done.err.count("\n") == 1


def test_only_missing_or_outdated_results_are_made(program, room):
    command = ["--face", "a.mp4", "bad.mp4", "b.mp4", "--audio", "voice.wav"]

    def remade(*more):
        return [call.face.name for call in program(*command, *more).calls]

    assert remade() == ["a.mp4", "b.mp4"] and remade() == []
    assert "2 of 3 videos are made (2 of them before), 1 failed" in program(*command).out
    assert remade("--again") == ["a.mp4", "b.mp4"] and remade() == []
    assert remade("--mouth_gain", 1.2) == ["a.mp4", "b.mp4"] and remade("--mouth_gain", 1.2) == []
    assert remade() == ["a.mp4", "b.mp4"]
    (room / "results/a_voice.mp4").unlink()
    (room / "results/b_voice.mp4").write_bytes(b"somebody else's")
    assert remade() == ["a.mp4", "b.mp4"]
    (room / "results/.a_voice.mp4.json").write_text("{")
    shutil.copy("a.mp4", "b.mp4")
    os.utime("b.mp4", ns=(0, 1))
    assert remade() == ["a.mp4", "b.mp4"] and remade() == []
    (room / "bad.mp4").unlink()
    shutil.copy("a.mp4", "bad.mp4")
    assert remade() == ["bad.mp4"]


def test_another_network_or_mix_makes_all_again(program, room, small_checkpoint, monkeypatch):
    command = ["--face", "a.mp4", "b.mp4", "--audio", "voice.wav", "--mix", "c.mp4"]
    assert [len(program(*command).calls) for _ in range(2)] == [2, 0]
    content = bytearray(small_checkpoint.read_bytes())
    (room / "same.pth").write_bytes(content)
    assert program(*command, "--checkpoint_path", "same.pth").calls == []
    os.utime("c.mp4", ns=(0, 1))
    assert len(program(*command).calls) == 2
    monkeypatch.setattr(jobs.working.files, "cached_digest", lambda path: "another")
    assert len(program(*command).calls) == 2


def test_another_speech_of_the_same_size_and_date_makes_it_again(program, room):
    """As unpacked archives have them; files were known by size and date only, and the old words stayed."""
    for name in ("hello.wav", "bye.wav"):
        shutil.copy("voice.wav", name)
        os.utime(name, ns=(10**9, 10**9))
    (room / "jobs.csv").write_text("face,audio,outfile\na.mp4,hello.wav,out.mp4\n")
    assert [len(program("--jobs", "jobs.csv").calls) for _ in range(2)] == [1, 0]
    record = json.loads(next(room.rglob("*out.mp4*.json")).read_text())
    del record["names"]  # of an earlier version
    next(room.rglob("*out.mp4*.json")).write_text(json.dumps(record))
    assert program("--jobs", "jobs.csv").calls == []
    assert len(program("--jobs", "jobs.csv", "--again").calls) == 1
    (room / "jobs.csv").write_text("face,audio,outfile\na.mp4,bye.wav,out.mp4\n")
    assert len(program("--jobs", "jobs.csv").calls) == 1


def test_all_that_decides_a_result_is_recorded(room, small_checkpoint):
    (room / "restorer.pth").write_bytes(b"a")
    (room / "sface.onnx").write_bytes(b"b")
    (room / "chain.pem").write_bytes(b"c")
    (room / "face.png").write_bytes(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())

    def recorded(lips, **options):
        (job,) = jobs.settle(jobs.pair("a.mp4", "voice.wav", options), "out")
        return json.dumps(jobs.working.record(job, lips))

    def opened():
        plain, restoring, signing, exact = (
            LipSync(small_checkpoint, search=FaceSearch("centerface"), precision=name)
            for name in ("auto", "auto", "auto", "fp32")
        )
        signing.credentials = SimpleNamespace(certificates=room / "chain.pem")
        restoring.restorer = room / "restorer.pth"
        return plain, restoring, signing, exact

    said = LipSync(small_checkpoint, search=FaceSearch("centerface"))
    assert recorded(said) == recorded(said, occlusion="keep") != recorded(said, occlusion="ignore")  # keep is usual

    def all_records(plain, *others):
        alike = [recorded(plain, face_like="face.png", identity=identity) for identity in ("sface", "sface.onnx")]
        return [recorded(one) for one in (plain, *others)] + [recorded(plain, crf=20), *alike]

    first = opened()
    before = all_records(*first)
    assert len({*before}) == 7
    for name in ("restorer.pth", "chain.pem", "sface.onnx"):
        (room / name).write_bytes(b"another")
    now = all_records(*opened())
    assert [old == new for old, new in zip(before, now)] == [True, False, False, True, True, True, False]
    assert recorded(first[1]) == before[1]  # which has loaded the restorer of before
    assert recorded(first[0], box=np.array([1, 9, 2, 8])) == recorded(first[0], box=(1, 9, 2, 8))


def test_another_detector_makes_all_again(program, room, monkeypatch):
    """Offline, "auto" is CenterFace; once S3FD was downloaded, batches used to end up half and half."""
    command = ["--face", "a.mp4", "b.mp4", "--audio", "voice.wav"]
    boxed = [*command, *BOX, "--outfile", "boxed"]
    assert [len(program(*each).calls) for each in (command, boxed)] == [2, 2]
    (room / "s3fd.pth").write_bytes(b"weights")
    monkeypatch.setattr(faces, "SFD_WEIGHTS", room / "s3fd.pth")
    assert [len(program(*each).calls) for each in (command, boxed)] == [2, 0]
    (room / "s3fd.pth").write_bytes(b"others")
    assert [len(program(*each).calls) for each in (command, boxed)] == [2, 0]


def test_another_expert_makes_all_again_only_with_speaker_auto(program):
    command = ["--face", "a.mp4", "b.mp4", "--audio", "voice.wav"]
    for flags, counts in ((("--speaker", "auto"), [2, 0, 2]), (("--mouth_gain", "2"), [2, 0, 0])):
        experts = ("demo", "demo", "lipsync_expert")
        calls = [len(program(*command, *flags, "--syncnet_checkpoint_path", name).calls) for name in experts]
        assert calls == counts


def test_outfile_names_must_leave_room_for_the_note(program, room):
    """The disk takes this name, but not with what the note's name adds to it."""
    (room / "jobs.csv").write_text(f"face,audio,outfile\na.mp4,voice.wav,{'x' * 247}.mp4\n")
    done = program("--jobs", "jobs.csv")
    assert done.code == 2 and not done.calls and "give a shorter one" in done.err


def test_empty_batch_succeeds(small_checkpoint):
    assert jobs.work_through([], LipSync(small_checkpoint)) == jobs.Outcome()


def test_notes_name_their_video(room, small_checkpoint, silence, monkeypatch):
    """And no detector is asked for, as all faces have boxes."""
    told = Told()
    monkeypatch.setattr(FaceSearch, "detector_weights", None)
    lips = LipSync(small_checkpoint, search=FaceSearch("sfd"), report=told)
    listed = jobs.settle(jobs.pair([room / "a.mp4"], [silence], {"box": (10, 110, 10, 110)}), room / "out")
    outcome = jobs.work_through(listed, lips)
    assert outcome.made == 1 and not outcome.failed
    assert any(note.startswith("a_silence.mp4: note: ") and "silent" in note for note in told.notes)


def test_full_disk_stops_the_batch_and_says_how_to_go_on(program, monkeypatch):
    real, count = LipSync.run, itertools.count()

    def run(*args, **options):
        if next(count) == 2:
            raise OSError(errno.ENOSPC, "No space left", "results/c_voice.mp4")
        return real(*args, **options)

    monkeypatch.setattr(LipSync, "run", run)
    done = program("--face", "a.mp4", "b.mp4", "c.mp4", "--audio", "voice.wav")
    assert done.code == 1 and done.err == (
        "error: results/c_voice.mp4: No space left; 2 of 3 videos are made; make room, and the same command, without "
        "--again, goes on from there\n"
    )


def test_interrupted_batch_can_be_continued(program, monkeypatch):
    real, count = LipSync.run, itertools.count()

    def run(*args, **options):
        if next(count) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(*args, **options)

    monkeypatch.setattr(LipSync, "run", run)
    command = ("--face", "a.mp4", "b.mp4", "c.mp4", "--audio", "voice.wav")
    done = program(*command)
    assert done.code == 130 and done.err.count("\n") == 1
    assert "stopped; 2 of 3 videos are made, and the same command, without --again, goes on from there" in done.err
    assert [call.face.name for call in program(*command).calls] == ["c.mp4"]
    count = itertools.count(1)
    assert program(*command, "--again").code == 130  # after the first; the others used to count as made from then on
    assert [call.face.name for call in program(*command).calls] == ["b.mp4", "c.mp4"]


# --------------------------------------------------------------------------------------------------------------------
# For real, in several processes


def test_processes_share_the_work(program, monkeypatch):
    command = ("--face", "a.mp4", "bad.mp4", "b.mp4", "c.mp4", "--audio", "voice.wav")
    monkeypatch.setenv("WORLD_SIZE", "2")
    results = []
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        results.append(program(*command))
    assert [[call.face.name for call in done.calls] for done in results] == [["c.mp4"], ["a.mp4", "b.mp4"]]
    assert [done.code for done in results] == [0, 2]
    assert "process 1 of 2: 1 of 2 videos are made; the last to finish reports on all" in results[0].out
    assert "3 of 4 videos are made, 1 failed" in results[1].out and "bad_voice.mp4: bad.mp4" in results[1].out


@pytest.fixture
def kept_signals():
    """Undo that torchrun, when it is called in this process, leaves its own handlers."""
    kept = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield
    for number, handler in kept.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def test_torchrun(room, small_checkpoint, kept_signals, monkeypatch, capfd):
    """Called here, since importing torch takes two seconds; both of its processes start afresh."""
    from torch.distributed import run as torchrun

    (room / "jobs.csv").write_text("face,audio\n" + "".join(f"{name}.mp4,voice.wav\n" for name in "abc"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = ["-m", "inference", "--jobs", "jobs.csv", f"--checkpoint_path={small_checkpoint}", *BOX]
    torchrun.main(["--standalone", "--nproc_per_node=2", *command, "--device", "cpu"])
    assert capfd.readouterr().out.count("3 of 3 videos are made, 0 failed\n") == 1
    frames = [list(video.read_frames(video.probe(path))) for path in sorted((room / "results").glob("*.mp4"))]
    assert [len(one) for one in frames] == [30, 30, 30]
    assert all(np.array_equal(one, frames[0]) for one in frames)  # the three faces are the same
    assert sorted(path.name for path in (room / "results").glob(".*")) == [f".{x}_voice.mp4.json" for x in "abc"]


def test_accented_names_match_in_either_unicode_form(tmp_path):
    """macOS may store either; both look alike."""
    for folder, name in (("faces", "Ren\u00e9.mp4"), ("sounds", "Rene\u0301.wav")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(b"x")
    ((face, sound),) = [(job.face, job.audio) for job in jobs.pair([tmp_path / "faces"], [tmp_path / "sounds"])]
    assert face.suffix == ".mp4" and sound.suffix == ".wav"


def test_faces_without_sounds_are_refused(room):
    for films, sounds in (([room / "a.mp4"], []), ([], [room / "voice.wav"])):
        with pytest.raises(UserError, match="give at least one --face"):
            jobs.pair(films, sounds)
