from __future__ import annotations

import pytest

from hparams import HParams, get_image_list


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
        ("hop_size=160", "hop_size is part of the data"),  # the mels on disk have 80 frames a second
    ],
)
def test_override_names_what_is_wrong(text, word):
    with pytest.raises(ValueError, match=word):
        HParams().override(text)


def test_image_list(tmp_path):
    (tmp_path / "val.txt").write_text("s1/a 12\n\n s2/b\n", encoding="utf-8")
    assert get_image_list("/data", "val", tmp_path) == ["/data/s1/a", "/data/s2/b"]
    with pytest.raises(FileNotFoundError, match="train.txt"):
        get_image_list("/data", "train", tmp_path)
