"""What programs may pass to the library, and which state of theirs it leaves alone."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import concurrency
import jobs
import sync
import video
from conftest import ROOT
from errors import UserError
from evaluation import quality
from faces import FaceSearch
from lipsync import LipSync, Options
from preprocessing import PreprocessingOptions, write_filelists
from recipes import TrainingOptions, training_session
from reporting import Cancelled, Reporter
from sync.embedding import Face, Voice


def test_single_file_counts_as_a_list():
    """A name used to be split into its letters."""
    assert [(job.face, job.audio) for job in jobs.pair("a.mp4", "a.wav")] == [(Path("a.mp4"), Path("a.wav"))]
    assert len(jobs.pair(["a.mp4", "b.mp4"], Path("a.wav"))) == 2
    with pytest.raises(UserError, match="give at least one --face"):
        jobs.pair([], "a.wav")
    with pytest.raises(UserError, match="nowhere.mp4 does not exist"):
        sync.measure("nowhere.mp4", "nowhere.wav", None)


def test_strings_are_accepted_as_paths(tmp_path):
    (settled,) = jobs.settle([jobs.Job("a.mp4", b"a.wav")], str(tmp_path))
    assert (settled.face, settled.audio) == (Path("a.mp4"), Path("a.wav"))
    assert FaceSearch(folder="boxes").folder == "boxes"


def test_score_needs_an_opened_expert(talking_clip):
    with pytest.raises(UserError, match="open the expert first: sync.open_expert.'demo'."):
        sync.score(talking_clip, "demo")


@pytest.mark.parametrize("sound", [np.zeros(16000, np.float32), 3, None])
def test_arguments_that_are_not_files_are_refused(small_checkpoint, talking_clip, sound, tmp_path):
    lips = LipSync(small_checkpoint)
    for call in (
        lambda: lips.run(talking_clip, sound, tmp_path / "a.mp4"),
        lambda: lips.prepare(talking_clip, sound),
        lambda: lips.prepare(sound, talking_clip),
        lambda: lips.preview(sound, talking_clip, 0),
        lambda: jobs.Job(talking_clip, sound),
    ):
        with pytest.raises(UserError, match=f"a {type(sound).__name__} is not a file name; save"):
            call()


def test_bad_options_are_user_errors():
    """Servers pass on what their users send, so these are no faults of the program."""
    with pytest.raises(UserError, match="no option pad; is it pads"):
        Options.of({"pad": (0, 0, 0, 0)})
    with pytest.raises(UserError, match="no option xyz; there are static, fps"):
        jobs.settle(jobs.pair("a.mp4", "a.wav", {"xyz": 1}), "out")
    with pytest.raises(UserError, match="static must be True or False"):
        Options(static=np.array([1, 0]))
    assert Options(static=np.bool_(True)).static


@pytest.mark.parametrize(
    "call",
    [
        lambda: TrainingOptions(keep=0),
        lambda: TrainingOptions(seed=-1),
        lambda: PreprocessingOptions(workers=0),
        lambda: PreprocessingOptions(gpus=0),
        lambda: write_filelists([], (0.5, 0.5), 0, "lists"),
        lambda: LipSync(credentials="chain.pem"),
        lambda: LipSync("demo").preview("a.mp4", "a.wav", float("inf")),
    ],
)
def test_library_refuses_what_the_command_line_would(call):
    with pytest.raises(UserError):
        call()


def test_takes_and_results_are_hashable(small_checkpoint, talking_clip, speech):
    with LipSync(small_checkpoint).prepare(talking_clip, speech, box=(10, 200, 60, 240)) as take:
        assert len({take, take}) == 1 and take == take
    result = sync.compare(*a_pair())
    assert hash(result) and result != sync.compare(*a_pair())


def a_pair() -> tuple[Face, Voice]:
    vectors = np.ones((40, 2), np.float16) / np.float16(2) ** 0.5
    return Face(np.zeros((44, 4)), np.arange(40), vectors, None), Voice(vectors[:40])


def test_warnings_stay_on():
    """Threads that suppressed them at the same time used to leave them off in the whole process."""
    pair = a_pair()
    str(sync.compare(*pair))  # scipy, once it is imported, has filters of its own
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [str(sync.compare(*pair)) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_curve_is_the_mean_of_overlapping_windows():
    face, voice = a_pair()
    late = Voice(np.concatenate((np.zeros((30, 2), np.float16), voice.vectors[:10])))
    curve = sync.compare(face, late).curve
    assert np.isnan(curve[15 + 15 :]).sum() == 0  # half of the windows meet at every offset from -15 to 15
    expected = [np.mean([float(start + offset >= 30) for start in range(40) if 0 <= start + offset < 40])
                for offset in range(-15, 16)]  # fmt: skip
    np.testing.assert_allclose(curve, expected, atol=1e-3)


def test_reading_a_table_keeps_the_csv_field_limit(tmp_path):
    before, needed = csv.field_size_limit(999_999), ("face", "audio")
    (tmp_path / "jobs.csv").write_text("face,audio\na.mp4,a.wav\n")
    jobs.read_table(tmp_path / "jobs.csv", needed, needed, ())
    assert csv.field_size_limit(before) == 999_999


def test_training_restores_random_state_and_cudnn_switch():
    torch.manual_seed(5)
    state, switch = torch.get_rng_state(), torch.backends.cudnn.benchmark
    with training_session(TrainingOptions(device="cpu", seed=3)):
        first = torch.rand(1)
    with training_session(TrainingOptions(device="cpu", seed=3)):
        assert torch.rand(1) == first
    assert (torch.get_rng_state() == state).all() and torch.backends.cudnn.benchmark == switch


def test_cancelling_one_job_cancels_all(small_checkpoint, talking_clip, speech, tmp_path):
    """Any other error in a callback counts as one video's, and the others continue."""

    class Cancelling(Reporter):
        def progress(self, stage, done, total):
            stages.append(stage)
            if stage == "Lip-syncing":
                raise Cancelled("enough")

    stages = []
    lips = LipSync(small_checkpoint, report=Cancelling())
    options = {"box": (10, 200, 60, 240)}
    todo = jobs.settle([jobs.Job(talking_clip, speech, tmp_path / f"{n}.mp4", options) for n in range(2)], tmp_path)
    with pytest.raises(Cancelled):
        jobs.work_through(todo, lips)
    assert stages.count("Lip-syncing") == 1 and not list(tmp_path.glob("*.mp4"))


