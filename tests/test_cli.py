from __future__ import annotations

import argparse
import gc
import importlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import cli
import devices
import inference
from conftest import ROOT
from errors import MissingFile, UserError
from terminal import Terminal


def run(work, *argv):
    return cli.run(cli.Parser("test"), work, list(argv))


@pytest.mark.parametrize("kind, text, words", [
    (cli.positive(int), "1.5", "'1.5' is not a whole number above 0"),
    (cli.positive(float), "-1", "'-1' is not a number above 0"),
    (cli.path, "", "this name is empty; give a file or a folder"),
])  # fmt: skip
def test_argument_types_refuse_bad_values(kind, text, words):
    with pytest.raises(argparse.ArgumentTypeError, match=words):
        kind(text)


def test_path_flags_refuse_empty_names(capsys):
    parser = cli.Parser("A test.")
    parser.add_argument_group("more").add_argument("--file", nargs="+", type=Path)
    assert cli.run(parser, lambda args: None, ["--file", "a", ""]) == 2
    assert "argument --file: this name is empty" in capsys.readouterr().err


def test_help_shows_only_informative_defaults(capsys):
    parser = cli.Parser("A test.")
    parser.add_argument("--often", type=int, default=0, help="So often.")
    parser.add_argument("--file", help="A file.")
    parser.add_argument("--switch", action="store_true", help="A switch.")
    assert cli.run(parser, lambda args: None, ["--help"]) == 0
    shown = capsys.readouterr().out
    assert "So often. (default: 0)" in shown and shown.count("(default") == 1 and "A switch." in shown

    parser.add_argument("--places", nargs=2, type=int, default=[3, -1], help="Two numbers.")
    parser.add_argument("--words", default="", help="Words.")
    assert cli.run(parser, lambda args: None, ["--help"]) == 0
    shown = capsys.readouterr().out
    assert "Two numbers. (default: 3 -1)" in shown and shown.count("(default") == 2


PROGRAMS = [
    path for folder in (".", "demo", "evaluation", "benchmarks") for path in sorted((ROOT / folder).glob("*.py"))
    if "def get_parser() -> cli.Parser:" in path.read_text(encoding="utf-8")
]  # fmt: skip


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_help_texts_are_sentences(path):
    parser = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts)).get_parser()
    for action in parser._actions[1:]:  # except argparse's own --help
        name, words = action.dest, action.help
        assert words and words[0].isupper() and words.endswith(".") and " " in words, f"{name}: {words}"


