"""Face restorers, with tiny networks of the kinds that spandrel loads, and no published weights."""

from __future__ import annotations

import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy.io import wavfile

import inference
from errors import MissingFile, UserError
from models.imports import import_beside_torchvision
from mouths import open_restorer, restoring
from reporting import SILENT

BOX = (130, 30, 330, 250)


@pytest.fixture(scope="module")
def spandrel():
    try:
        return import_beside_torchvision("spandrel")
    except ModuleNotFoundError:
        pytest.skip("needs spandrel (requirements/restore.txt)")


def compact(path, scale: int = 1, fill: float | None = None):
    """Save a Compact (of Real-ESRGAN), which adds its convolutions' output to its input: nothing if all are 0."""
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(0)
    network = Compact(num_in_ch=3, num_out_ch=3, num_feat=8, num_conv=1, upscale=scale, act_type="prelu")
    state = {name: torch.full_like(w, fill) if fill is not None else w for name, w in network.state_dict().items()}
    torch.save({"params": state}, path)
    return path


@pytest.mark.parametrize("scale", [1, 2])
def test_a_network_that_changes_nothing_leaves_frames_alone(spandrel, astronaut, tmp_path, scale):
    """At scale 2 the network repeats pixels, which leaves small steps where the picture is steep."""
    frame = cv2.GaussianBlur(astronaut, (0, 0), 3)
    before = frame.copy()
    open_restorer(compact(tmp_path / "same.pth", scale, 0.0))(frame, BOX, 0.0, 1.0)
    difference = np.abs(frame.astype(int) - before)[118:250, 130:330]
    assert difference.max() == 0 if scale == 1 else difference.mean() < 0.5


def test_only_the_mouth_is_restored(spandrel, astronaut, tmp_path):
    frame = astronaut.copy()
    open_restorer(compact(tmp_path / "random.pth"))(frame, BOX, 0.0, 1.0)
    changed = np.abs(frame.astype(int) - astronaut).max(2) > 0
    assert changed[190:210, 220:240].mean() > 0.9
    changed[30 + 88 : 250, 130:330] = False  # the box below its upper 40 %
    assert not changed.any()


def test_what_is_restored_stays_in_place(astronaut):
    """A restorer brightens one spot: the mouth of a face in FFHQ's frame is the mouth of the box."""

    def brighten(face):
        bright = face.astype(np.float32)
        bright[368:375, 253:260] += 100
        return bright

    frame = np.full_like(astronaut, 100)
    restoring._restore(brighten, frame, BOX, 0.0, 1.0)
    rows, columns = np.nonzero(frame.max(2) > 150)
    assert abs(rows.mean() - (30 + 0.76 * 220)) < 2 and abs(columns.mean() - 230) < 1


@pytest.mark.parametrize("larger", [1, 4])
def test_restored_detail_is_averaged_not_sampled(larger):
    """In a box of 100 pixels, pores became coarse grain that shimmers."""
    frame = np.full((300, 300, 3), 120, np.uint8)

    def stripes(face):
        side = larger * len(face)
        return np.full((side, side, 3), 120, np.float32) + np.where(np.arange(side) % 2, 40, -40)[:, None, None]

    restoring._restore(stripes, frame, (100, 100, 200, 200), 0.0, 1.0)
    assert frame[150:190, 120:180].std() < 10


def test_an_object_in_front_of_the_mouth_is_not_restored(astronaut):
    """A hand over the left half of the face: only the right one changes."""
    hidden = np.zeros((96, 96), np.float32)
    hidden[:, :48] = 1
    frame = astronaut.copy()
    restoring._restore(lambda face: np.full(face.shape, 90, np.float32), frame, BOX, hidden, 1.0)
    changed = (frame != astronaut).any(2)
    # the halves meet at 230, within a pixel of 96
    assert not changed[:, :227].any() and changed[190:210, 233:250].mean() > 0.9


def test_all_pixels_of_a_large_face_count():
    """The restorer used to see one in four: fine stripes became coarse ones, which it then restored."""
    frame = np.repeat(np.indices((1500, 1500)).sum(0)[..., None] % 2 * 255, 3, 2).astype(np.uint8)
    seen = []
    restoring._restore(lambda face: seen.append(face) or np.float32(face), frame, (300, 300, 1200, 1200), 0.0, 1.0)
    assert abs(seen[0].astype(int) - 127).max() < 50


