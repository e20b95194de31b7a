from __future__ import annotations

import pytest

from errors import UserError
from hparams import AT_MOST, HParams, get_image_list, read_list
from models import weights


def test_override_keeps_types():
    hp = HParams()
    hp.override("batch_size=8, initial_learning_rate=3e-5,save_optimizer_state=False")
    assert (hp.batch_size, hp.initial_learning_rate, hp.save_optimizer_state) == (8, 3e-5, False)


@pytest.mark.parametrize(
    "text, word",
    [
        ("batchsize=3", "batchsize"),
        ("batch_size=x", "batch_size"),
        ("batch_size", "batch_size"),
        ("syncnet_lr=nan", "syncnet_lr must be a finite number, 0 or above, not 'nan'"),
        ("disc_wt=inf", "disc_wt must be a finite number, 0 or above"),
        ("batch_size=-1", "batch_size must be a finite number, 0 or above"),
        ("augment_mirror=50", "augment_mirror must be 1 at most, not '50'"),
        ("mel_lead=11", "mel_lead must be 10 at most"),  # checkpoints cannot carry more
        ("ema_decay=1", "ema_decay must be 0.999999 at most"),
        ("hop_size=160", "hop_size is part of the data"),  # the mels on disk have 80 frames a second
    ],
)
def test_override_names_what_is_wrong(text, word):
    with pytest.raises(ValueError, match=word):
        HParams().override(text)


def test_largest_mel_lead_is_that_of_checkpoints():
    assert AT_MOST["mel_lead"] == weights.MAX_LEAD


def test_image_list_gives_the_clips_folders(tmp_path):
    (tmp_path / "val.txt").write_text("s1/a 12\n\n s2/b\n", encoding="utf-8")
    assert get_image_list("/data", "val", tmp_path) == ["/data/s1/a", "/data/s2/b"]
    with pytest.raises(FileNotFoundError, match="train.txt"):
        get_image_list("/data", "train", tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_mark_is_not_part_of_a_name(tmp_path, encoding, end):
    """Lists saved by Notepad used to lose their first clip."""
    (tmp_path / "val.txt").write_bytes(end.join(("s1/a", "", "s2/ü", "")).encode(encoding))
    assert get_image_list("/data", "val", tmp_path) == ["/data/s1/a", "/data/s2/ü"]
    assert read_list(tmp_path / "val.txt") == [(1, "s1/a"), (3, "s2/ü")]


def test_clip_name_ends_at_white_space_unless_a_folder_has_it(tmp_path):
    (tmp_path / "s1/my clip").mkdir(parents=True)
    (tmp_path / "val.txt").write_text(
        "s1/a\ta note\ns1/my clip\ns1/my clip\ta note\ns1/b a note\n" + f"s1/c {'word ' * 60}\n"
    )
    assert get_image_list(tmp_path, "val", tmp_path) == [
        f"{tmp_path}/s1/{name}" for name in ("a", "my clip", "my clip", "b", "c")
    ]


@pytest.mark.parametrize(
    "content, words",
    [
        ("s1/a\n".encode("utf-16"), "not UTF-8 but UTF-16; open it in an editor and save it"),
        ("s1/a\n".encode("utf-16-le"), "not UTF-8 text"),
        ("s1/ü\n".encode("cp1252"), "not UTF-8 text"),
        (b"", "is empty; give it a line dir/clip"),
        (b"\xef\xbb\xbf \r\n", "is empty"),
    ],
)
def test_errors_in_a_list_name_the_list(tmp_path, content, words):
    (tmp_path / "val.txt").write_bytes(content)
    with pytest.raises(UserError, match="val.txt is ") as error:
        get_image_list("/data", "val", tmp_path)
    assert words in str(error.value)


def test_unknown_settings_get_a_suggestion():
    settings = HParams()
    with pytest.raises(AttributeError, match="hparams has no nepochs: training ends with --max_steps"):
        _ = HParams().nepochs
    suggestions = {"nepochs": "--max_steps", "eval_intervall": "is it eval_interval", "xyz": "known: adam_beta1"}
    for name, words in suggestions.items():
        with pytest.raises(UserError, match=words):
            settings.override(f"{name}=10")
    settings.set_hparam("batch_size", 4)
    assert settings.batch_size == 4
    with pytest.raises(UserError, match="batch_size"):
        settings.set_hparam("batch_size", "many")


def test_a_video_in_a_list_stands_for_its_pieces(tmp_path):
    """Lists from before videos were cut into pieces named folders that do not exist any more."""
    for name in ("s1/a@1", "s1/a@2", "s1/a@10", "s1/a@b", "s1/a@b@3", "s1/ab@1", "s2/whole", "s2/whole@1"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "train.txt").write_text("s1/a note\ns2/whole\ns3/none\n")
    pieces = [f"{tmp_path}/s1/a@{n}" for n in (1, 2, 10)]
    assert get_image_list(tmp_path, "train", tmp_path) == [*pieces, f"{tmp_path}/s2/whole", f"{tmp_path}/s3/none"]