@pytest.mark.parametrize("error, code, words", [
    (UserError("bad\nthing"), 2, "error: bad thing"),
    (MissingFile("x does not exist"), 2, "error: x does not exist"),
    (ValueError("could not broadcast"), 1, "ValueError: could not broadcast; this is a fault of the program"),
    (FileNotFoundError(2, "No such file", "x"), 1, "error: x: No such file\n"),
    (RuntimeError("ffmpeg failed"), 1, "error: ffmpeg failed"),
    (torch.OutOfMemoryError("CUDA"), 1, "ran out of memory"),
    (RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"), 1, "ran out of memory"),
    (UserError("Caught UserError in worker 0.\nOriginal Traceback (most …):\n  x\nUserError: 3.jpg is bad\n"), 2,
     "error: 3.jpg is bad\n"),
    (KeyError("k"), 1, "fault of the program"),
    (KeyboardInterrupt(), 130, "stopped"),
])  # fmt: skip
def test_errors_are_one_line(capsys, error, code, words):
    def work(args):
        raise error

    assert run(work) == code
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_program_without_stderr_works(monkeypatch):
    """Some launchers close it in the background; the first note then raised an AttributeError."""
    monkeypatch.setattr(sys, "stderr", None)
    assert run(lambda args: print("note", file=sys.stderr)) == 0 and run(lambda args: 1 / 0) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows quotes in another way")
def test_quoted_commands_can_be_pasted():
    words = ["--face", "my film.mp4", "it's.pth"]
    assert shlex.split(cli.quoted(*words)) == words


class Screen(io.StringIO):
    """A terminal as progress bars see it: rows of text, and a cursor that bars move up and down."""

    def isatty(self) -> bool:
        return True

    def rows(self) -> list[str]:
        rows, row, column = [""], 0, 0
        for code in re.findall(r"\x1b\[A|.|\s", self.getvalue()):
            if code == "\x1b[A":
                row -= 1
            elif code == "\r":
                column = 0
            elif code == "\n":
                row, column = row + 1, 0
                rows += [""] * (row + 1 - len(rows))
            else:
                rows[row] = rows[row][:column].ljust(column) + code + rows[row][column + 1 :]
                column += 1
        return [text for text in rows if text.strip()]


@pytest.mark.parametrize("first", ["Finding faces", "Lip-syncing"])
def test_finished_bar_stays_above_the_running_one(monkeypatch, first):
    """The running one moves up to it; tqdm alone left a copy of it behind."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    terminal, names = Terminal(), ["Finding faces", "Lip-syncing"]
    stages = {name: terminal.stage(name, 4) for name in names}
    advance = {name: stage.__enter__() for name, stage in stages.items()}
    for _ in range(2):
        for name in names:
            advance[name](1)
    assert [row.split(":")[0] for row in screen.rows()] == names
    for name in sorted(names, key=lambda name: name != first):
        advance[name](2)
        stages[name].__exit__(None, None, None)
    ended = [first, *[name for name in names if name != first]]
    assert [row.split(":")[0] for row in screen.rows()] == ended and all("100%" in row for row in screen.rows())


@pytest.mark.parametrize("module, shown", [("ipykernel.iostream", True), ("io", False)])
def test_notebooks_show_progress(monkeypatch, module, shown):
    """They are no terminals, so minutes passed in silence."""
    stream = type("OutStream", (io.StringIO,), {"__module__": module})()
    monkeypatch.setattr(sys, "stderr", stream)
    with Terminal().stage("Lip-syncing", 2) as advance:
        advance(2)
    assert ("Lip-syncing" in stream.getvalue()) == shown


@pytest.mark.parametrize("name, start", [
    ("adapt.py", ".venv/bin/python inference.py"), ("/home/wav2lip/adapt.py", ".venv/bin/python inference.py"),
    ("/usr/bin/wav2lip-adapt", "wav2lip"), ("wav2lip-adapt.exe", "wav2lip"),
])  # fmt: skip
@pytest.mark.skipif(os.name == "nt", reason="other slashes")
def test_advice_matches_how_the_script_was_started(monkeypatch, tmp_path, name, start):
    """Installed commands used to advise python inference.py, which their users do not have, nor that python."""
    monkeypatch.setattr("sys.argv", [name])
    monkeypatch.setattr("sys.executable", str(tmp_path / ".venv/bin/python"))
    monkeypatch.chdir(tmp_path)
    assert cli.started("inference.py", "wav2lip") == start
    monkeypatch.chdir("/")
    monkeypatch.setattr("sys.executable", "/opt/my python/bin/python")
    assert cli.started("inference.py", "wav2lip") in (start, "'opt/my python/bin/python' inference.py")


@pytest.mark.parametrize("content, words", [
    (None, f"error: the packages are not installed for {sys.executable}; start .venv/bin/python instead"),
    ("raise ImportError('libGL.so.1 is missing')", "error: OpenCV cannot be loaded (libGL.so.1 is missing). On a mach"),
])  # fmt: skip
def test_a_missing_opencv_is_told_from_a_broken_one(tmp_path, content, words):
    """With the system's Python, the commonest mistake, it advised to install system libraries."""
    if content:
        (tmp_path / "cv2.py").write_text(content)
    code = "import sys; sys.modules['cv2'] = None\nimport cli" if not content else "import cli"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT)))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(words) and done.stderr.count("\n") == 1