def test_streams_continue_after_the_main_thread_ends():
    """Python waits for other threads, but then no pool accepts work: their results used to be lost."""
    code = """
import threading, time
from concurrency import in_parallel, prefetch

def work():
    made = prefetch((time.sleep(0.01) or n for n in range(60)), 3)
    print(sum(in_parallel(lambda n: n, made, 2)) + sum(prefetch(range(60))))

threading.Thread(target=work).start()
time.sleep(0.2)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{2 * 60 * 59 // 2}\n", "")


def test_abandoned_streams_end_during_garbage_collection():
    """The garbage collector may run while another stream, or any pool, is starting a task."""
    code = """
import gc, itertools
from concurrency import prefetch

for _ in range(60):
    ring = [prefetch(prefetch(itertools.count(), 4), 4)]
    ring.append(ring)
    next(ring[0])
gc.collect()
kept = prefetch(itertools.count(), 4)  # to the end
print(next(kept))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


@pytest.mark.skipif(os.name == "nt", reason="a process cannot press its own Ctrl-C there")
def test_second_ctrl_c_still_waits_for_streams_to_close():
    """Threads still at work when Python exited used to crash it."""
    code = """
import os, signal, threading, time
from concurrency import prefetch

closing, interrupted = threading.Event(), threading.Event()

def frames():
    try:
        yield 1
        os.kill(os.getpid(), signal.SIGINT)
        closing.wait()
        time.sleep(0.1)  # until the main thread waits for this one
        os.kill(os.getpid(), signal.SIGINT)
        interrupted.wait()
        yield 2
    finally:
        print("closed", flush=True)

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    for _ in prefetch(frames(), stop=closing.set):
        pass
except KeyboardInterrupt:
    print("interrupted", flush=True)
    interrupted.set()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, sorted(done.stdout.split()), done.stderr) == (0, ["closed", "interrupted"], "")


def test_abandoned_nested_streams_let_python_exit():
    code = """
import itertools, time
from concurrency import prefetch