def test_a_restorer_sees_faces_as_people_do(astronaut):
    """In anamorphic video, such as that of DVDs, it was shown faces squeezed to three quarters of their width."""
    squeezed = cv2.resize(astronaut, (384, 512), interpolation=cv2.INTER_AREA)
    x1, y1, x2, y2 = BOX
    seen = []
    for frame, box, aspect in (
        (astronaut, BOX, 1.0),
        (squeezed, (round(x1 * 0.75), y1, round(x2 * 0.75), y2), 4 / 3),
    ):
        drawn = frame.copy()
        restoring._restore(lambda face: seen.append(face) or face + np.float32(20), drawn, box, 0.0, aspect)
        changed = (drawn != frame).any(2)
        assert changed[box[1] + (box[3] - box[1]) * 3 // 4, (box[0] + box[2]) // 2] and not changed[: box[1]].any()
    assert np.abs(seen[0].astype(int) - seen[1]).mean() < 4


def test_a_face_restorer_is_loaded_and_run(spandrel, astronaut, tmp_path):
    """RestoreFormer, an eighth as wide, with random weights, from a file of safetensors."""
    from safetensors.torch import save_file
    from spandrel.architectures.RestoreFormer import RestoreFormer

    torch.manual_seed(0)
    shape = {
        "n_embed": 8,
        "embed_dim": 32,
        "ch": 32,
        "ch_mult": (1, 1, 1, 1, 1, 1),
        "num_res_blocks": 1,
        "z_channels": 32,
    }
    save_file(RestoreFormer(**shape).state_dict(), tmp_path / "face.safetensors")
    frame = astronaut.copy()
    open_restorer(tmp_path / "face.safetensors")(frame, BOX, 0.0, 1.0)
    assert (frame[190:210, 220:240] != astronaut[190:210, 220:240]).mean() > 0.9
    assert (frame[:118] == astronaut[:118]).all()


def test_gfpgan_gets_pictures_in_minus_1_to_1(astronaut):
    """As GFPGAN's own code does, and back; its noise, which would differ between calls, is switched off."""

    class Network:
        device = torch.device("cpu")
        architecture = type("Architecture", (), {"id": "GFPGAN"})

        def model(self, x, randomize_noise):
            assert -1 <= x.min() < -0.5 and 0.5 < x.max() <= 1 and not randomize_noise
            return x, []

    assert np.abs(restoring._run(Network(), astronaut) - astronaut).max() < 1e-3


@pytest.mark.parametrize("content, words", [
    (b"", "is not a checkpoint that can be read"),
    (b"hello", "is not a checkpoint that can be read"),
    (None, "holds no network that spandrel can load"),
])  # fmt: skip
def test_files_without_a_restorer_are_refused(spandrel, tmp_path, content, words):
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path) if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        open_restorer(path)
    (tmp_path / "x.safetensors").write_bytes(content or b"{}")
    with pytest.raises(UserError, match="safetensors"):
        open_restorer(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="is a folder"):
        open_restorer(tmp_path)
    with pytest.raises(MissingFile, match="does not exist"):
        open_restorer(tmp_path / "other.pth")


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.pth").touch()
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(UserError, match="spandrel is not installed: .*requirements/restore.txt"):
        open_restorer(tmp_path / "x.pth")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """0.2 s of silence."""
    path = tmp_path_factory.mktemp("quiet") / "quiet.wav"
    wavfile.write(path, 16000, np.zeros(3200, np.int16))
    return path


def test_the_restorer_flag_changes_the_result(spandrel, modest_checkpoint, talking_clip, quiet, tmp_path, capsys):
    """A missing file is reported before any work; an existing one changes pixels of the result."""
    command = [f"--checkpoint_path={modest_checkpoint}", f"--face={talking_clip}", f"--audio={quiet}"]
    command += ["--box", "20", "200", "60", "220"]
    assert inference.main([*command, f"--outfile={tmp_path / 'a.mp4'}", "--restorer=nothing.pth"]) == 2
    assert "nothing.pth does not exist" in capsys.readouterr().err and not list(tmp_path.iterdir())
    compact(tmp_path / "random.pth")
    for name, more in (("plain", []), ("restored", [f"--restorer={tmp_path / 'random.pth'}"])):
        assert inference.main([*command, f"--outfile={tmp_path / name}.mp4", *more]) == 0
    assert (tmp_path / "plain.mp4").read_bytes() != (tmp_path / "restored.mp4").read_bytes()


def test_the_page_offers_the_restorer(spandrel, modest_checkpoint, talking_clip, quiet, tmp_path):
    from page.actions import Actions
    from page.sessions import Sessions
    from page.settings import Settings

    settings = Settings(str(modest_checkpoint), detector="centerface")
    actions = Actions(replace(settings, restorer=compact(tmp_path / "random.pth")))
    arguments = Sessions().of("somebody"), str(talking_clip), str(quiet), 0.1, SILENT
    plain, sharp = (actions.preview(*arguments, sharp=sharp, box=(20, 200, 60, 220)) for sharp in (False, True))
    with_none = Actions(settings).preview(*arguments, box=(20, 200, 60, 220))
    assert np.array_equal(plain, with_none) and not np.array_equal(plain, sharp)