def test_commands_can_be_pasted_from_folders_with_spaces():
    code = (
        "import sys; sys.executable = '/home/Anna Smith/python'\nimport errors, shlex; print(shlex.split(errors.PIP))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "['/home/Anna Smith/python', '-m', 'pip']\n"


def test_user_errors_derive_from_builtin_errors():
    assert issubclass(UserError, ValueError) and issubclass(MissingFile, (UserError, FileNotFoundError))
    assert str(MissingFile("x does not exist")) == "x does not exist"


def test_debug_shows_the_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda args: 1 / 0, "--debug")


def test_unknown_flag_is_one_line(capsys):
    assert run(print, "--no-such-flag") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_garbage_collection_skips_imported_objects():
    assert gc.isenabled() and gc.get_freeze_count() > len(torch.__dict__)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_being_killed_is_like_being_interrupted(capsys, name):
    """So is closing the terminal, but not under nohup."""
    if not hasattr(signal, name):
        pytest.skip("this system has no such signal")
    number = getattr(signal, name)
    before = signal.getsignal(number)
    try:
        signal.signal(number, signal.SIG_DFL)  # pytest itself may run under nohup
        assert run(lambda args: signal.raise_signal(number)) == 130
        signal.signal(number, signal.SIG_IGN)
        assert run(lambda args: signal.raise_signal(number)) == 0
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("text, value", [("True", True), ("true", True), ("1", True), ("False", False), ("no", False)])
def test_boolean(text, value):
    assert cli.boolean(text) is value


@pytest.mark.parametrize("parse, text", [
    (cli.boolean, "maybe"), (cli.positive(int), "0"), (cli.positive(float), "nan"), (cli.finite, "nan"),
    (cli.finite, "much"),
])  # fmt: skip
def test_argument_type_errors_quote_the_value(parse, text):
    with pytest.raises(argparse.ArgumentTypeError, match=text):
        parse(text)


def test_unusable_devices_are_refused():
    assert devices.pick_device("cpu").type == "cpu"
    for name in ("cuda:99", "toaster", "mps", "meta", "xpu:0"):
        with pytest.raises(ValueError, match="use|auto"):
            devices.pick_device(name)


def test_auto_precision_fits_the_device(monkeypatch):
    cpu = torch.device("cpu")
    assert devices.pick_precision("fp32", cpu) == torch.float32
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: True)
    assert devices.pick_precision("auto", cpu) == torch.bfloat16
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: False)
    assert devices.pick_precision("auto", cpu) == torch.float32
    for capability, dtype in (((7, 0), torch.float16), ((6, 1), torch.float32)):  # Pascal is slower in fp16
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        assert devices.pick_precision("auto", torch.device("cuda")) == dtype