slow = (time.sleep(0.2) or n for n in itertools.count())
kept = prefetch((2 * n for n in prefetch(slow, 1)), 4)
print(next(kept))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process is forked there")
def test_forked_process_may_close_a_stream():
    code = """
import itertools, os, sys
from concurrency import prefetch

kept = prefetch(itertools.count())
next(kept)
if child := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
kept.close()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_garbage_collection_amid_other_threads_does_not_deadlock():
    """A pool of Python's holds a lock while it takes a task, and may be needed to close what is collected then."""
    code = """
import gc, itertools, threading, time
from concurrent.futures import Future
from concurrency import in_parallel, prefetch

gate, reached = threading.Event(), threading.Event()

def items():
    for n in itertools.count():
        if n == 7:
            reached.set()
            gate.wait()  # between two tasks when garbage is collected
        yield n

abandoned = prefetch(in_parallel(int, items(), 2), 2)
for _ in range(4):
    next(abandoned)
reached.wait()
ring = [abandoned]
ring.append(ring)
gc.disable()
del abandoned, ring
create = Future.__init__

def collecting(future):
    create(future)
    if threading.current_thread() is threading.main_thread() and not gate.is_set():
        gate.set()
        time.sleep(0.3)  # until the other thread begins its next task
        gc.collect()

Future.__init__ = collecting
print(*in_parallel(int, range(3), 2))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 1 2\n", "")


def test_python_exits_without_doing_what_was_ahead():
    code = """
import itertools, time
from concurrency import prefetch

def frames():
    for n in itertools.count():
        time.sleep(0.1)
        print(n, flush=True)
        yield n

kept = prefetch(frames(), 1000)
next(kept)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout.split()) < 100


def test_work_in_parallel_is_prepared_in_each_thread():
    prepared, begun = [], threading.Barrier(3, timeout=60)

    def work(item):
        begun.wait()
        return threading.current_thread(), item

    results = list(concurrency.in_parallel(work, range(3), 3, lambda: prepared.append(threading.current_thread())))
    assert [item for _, item in results] == [0, 1, 2]
    assert {thread for thread, _ in results} == set(prepared) and len(prepared) == 3


def test_stream_closes_even_if_stop_fails():
    closed, before = [], set(concurrency._working)  # those of failed tests, whose tracebacks keep them

    def items():
        try:
            yield from range(9)
        finally:
            closed.append(True)

    stream = concurrency.prefetch(items(), stop=lambda: 1 / 0)
    next(stream)
    with pytest.raises(ZeroDivisionError):
        stream.close()
    assert closed and concurrency._working <= before


def test_items_are_closed_if_no_thread_can_start(monkeypatch):
    closed, before = [], set(concurrency._working)

    def items():
        try:
            yield 1
        finally:
            closed.append(True)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    generator = items()
    next(generator)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        next(concurrency.prefetch(generator))
    assert closed and concurrency._working <= before


def test_quality_accepts_strings_as_paths(tmp_path):
    with pytest.raises(UserError, match="a.mp4 does not exist"):
        quality.score_file(str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), FaceSearch("haar"))


def test_documented_server_works(small_checkpoint, talking_clip, speech, tmp_path, monkeypatch):
    """A client in any language sends two files, and gets a video, or one line of error."""
    testclient = pytest.importorskip("fastapi.testclient")
    text = (ROOT / "docs/lip-sync.md").read_text(encoding="utf-8").partition("put this into `server.py`")[2]
    code = (
        text.partition("```python\n")[2].partition("```")[0].replace("LipSync()", "LipSync(checkpoint, search=search)")
    )
    names = {"checkpoint": small_checkpoint, "search": FaceSearch("haar", folder=tmp_path)}
    exec(compile(code.replace("from __future__", "#"), "server.py", "exec"), names)
    with testclient.TestClient(names["app"]) as client:
        uploads = {"face": talking_clip.read_bytes(), "audio": speech.read_bytes()}
        reply = client.post("/lip-sync", files=uploads)
        assert reply.status_code == 200 and reply.headers["content-type"] == "video/mp4"
        (tmp_path / "made.mp4").write_bytes(reply.content)
        assert video.probe(tmp_path / "made.mp4").lasts == pytest.approx(1.2, abs=0.05)
        refused = client.post("/lip-sync", files=uploads | {"audio": b"no sound"})
        assert refused.status_code == 400 and "audio" in refused.json()["detail"]