def test_a_gpu_that_torch_cannot_use_is_mentioned(monkeypatch):
    """The plain installation on Windows computed on the CPU, without a word."""
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    assert not devices.unused_gpu("auto")
    monkeypatch.setattr(devices.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "built without CUDA; install another as pytorch.org" in devices.unused_gpu("auto")
    assert not devices.unused_gpu("cpu")
    with pytest.raises(UserError, match="built without CUDA"):
        devices.pick_device("cuda")


@pytest.mark.parametrize("capability, dtype", [((7, 5), torch.float32), ((8, 0), torch.bfloat16)])
def test_training_uses_bf16_only_on_gpus_that_compute_it(monkeypatch, capability, dtype):
    """A T4 (7.5) only emulates bfloat16, although torch reports support for it."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert devices.pick_training_precision("auto", torch.device("cuda")) == dtype


def test_precision_is_fp32_if_torch_cannot_tell(monkeypatch):
    for name in ("get_capabilities", "_is_avx512_bf16_supported"):  # which torch 2.4 lacks
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert devices.pick_precision("auto", torch.device("cpu")) == torch.float32


def test_training_refuses_float16():
    """Its small gradients would be 0, since losses are not scaled here."""
    with pytest.raises(ValueError, match="use bf16 or fp32"):
        devices.pick_training_precision("fp16", torch.device("cuda"))


@pytest.mark.parametrize("pick", [devices.pick_precision, devices.pick_training_precision])
def test_precision_the_cpu_lacks_is_refused(pick, monkeypatch):
    """Without AVX-512, convolutions would fail in the middle of a run."""
    monkeypatch.setattr(devices, "cpu_computes", lambda dtype: dtype == torch.float32)
    assert pick("fp32", torch.device("cpu")) == torch.float32
    with pytest.raises(ValueError, match="does not compute in bf16; use --precision auto or fp32"):
        pick("bf16", torch.device("cpu"))


# --------------------------------------------------------------------------------------------------------------------
# The reference's flags: all that its scripts took, with their defaults


@pytest.mark.parametrize("script, needed, usual", [
    (
        "inference", "--checkpoint_path c.pth --face a.mp4 --audio b.wav",
        "--outfile results/result_voice.mp4 --static False --pads 0 10 0 0 --face_det_batch_size 16 "
        "--wav2lip_batch_size 128 --resize_factor 1 --crop 0 -1 0 -1 --box -1 -1 -1 -1 --rotate --nosmooth --fps 25",
    ),
    ("preprocess", "--data_root a --preprocessed_root b", "--ngpu 1 --batch_size 32"),
    ("color_syncnet_train", "--data_root a --checkpoint_dir b", "--checkpoint_path c.pth"),
    ("wav2lip_train", "--data_root a --checkpoint_dir b --syncnet_checkpoint_path s.pth", "--checkpoint_path c.pth"),
    (
        "hq_wav2lip_train", "--data_root a --checkpoint_dir b --syncnet_checkpoint_path s.pth",
        "--checkpoint_path c.pth --disc_checkpoint_path d.pth",
    ),
    (
        "evaluation.gen_videos_from_filelist", "--filelist a --results_dir b --data_root c --checkpoint_path d.pth",
        "--pads 0 0 0 0 --face_det_batch_size 64 --wav2lip_batch_size 128",
    ),
    (
        "evaluation.real_videos_inference", "--mode tts --filelist a --results_dir b --data_root c --checkpoint_path d",
        "--pads 0 10 0 0 --face_det_batch_size 16 --wav2lip_batch_size 128 --face_res 180 --min_frame_res 480 "
        "--max_frame_res 720",
    ),
])  # fmt: skip
def test_reference_flags_and_their_defaults_are_kept(script, needed, usual):
    parser = importlib.import_module(script).get_parser()
    plain, full = (vars(parser.parse_args(command.split())) for command in (needed, f"{needed} {usual}"))
    ours = {  # now decided by the network, the detector or the video unless given, and switches
        "pads", "face_det_batch_size", "fps", "rotate", "nosmooth", "checkpoint_path", "disc_checkpoint_path", "box",
    }  # fmt: skip
    if script.startswith("evaluation"):  # which keeps the boxes of the paper's figures
        ours -= {"pads"}
    assert {name: full[name] for name in full.keys() - ours} == {name: plain[name] for name in plain.keys() - ours}


def test_scripts_print_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.Parser("test").parse_args(["--version"])
    expected = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert not ended.value.code and capsys.readouterr().out == f"wav2lip {expected}\n"


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    """Shells leave it alone in ``--flag=~/x`` and in tables; a folder called ~ was made, which nobody should delete."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    args = inference.get_parser().parse_args(["--face", "a.mp4", "--audio", "b.wav", "--outfile=~/x.mp4"])
    assert args.outfile == tmp_path / "x.mp4"
    given = ["--checkpoint_path=~/x.pth", "--pair", "0=~/anna.wav", "--identity", "https://a//b"]
    args = inference.get_parser().parse_args(["--face", "a.mp4", *given])
    assert args.checkpoint_path == str(tmp_path / "x.pth") and args.pair == [(0, tmp_path / "anna.wav")]
    assert args.identity == "https://a//b"
    assert cli.path("~nobody-has-this-name/x") == Path("~nobody-has-this-name/x") and cli.path("a~/x") == Path("a~/x")
