"""Losses and steps against the reference; stopped, resumed and multi-process runs against undisturbed ones."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import importlib
import importlib.util
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist

import audio
import color_syncnet_train
import distributed
import files
import hq_wav2lip_train
import models
import recipes
import training
import wav2lip_train
from benchmarks import emulated_bf16, expert_errors
from conftest import GOLDEN, ROOT, free_port, rnd
from dataset import Batches, Draw, SyncNetDataset
from distributed import Distributed, join_processes
from errors import UserError
from fill import fill
from hparams import FIXED_BY_NETWORKS, FIXED_BY_PREPROCESSING, HParams, hparams
from models import SyncNet_color, weights
from models.conv import fold_batchnorm
from reporting import Cancelled, Reporter
from terminal import TERMINAL
from training import (
    AllPairsExpertTask,
    ExpertTask,
    GeneratorTask,
    HQGeneratorTask,
    checkpoints,
    generators,
    loop,
    starting,
)
from training.checkpoints import Position
from training.figures import Averages
from training.losses import (
    adversarial_loss,
    all_pairs_loss,
    cosine_loss,
    detail_loss,
    elementwise_loss,
    feature_loss,
    motion_loss,
    mouth_weights,
)
from training.tasks import WATCHED_STEPS

GOLDEN_LOSSES = json.loads((GOLDEN / "training.json").read_text())
CPU = Distributed(torch.device("cpu"))


def assert_close(values, golden):
    """Step 1 to 1e-5; later ones, in which rounding adds up, to 2e-3."""
    assert abs(values[0] - golden[0]) < 1e-5
    np.testing.assert_allclose(values, golden, atol=2e-3)


# --------------------------------------------------------------------------------------------------------------------
# Losses and steps


def test_expert_learns_as_the_reference_does():
    """Before and after a step, as for the generator: its optimizer is known, and gradients are cleared (below)."""
    task = ExpertTask(CPU, HParams())
    fill(task.expert).train()
    assert [group["betas"] for group in task.optimizer.param_groups] == [(0.9, 0.999)]
    batch = expert_batch()
    losses = [float(task.train_step(batch)["loss"].detach())]
    with torch.no_grad():
        losses.append(float(task.evaluate_batch(batch)["loss"].mean()))
    assert_close(losses, GOLDEN_LOSSES["syncnet_loss"][:2])


def generator_batch():
    return (
        rnd(14, (4, 6, 5, 96, 96)),
        rnd(13, (4, 5, 1, 80, 16), "n"),
        rnd(15, (4, 1, 80, 16), "n"),
        rnd(16, (4, 3, 5, 96, 96)),
    )


@pytest.fixture
def two_threads():
    """As many as made the golden data: sums in another order differ by 2.5e-3 after three steps."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_generator_learns_as_the_reference_does(filled, two_threads):
    """Before and after a step: later ones only add Adam's state and cleared gradients (below).

    With a discriminator; without one, learning is the same (below).
    """
    task = HQGeneratorTask(CPU, HParams(syncnet_wt=0.03), filled(models.SyncNet_color))
    for _, network, optimizer in task.parts():
        fill(network).train()
        assert [group["betas"] for group in optimizer.param_groups] == [(0.5, 0.999)]
    figures = [task.train_step(generator_batch())]
    with torch.no_grad():
        figures.append(task.evaluate_batch(generator_batch()))
    for name, golden in GOLDEN_LOSSES["hq"].items():
        assert_close([float(step[name].detach()) for step in figures], golden[: len(figures)])


def test_discriminator_of_weight_0_teaches_nothing(filled):
    """So the golden values with one hold without one, too."""

    def train_once(kind) -> tuple[dict, list[torch.Tensor]]:
        task = kind(CPU, HParams(syncnet_wt=0.03, disc_wt=0.0), filled(models.SyncNet_color, 0.125), width=0.125)
        fill(task.generator)
        assert [group["betas"] for group in task.optimizer.param_groups] == [(0.5, 0.999)]
        task.train_mode(True)
        figures = task.train_step([part[:2] for part in generator_batch()])
        return figures, list(task.generator.parameters())

    (alone, weights_alone), (beside, weights_beside) = map(train_once, (GeneratorTask, HQGeneratorTask))
    assert all(torch.equal(value, beside[name]) for name, value in alone.items()) and "sync" in alone
    assert all(map(torch.equal, weights_alone, weights_beside))


def expert_batch():
    return rnd(12, (8, 15, 48, 96)), rnd(11, (8, 1, 80, 16), "n"), torch.tensor([[1.0], [0.0]] * 4)


def small_task(kind, group):
    """A task of an eighth of the width with everything that ``hparams`` can switch on."""
    hp = HParams(syncnet_wt=0.03, mouth_wt=3, motion_wt=0.5, feature_wt=0.1, sync_grey=True, ema_decay=0.9)
    experts = [] if kind in (ExpertTask, AllPairsExpertTask) else [models.SyncNet_color(0.125) for _ in range(2)]
    task = kind(group, hp, *experts, width=0.125)
    task.train_mode(True)
    batch = [part[:2] for part in (generator_batch() if experts else expert_batch())]
    return task, [*batch[:2], torch.arange(4).view(2, 2)] if kind is AllPairsExpertTask else batch


KINDS = [ExpertTask, AllPairsExpertTask, GeneratorTask, HQGeneratorTask]


@pytest.mark.parametrize("kind", KINDS)
def test_leftover_gradients_are_not_learned(kind):
    def train_once(leftover: float) -> list[torch.Tensor]:
        torch.manual_seed(0)
        task, batch = small_task(kind, CPU)
        parameters = [parameter for _, network, _ in task.parts() for parameter in network.parameters()]
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, leftover)
        task.train_step(batch)
        return parameters

    assert all(map(torch.equal, train_once(0.0), train_once(1.0)))


@pytest.mark.parametrize("kind", KINDS)
def test_step_stays_on_its_device(kind):
    """torch's "meta" device computes nothing and, like a GPU, refuses tensors of the CPU.

    It has no values either: a step that has to wait for one, as a GPU would, fails.
    """
    task, batch = small_task(kind, Distributed(torch.device("meta")))
    figures = task.train_step(batch)
    task.ema.update_parameters(task.main_network)
    assert all(value.is_meta for value in figures.values())
    task.train_mode(False)
    batch = expert_batch() if kind is AllPairsExpertTask else batch
    with torch.no_grad(), task.swap_in_ema():
        assert all(value.is_meta for value in task.evaluate_batch(batch).values())


@pytest.mark.parametrize("kind", KINDS)
def test_step_works_without_autocast(kind, monkeypatch):
    """Before torch 2.5, MPS has none, and torch refuses even to switch it off."""

    def refuse(*_, **__):
        raise RuntimeError("User specified an unsupported autocast device_type 'mps'")

    monkeypatch.setattr(torch.amp.autocast_mode, "is_autocast_available", lambda _: False)
    monkeypatch.setattr(torch, "autocast", refuse)
    task, batch = small_task(kind, CPU)
    assert math.isfinite(task.train_step(batch)["loss"].detach())


def test_only_cuda_copies_without_blocking(monkeypatch):
    """Copies to MPS would still be reading memory that has been freed."""
    calls, copy = [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **how: calls.append(how) or copy(self, "cpu"))
    for device in ("cuda", "mps", "cpu"):
        Distributed(torch.device(device)).to_device([torch.zeros(1)])
    assert [how["non_blocking"] for how in calls] == [True, False, False]


@pytest.mark.parametrize(
    ("device", "rank", "words"),
    [("cuda", "1", "use --nproc_per_node=1, the number of GPUs"), ("mps", "0", "cannot train on mps")],
)
def test_processes_without_their_own_device_are_refused(monkeypatch, device, rank, words):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=words):
        join_processes(torch.device(device), torch.float32)


def test_frozen_expert_does_not_change(filled):
    """In the reference it was left in train mode, so its batch-norm statistics drifted."""
    expert = filled(models.SyncNet_color, 0.125)
    mels, mouths = rnd(1, (2, 1, 80, 16), "n"), rnd(2, (2, 15, 48, 96))
    before = expert(mels, mouths)[1].detach()
    task = GeneratorTask(CPU, HParams(syncnet_wt=0.5), expert, width=0.125)
    task.train_mode(True)
    task.train_step([part[:1] for part in generator_batch()])
    assert not task.expert.training
    torch.testing.assert_close(task.expert(mels, mouths)[1], before, atol=1e-5, rtol=0)


def test_generator_can_start_with_the_experts_audio_encoder(filled):
    expert = filled(models.SyncNet_color, 0.125)
    features = expert.audio_encoder[:10](rnd(1, (2, 1, 80, 16), "n"))
    task = GeneratorTask(CPU, HParams(audio_from_expert=True), expert, width=0.125)
    task.generator.eval()
    torch.testing.assert_close(task.generator.audio_encoder[:10](rnd(1, (2, 1, 80, 16), "n")), features)
    last = [network.audio_encoder[-1].state_dict() for network in (filled(models.SyncNet_color, 0.125), task.generator)]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])
    with pytest.raises(ValueError, match="width 0.25"):
        GeneratorTask(CPU, HParams(audio_from_expert=True), filled(models.SyncNet_color, 0.125), width=0.25)


def test_sync_of_results_is_scored_by_the_judge_not_by_the_expert(filled):
    """The generator learns to please its expert, whose verdict is better than the result."""
    torch.manual_seed(0)
    expert, judge = filled(models.SyncNet_color, 0.125), models.SyncNet_color(0.125)
    batch = [part[:2] for part in generator_batch()]
    alone, judged, swapped = (
        GeneratorTask(CPU, HParams(), *map(copy.deepcopy, networks), width=0.125)._evaluation(
            batch[3], batch[2], batch[3].flip(0)
        )
        for networks in ((expert,), (expert, judge), (judge, expert))
    )
    assert "judge" not in alone
    for name in ("sync", "sync_of_real"):
        assert judged[name] == alone[name] == swapped[name.replace("sync", "judge")]
        assert swapped[name] == judged[name.replace("sync", "judge")] != judged[name]


def test_collage_shows_reference_input_output_and_real_face():
    task = GeneratorTask(CPU, HParams(), models.SyncNet_color(0.125), width=0.125)
    assert task.collage() is None
    x, fake, real = torch.zeros(2, 6, 5, 8, 8), torch.full((2, 3, 5, 8, 8), 0.4), torch.zeros(2, 3, 5, 8, 8)
    x[:, 3:], x[:, :3, :, :4], real[:, 2] = 0.2, 0.6, 1.0  # the real face is red
    task.last = generators.Pictures(x, fake, real)
    pictures = task.collage()
    assert pictures.shape == (2, 5, 8, 4 * 8, 3) and pictures.dtype == np.uint8
    reference, masked, drawn, filmed = np.split(pictures, 4, axis=3)
    assert (reference == 51).all() and (drawn == 102).all() and (filmed == (0, 0, 255)).all()
    assert (masked[:, :, :4] == 153).all() and (masked[:, :, 4:] == 0).all()


@pytest.mark.parametrize("asked, saved, used", [(0.0, 0.01, 0.01), (0.05, 0.0, 0.05), (0.0, 0.0, 0.0)])
def test_sync_weight_comes_from_the_checkpoint_unless_set(filled, asked, saved, used):
    """Set by --hparams, that is."""
    task = GeneratorTask(CPU, HParams(syncnet_wt=asked), filled(models.SyncNet_color, 0.125), width=0.125)
    task.load_extra_state({"syncnet_wt": saved})
    assert task.sync_weight == used


def test_cosine_above_one_does_not_fail():
    """Rounding gives up to 1.0000004, for which the reference's cross-entropy failed."""
    v = torch.full((3, 512), 0.04419418)
    loss, _ = cosine_loss(v * 1.0001, v, torch.ones(3, 1))
    assert float(loss) == pytest.approx(0, abs=1e-5)
    assert math.isfinite(cosine_loss(v, v, torch.zeros(3, 1))[0])


@pytest.mark.parametrize("kind", ["all pairs", "one by one"])
def test_gradient_of_similar_windows_is_bounded(kind):
    """That of -log(1 - cosine) is not: one pair of silences used to have 3000 times the gradient of others."""
    torch.manual_seed(0)
    voice, other = torch.rand(2, 1, 64, dtype=torch.float64)
    gradients = []
    for distance in (*np.logspace(0, -8, 33), 0.0):
        face = (voice + distance * other).requires_grad_()
        unit = [torch.nn.functional.normalize(vectors).float() for vectors in (voice, face)]
        if kind == "one by one":
            loss = cosine_loss(*unit, torch.zeros(1, 1))[0]
        else:  # the second voice is like the first face, a mismatch
            voices, faces = (torch.cat(pair) for pair in ((unit[0].flip(1), unit[0]), (unit[1], unit[1].flip(1))))
            loss = all_pairs_loss(voices, faces, torch.tensor([[0, 5], [1, 5]]))[0]
        loss.backward()
        gradients.append(float(face.grad.norm() * voice.norm()))
        assert float(loss.detach()) < 12
    assert 10 < max(gradients) < 150  # sqrt(2 / EDGE) at most


def test_cross_entropy_is_torchs_except_at_the_edges():
    cosine = torch.linspace(2e-4, 1 - 2e-4, 999, dtype=torch.float64, requires_grad=True)
    for y in (torch.zeros_like(cosine), torch.ones_like(cosine)):
        pair = [
            elementwise_loss(cosine, y),
            torch.nn.functional.binary_cross_entropy(cosine, y, reduction="none"),
        ]
        torch.testing.assert_close(*pair)
        torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), cosine)[0] for loss in pair))
        ends = elementwise_loss(torch.tensor([0, 1e-4, 2e-4, 1 - 2e-4, 1 - 1e-4, 1], dtype=torch.float64), y[:6])
        steps = ends.diff()[[0, 1, 3, 4]] * (1 - 2 * y[0])
        assert (steps > 0).all() and (ends < 11).all()  # still monotonic


@pytest.mark.parametrize("nearest", [1, 3])
def test_all_pairs_loss_equals_the_losses_of_single_pairs(nearest):
    """Four windows of one clip, one of them drawn twice, and two of another."""
    places = [(0, 5), (0, 7), (0, 5), (0, 40), (1, 5), (1, 30)]
    audio, face = (torch.nn.functional.normalize(rnd(seed, (6, 8))) for seed in (1, 2))
    loss, cosine, matched = all_pairs_loss(audio, face, torch.tensor(places), nearest)

    costs = {"matched": [], "clip": [], "others": []}
    for i, (clip, frame) in enumerate(places):
        for j, (other, other_frame) in enumerate(places):
            is_match = (clip, frame) == (other, other_frame)
            cost, similarity = cosine_loss(audio[j : j + 1], face[i : i + 1], torch.tensor([[float(is_match)]]))
            assert float(similarity) == pytest.approx(float(cosine[i, j]), abs=1e-6) and bool(matched[i, j]) == is_match
            if is_match or clip != other or abs(frame - other_frame) >= nearest:
                costs["matched" if is_match else "clip" if clip == other else "others"].append(float(cost))
    assert [len(values) for values in costs.values()] == [8, 12 - 4 * (nearest > 2), 16]
    matched_cost, in_clip, across = (sum(values) / len(values) for values in costs.values())
    assert float(loss) == pytest.approx(matched_cost / 2 + (in_clip + across) / 4, abs=1e-6)


@pytest.mark.parametrize("places", [[(0, 1), (1, 1)], [(0, 1), (0, 9)], [(0, 1), (0, 9), (1, 1)]])
def test_guessing_costs_ln_2_for_any_mix_of_pairs(places):
    """With one window per clip, or only one clip, it used to cost 0.52, and plateaus went unreported."""
    audio, face = (torch.tensor([row] * len(places)) for row in ([1.0, 0.0], [0.5, 0.75**0.5]))
    assert float(all_pairs_loss(audio, face, torch.tensor(places))[0]) == pytest.approx(math.log(2))


@pytest.mark.parametrize("places", [[(0, 1), (0, 1)], [(0, 1), (1, 1)], [(0, 1), (0, 9)]])
def test_kinds_of_pairs_missing_from_a_batch_cost_nothing(places):
    task = AllPairsExpertTask(CPU, HParams(), 0.125)
    figures = task.train_step((rnd(1, (2, 15, 48, 96)), rnd(2, (2, 1, 80, 16), "n"), torch.tensor(places)))
    averages = Averages()
    averages.add(figures, 2)
    means = averages.means(CPU)
    assert all(map(math.isfinite, means.values())) and {"loss", "accuracy", "matched"} <= set(means)


def test_sync_weight_is_switched_on_once_and_saved(filled, tmp_path):
    """In the reference it was lost on resume."""
    for kind, weight in ((GeneratorTask, 0.01), (HQGeneratorTask, 0.03)):
        task = kind(CPU, HParams(), filled(models.SyncNet_color, 0.125), width=0.125)
        for too_high in (0.8, math.nan):
            assert task.after_evaluation({"sync": too_high}) is None and task.sync_weight == 0
        assert "0.74" in task.after_evaluation({"sync": 0.74}) and task.sync_weight == weight
        checkpoints.save_checkpoint(task, tmp_path, Position(5), 0)
        resumed = kind(CPU, HParams(), filled(models.SyncNet_color, 0.125), width=0.125)
        checkpoints.load_checkpoint(resumed, tmp_path / "checkpoint_step000000005.pth")
        assert resumed.sync_weight == weight


def test_mouth_pixels_weigh_more_but_the_mean_stays_1():
    weights = mouth_weights(96, 4.0)
    assert weights.mean() == pytest.approx(1) and weights.unique().numel() == 2
    assert weights[75, 48] == pytest.approx(4 * float(weights[10, 48])) and torch.equal(weights, weights.flip(1))


def test_motion_loss_compares_only_changes():
    real = torch.rand(2, 3, 5, 8, 8)
    assert motion_loss(real + 0.3, real) == pytest.approx(0, abs=1e-6)
    still = real[:, :, :1].expand_as(real)
    assert motion_loss(still, real) == pytest.approx(float(real.diff(dim=2).abs().mean()))


def test_detail_loss_prefers_a_shifted_edge_to_a_blur():
    """To L1 both are equally wrong: that is why generators blur."""
    bars = (torch.arange(96) // 4 % 2).float().expand(1, 3, 2, 96, 96)
    shifted, blur = bars.roll(2, dims=-1), torch.full_like(bars, 0.5)
    assert (shifted - bars).abs().mean() == (blur - bars).abs().mean() == 0.5
    assert detail_loss(shifted, bars) < 0.1 * detail_loss(blur, bars)
    assert detail_loss(bars * 0.7 + 0.3, bars) == pytest.approx(0.3 * float(detail_loss(blur, bars)), rel=1e-5)
    assert detail_loss(bars - 0.2, bars) == pytest.approx(0, abs=1e-6)  # brightness is not detail


def test_a_lattice_of_pixels_is_no_detail():
    """Generators draw it more easily than skin, which it used to stand for."""
    rows, columns = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    bars = (columns // 4 % 2).float().expand(1, 3, 2, 96, 96)
    blur = torch.full_like(bars, 0.5)
    for lattice in ((rows + columns) % 2, rows % 2, columns % 2):
        assert detail_loss(blur + 0.1 * lattice, bars) == pytest.approx(float(detail_loss(blur, bars)), rel=1e-5)


def test_feature_loss_is_0_for_equal_faces_and_teaches_otherwise():
    expert = fold_batchnorm(fill(models.SyncNet_color(0.125))).requires_grad_(False)
    real = torch.rand(2, 3, 5, 96, 96)
    fake = (real * 0.5).requires_grad_()
    assert feature_loss(expert, real, real) == 0
    feature_loss(expert, fake, real).backward()
    gradient = fake.grad.abs().sum((0, 1, 2, 4))
    assert (gradient[48:] > 0).all() and (gradient[:48] == 0).all()  # lower halves only


def test_optional_drawing_losses_count_and_are_reported():
    hp = HParams(mouth_wt=3.0, motion_wt=0.5, detail_wt=2.0, feature_wt=0.03)
    task = GeneratorTask(CPU, hp, fill(models.SyncNet_color(0.125)), width=0.125)
    fake, real = torch.rand(2, 1, 3, 5, 96, 96)
    figures = task._losses(fake, torch.rand(1, 1, 80, 16), real)
    expected = figures["mouth"] + 0.5 * figures["motion"] + 2 * figures["detail"] + 0.03 * figures["feature"]
    assert figures["loss"] == pytest.approx(float(expected)) and figures["mouth"] != figures["l1"]


def test_colour_blind_expert_teaches_no_colours():
    """Its gradient is the same for all three channels of a pixel."""
    torch.manual_seed(0)
    for grey in (False, True):
        hp = HParams(syncnet_wt=1.0, sync_grey=grey)  # the only loss
        fake = torch.rand(1, 3, 5, 96, 96, requires_grad=True)
        task = GeneratorTask(CPU, hp, models.SyncNet_color(0.125), width=0.125)
        task._losses(fake, torch.rand(1, 1, 80, 16), torch.zeros_like(fake))["sync"].backward()
        assert torch.allclose(fake.grad[:, 0], fake.grad[:, 2], atol=1e-8) == grey and fake.grad.abs().max() > 0


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_norms_keep_their_statistics(frozen):
    """One person before one wall has other statistics than many people: they would set the network back."""
    task = GeneratorTask(CPU, HParams(frozen_norms=frozen), models.SyncNet_color(0.125), width=0.125)
    before = [buffer.clone() for buffer in task.generator.buffers()]
    task.train_mode(True)
    task.train_step([part[:1] for part in generator_batch()])
    after = list(task.generator.buffers())
    assert all(torch.equal(a, b) for a, b in zip(before, after)) == frozen


def test_only_the_generators_norms_are_frozen():
    """An expert begins with random weights: its statistics would stay at 0 and 1."""
    task = ExpertTask(CPU, HParams(frozen_norms=True), 0.125)
    task.train_mode(True)
    assert all(module.training for module in task.expert.modules())


def test_learning_rates_fall_along_a_cosine():
    assert [loop.decay_at(step, 0) for step in (1, 10**6)] == [1, 1]
    assert [loop.decay_at(step, 100) for step in (0, 50, 100, 999)] == pytest.approx([1, 0.5, 0.01, 0.01])


def test_confident_discriminator_still_has_a_gradient():
    """Through a saturated sigmoid it used to be exactly 0."""
    logits = torch.tensor([[80.0]], requires_grad=True)
    adversarial_loss(logits, False).backward()
    assert float(logits.grad) == pytest.approx(1)


def test_adding_a_discriminator_raises_the_default_sync_weight(filled):
    """The usual start, a generator of wav2lip_train.py, used to keep its weight of 0.01. A chosen one is kept."""
    for saved, used in ((0.01, 0.03), (0.002, 0.002), (0.0, 0.0)):
        task = HQGeneratorTask(CPU, HParams(), filled(models.SyncNet_color, 0.125), width=0.125)
        task.load_extra_state({"syncnet_wt": saved})
        assert task.sync_weight == used


def test_sync_weight_follows_the_kind_of_training(filled, tmp_path):
    """Without the discriminator again, a generator used to keep the discriminator's 0.03."""
    kinds = (GeneratorTask, HQGeneratorTask, GeneratorTask)
    tasks = [kind(CPU, HParams(), filled(models.SyncNet_color, 0.125), width=0.125) for kind in kinds]
    tasks[0].after_evaluation({"sync": 0.7})
    for step, (old, new) in enumerate(zip(tasks, tasks[1:])):
        checkpoints.save_checkpoint(old, tmp_path, Position(step), 0)
        checkpoints.load_checkpoint(new, tmp_path / f"checkpoint_step{step:09d}.pth")
    assert [task.sync_weight for task in tasks] == [0.01, 0.03, 0.01]


def test_sync_weight_chosen_with_a_discriminator_is_kept(filled, tmp_path):
    """0.01 is also what a generator alone switches on, so resuming used to make it 0.03."""
    tasks = [HQGeneratorTask(CPU, hp, filled(models.SyncNet_color, 0.125), width=0.125)
             for hp in (HParams(syncnet_wt=0.01), HParams())]  # fmt: skip
    checkpoints.save_checkpoint(tasks[0], tmp_path, Position(5), 0)
    checkpoints.load_checkpoint(tasks[1], tmp_path / "checkpoint_step000000005.pth")
    assert tasks[1].sync_weight == 0.01


@pytest.mark.parametrize("loss", [cosine_loss, all_pairs_loss])
def test_nan_cosine_gives_a_nan_loss(loss):
    """torch's own cross-entropy fails for it, before the clips of the batch can be named."""
    audio, face = torch.full((2, 4), 0.5), torch.full((2, 4), 0.5)
    audio[1, 2] = float("nan")
    assert math.isnan(loss(audio, face, torch.zeros(2, 1 if loss is cosine_loss else 2))[0])


def test_averages_are_exact_over_uneven_batches():
    averages = Averages()
    averages.add({"loss": torch.tensor(1.0), "matched": torch.tensor([0.9, 1.0])}, 3)
    averages.add({"loss": torch.tensor(2.0), "matched": torch.tensor([0.0, 0.0])}, 1)
    assert averages.means(CPU) == {"loss": pytest.approx(1.25), "matched": pytest.approx(0.9)}


# --------------------------------------------------------------------------------------------------------------------
# Warnings


def test_plateau_is_reported_once():
    task = ExpertTask(CPU, HParams(plateau_warn_steps=200), 0.125)
    stuck = deque([{"loss": 0.6935}] * WATCHED_STEPS)
    assert task.warning(stuck, 199) is None
    text = task.warning(stuck, 200)
    assert text.index("offset") < text.index("25 fps") < text.index("too few") and task.warning(stuck, 201) is None
    assert ExpertTask(CPU, HParams(plateau_warn_steps=1), 0.125).warning(deque([{"loss": 0.6}] * 100), 300) is None


def test_discriminator_collapse_is_reported(filled):
    task = HQGeneratorTask(CPU, HParams(), filled(models.SyncNet_color, 0.125), width=0.125)
    assert task.warning(deque([{"real": 0.1, "fake": 0.2, "perceptual": 2.0}] * 100), 300) is None
    assert "'fake'" in task.warning(deque([{"real": 0.1, "fake": 27.0, "perceptual": 0.0}] * 100), 300)


def test_guessing_discriminator_is_reported_once(filled):
    task = HQGeneratorTask(CPU, HParams(plateau_warn_steps=1), filled(models.SyncNet_color, 0.125), width=0.125)
    stuck = deque([{"real": 0.66, "fake": 0.72, "perceptual": 0.7}] * 100)
    assert task.warning(stuck, 9000) is None  # it has not trained for a single step, however long the generator has
    task.train_step([part[:2] for part in generator_batch()])
    assert task.warning(deque([{"real": 0.6, "fake": 0.7, "perceptual": 0.8}] * 100), 9001) is None
    assert "disc_initial_learning_rate" in task.warning(stuck, 9002) and task.warning(stuck, 9003) is None
    assert "collapsed" in task.warning(deque([{"real": 9.0, "fake": 0.1, "perceptual": 0.0}] * 100), 9100)


# --------------------------------------------------------------------------------------------------------------------
# Whole runs on a small made-up corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Six clips of two speakers: a ball bounces over noise with the pitch of the sound; and filelists."""
    root = tmp_path_factory.mktemp("corpus")
    for n in range(6):
        clip = root / f"s{n % 2}/clip{n}"
        clip.mkdir(parents=True)
        for i in range(30):
            face = np.random.default_rng(100 * n + i).integers(20, 100 + 50 * (n % 3), (100, 80, 3), np.uint8)
            cv2.circle(face, (40, int(70 + 15 * np.sin(i / 2 + n))), 12, (30, 30, 220), -1)
            cv2.imwrite(str(clip / f"{i}.jpg"), face)
        t = np.arange(int(1.4 * 16000)) / 16000
        wav = 0.4 * np.sin(2 * np.pi * (400 + 200 * np.sin(t * 25 / 2 + n)) * t).astype(np.float32)
        audio.save_wav(wav, clip / "audio.wav")
        np.save(clip / "mel.npy", np.ascontiguousarray(audio.melspectrogram(wav).T))
    lists = root / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("".join(f"s{n % 2}/clip{n}\n" for n in range(5)))
    (lists / "val.txt").write_text("s1/clip5\n")
    expert = root / "expert.pth"
    torch.save({"state_dict": fill(models.SyncNet_color(0.125)).state_dict(), "width": 0.125}, expert)
    generator = {"state_dict": fill(models.Wav2Lip(0.125)).state_dict(), "width": 0.125}
    torch.save(generator, root / "generator.pth")
    return root


SMALL = (
    "width=0.125,syncnet_batch_size=4,batch_size=1,num_workers=0,"
    "syncnet_eval_interval=4,eval_interval=4,syncnet_eval_steps=1,eval_steps=1,hq_eval_steps=1,"
    "save_optimizer_state=false"  # Adam's moments are two thirds of the work of saving
)
WHOLE = f"{SMALL},save_optimizer_state=true"  # to continue as if nothing had happened


def command(corpus, folder, *flags, hp=SMALL):
    lists = ["--filelists", corpus / "lists", "--device", "cpu", "--precision", "fp32", "--hparams", hp]
    return [str(part) for part in ["--data_root", corpus, "--checkpoint_dir", folder, *lists, *flags]]


def hq_flags(corpus):
    return "--syncnet_checkpoint_path", corpus / "expert.pth"


def losses(folder, split="train"):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k not in ("seconds", "waited")} for r in records if r["split"] == split]


def test_training_as_a_library_prints_nothing(corpus, tmp_path, told, capsys):
    before = vars(hparams).copy()
    options = recipes.TrainingOptions(corpus / "lists", SMALL, max_steps=1, device="cpu", precision="fp32")
    recipes.train_expert(corpus, tmp_path / "expert", options, told)
    expert = tmp_path / "expert/checkpoint_step000000001.pth"
    other = dataclasses.replace(options, settings=f"{SMALL},mask_top=0.375")
    recipes.train_generator(corpus, tmp_path / "hq", expert, options=other, report=told, discriminator=True)
    hq = tmp_path / "hq/checkpoint_step000000001.pth"
    assert weights.load_model(hq).mask_top == 0.375
    with pytest.raises(
        UserError, match="was trained with mask_top=0.375, this run has 0.5; pass --hparams mask_top=0.375"
    ):
        recipes.train_generator(corpus, tmp_path / "on", expert, options=dataclasses.replace(options, checkpoint=hq))
    assert weights.read_checkpoint(hq, models.Wav2Lip).mel_lead == 1
    with pytest.raises(UserError, match="was trained with mel_lead=1, this run has 0; pass --hparams mel_lead=1"):
        settings = f"{other.settings},mel_lead=0"
        recipes.train_generator(
            corpus, tmp_path / "on", expert, options=dataclasses.replace(options, checkpoint=hq, settings=settings)
        )
    assert {path.name for path in (tmp_path / "hq").glob("*.pth")} == {
        "checkpoint_step000000001.pth", "disc_checkpoint_step000000001.pth",
    }  # fmt: skip
    assert vars(hparams) == before and capsys.readouterr().out == "" and told.notes


def test_training_leaves_cudnn_on():
    """torch's ``cudnn.flags`` switches off whatever is not passed to it."""
    with recipes.training_session(recipes.TrainingOptions(device="cpu")):
        assert torch.backends.cudnn.enabled and torch.backends.cudnn.benchmark


def test_expert_script(corpus, tmp_path, capsys):
    folder, hp = tmp_path / "new/folder", f"{SMALL},syncnet_eval_interval=2,syncnet_checkpoint_interval=3"
    assert color_syncnet_train.main(command(corpus, folder, "--max_steps", 4, "--keep", 2, hp=hp)) == 0
    assert sorted(p.name for p in folder.glob("*.pth")) == [
        "checkpoint_best.pth",
        "checkpoint_step000000003.pth",
        "checkpoint_step000000004.pth",
    ]
    train, val = losses(folder), losses(folder, "val")
    assert [r["step"] for r in train] == [1, 2, 3, 4] and [r["step"] for r in val] == [2, 4]
    assert {"loss", "accuracy", "matched", "mismatched"} <= set(val[0])
    assert models.weights.load_model(folder / "checkpoint_step000000004.pth", models.SyncNet_color).width == 0.125


def test_augmentation_changes_training_pictures(corpus, tmp_path):
    plain, varied = f"{SMALL},syncnet_lr=0", f"{SMALL},syncnet_lr=0,augment_mirror=1,augment_shift=0.1"
    assert color_syncnet_train.main(command(corpus, tmp_path / "plain", "--max_steps", 1, hp=plain)) == 0
    assert color_syncnet_train.main(command(corpus, tmp_path / "varied", "--max_steps", 1, hp=varied)) == 0
    assert losses(tmp_path / "plain")[0]["loss"] != losses(tmp_path / "varied")[0]["loss"]


def test_hq_script(corpus, tmp_path):
    flags = (*hq_flags(corpus), "--judge_checkpoint_path", corpus / "expert.pth", "--max_steps", 2)
    hp = SMALL.replace("eval_interval=4", "eval_interval=2")
    assert hq_wav2lip_train.main(command(corpus, tmp_path, *flags, hp=hp)) == 0
    names = {p.name for p in tmp_path.iterdir()}
    assert {"checkpoint_step000000002.pth", "disc_checkpoint_step000000002.pth", "samples_step000000001"} <= names
    assert cv2.imread(str(tmp_path / "samples_step000000001/0_4.jpg")).shape == (96, 4 * 96, 3)
    assert {"l1", "sync", "perceptual", "real", "fake", "judge", "sync_of_real"} <= set(losses(tmp_path, "val")[0])
    models.weights.load_model(tmp_path / "checkpoint_step000000002.pth")


@pytest.mark.parametrize("script", [color_syncnet_train, wav2lip_train])
def test_evaluations_always_use_the_same_windows(corpus, tmp_path, monkeypatch, script):
    """Whatever the seed, and however hard the training's negatives are."""
    seen = []

    def record(task, loader):
        seen.append([[part.clone() for part in batch] for batch in loader])
        return {"loss": 1.0, "l1": 1.0, "sync": 1.0, "sync_of_real": 1.0}

    monkeypatch.setattr(loop, "evaluate", record)
    monkeypatch.setattr(training, "Plan", functools.partial(training.Plan, saves=False))
    flags = hq_flags(corpus) if script is wav2lip_train else ()
    hp = SMALL.replace("eval_interval=4", "eval_interval=1") + ",syncnet_eval_steps=6,eval_steps=4"
    for folder, steps, seed, more in (("a", 2, 0, ""), ("b", 1, 7, ",negative_distance=10")):
        arguments = command(corpus, tmp_path / folder, *flags, "--max_steps", steps, "--seed", seed, hp=hp + more)
        assert script.main(arguments) == 0
    first, *others = seen
    assert len(others) == 2 and first
    for other in others:
        assert all(torch.equal(a, b) for x, y in zip(first, other, strict=True) for a, b in zip(x, y, strict=True))


@pytest.mark.parametrize("script, first", [(wav2lip_train, [1]), (hq_wav2lip_train, [])])
def test_only_a_run_without_discriminator_evaluates_after_step_1(corpus, tmp_path, script, first):
    """As in the reference: step 1 passes even an undecided expert, which counts threefold with a discriminator."""
    arguments = command(corpus, tmp_path, *hq_flags(corpus), "--max_steps", 2, hp=SMALL)
    assert script.main(arguments) == 0
    assert [record["step"] for record in losses(tmp_path, "val")] == first


@pytest.mark.parametrize("saves", [False, True])
def test_failed_run_closes_its_log_if_it_has_one(corpus, tmp_path, monkeypatch, told, saves):
    """Otherwise every run cancelled from the page would leave a thread behind."""
    closed, close_log = [], loop.Log.close
    monkeypatch.setattr(loop.Log, "close", lambda log: closed.append(log) or close_log(log))

    def no_disk(*_):
        raise RuntimeError("no disk")

    monkeypatch.setattr(ExpertTask, "train_step", no_disk)
    monkeypatch.setattr(training, "Plan", functools.partial(training.Plan, saves=saves))
    options = recipes.TrainingOptions(corpus / "lists", SMALL, device="cpu", precision="fp32")
    with pytest.raises(RuntimeError, match="disk"):
        recipes.train_expert(corpus, tmp_path, options, told)
    assert len(closed) == saves and (tmp_path / "metrics.jsonl").exists() == saves


def test_discriminator_may_be_narrower(corpus, tmp_path, capsys):
    flags = "--syncnet_checkpoint_path", corpus / "expert.pth", "--max_steps", 1
    assert hq_wav2lip_train.main(command(corpus, tmp_path / "a", *flags, hp=f"{SMALL},disc_width=0.0625")) == 0
    widths = [torch.load(tmp_path / f"a/{name}checkpoint_step000000001.pth")["width"] for name in ("", "disc_")]
    assert widths == [0.125, 0.0625]
    more = "--disc_checkpoint_path", tmp_path / "a/disc_checkpoint_step000000001.pth"
    assert hq_wav2lip_train.main(command(corpus, tmp_path / "b", *flags, *more, hp=SMALL + ",disc_width=0.125")) == 2
    assert "--hparams disc_width=0.0625" in capsys.readouterr().err


def test_negative_seed_is_refused(corpus, tmp_path, capsys):
    assert color_syncnet_train.main(command(corpus, tmp_path, "--seed", -1)) == 2
    assert "'-1' is not a whole number from 0 to 2^63 - 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "script, more",
    [(color_syncnet_train, ""), (color_syncnet_train, ",windows_per_clip=3"), (hq_wav2lip_train, "")],
)
def test_resumed_run_equals_undisturbed_run(corpus, tmp_path, script, more):
    flags = hq_flags(corpus) if script is hq_wav2lip_train else ()
    hp = WHOLE.replace("eval_interval=4", "eval_interval=2") + more
    assert script.main(command(corpus, tmp_path / "a", *flags, "--max_steps", 2, hp=hp)) == 0
    assert script.main(command(corpus, tmp_path / "b", *flags, "--max_steps", 1, hp=hp)) == 0
    assert script.main(command(corpus, tmp_path / "b", *flags, "--max_steps", 2, "--resume", hp=hp)) == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b") and losses(tmp_path / "a", "val") == losses(
        tmp_path / "b", "val"
    )


def fail(*_):
    raise MemoryError("killed")


@pytest.fixture(scope="module")
def switched_on(corpus, tmp_path_factory):
    """The folder of an undisturbed run whose first evaluation, after step 1, switches the sync loss on."""
    folder = tmp_path_factory.mktemp("switched_on")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generators, "SYNC_THRESHOLD", 1e9)
        assert wav2lip_train.main(command(corpus, folder, *hq_flags(corpus), "--max_steps", 2)) == 0
    return folder


@pytest.mark.parametrize("killed_in", ["save_checkpoint", "evaluate", None])
def test_sync_loss_switched_on_by_an_evaluation_is_not_lost(corpus, switched_on, tmp_path, monkeypatch, killed_in):
    """It counts from step 2 on, even if the run is killed during that evaluation or while saving after it."""
    monkeypatch.setattr(generators, "SYNC_THRESHOLD", 1e9)
    parts = command(corpus, tmp_path / "parts", *hq_flags(corpus))

    save = checkpoints.save_checkpoint
    with monkeypatch.context() as patch:
        if killed_in == "save_checkpoint":  # the second one of step 1; nothing is saved on the way out either
            patch.setattr(loop, "save_checkpoint", lambda *a: save(*a) if a[2].evaluation_pending else fail())
        if killed_in == "evaluate":
            patch.setattr(loop, "evaluate", fail)
        assert wav2lip_train.main([*parts, "--max_steps", "1"]) == (1 if killed_in else 0)
    saved = torch.load(tmp_path / "parts/checkpoint_step000000001.pth", weights_only=True)
    assert saved["evaluation_pending"] == bool(killed_in) and bool(saved["syncnet_wt"]) != bool(killed_in)
    assert wav2lip_train.main([*parts, "--max_steps", "2", "--resume"]) == 0
    assert losses(tmp_path / "parts") == losses(switched_on) and "sync" in losses(tmp_path / "parts")[-1]
    assert losses(tmp_path / "parts", "val") == losses(switched_on, "val") != []


def test_run_can_be_stopped_during_an_evaluation(corpus, tmp_path, monkeypatch):
    seen = []

    def evaluate(task, loader):
        for batch in loader:
            seen.append(batch)
            signal.raise_signal(signal.SIGINT)
        return {"loss": 1.0}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    hp = f"{SMALL},syncnet_eval_interval=2,syncnet_batch_size=2,syncnet_eval_steps=2"
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 4, hp=hp)) == 130
    monkeypatch.undo()
    assert len(seen) == 1 and (tmp_path / "checkpoint_step000000002.pth").exists()
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 3, "--resume", hp=hp)) == 0
    assert [r["step"] for r in losses(tmp_path, "val")] == [2]  # resuming made up for it


def test_mean_of_the_weights_is_evaluated_and_saved(corpus, tmp_path):
    """The mean affects neither training nor resuming."""
    plain = f"{WHOLE},syncnet_eval_interval=3"
    mean = f"{plain},ema_decay=0.25"  # a young mean keeps 2/11 at its first update, 3/12 = 0.25 at its second
    for folder, hp, stages in (("plain", plain, [3]), ("whole", mean, [3]), ("parts", mean, [2, 3])):
        for steps in stages:
            flags = ("--max_steps", steps, "--resume")
            assert color_syncnet_train.main(command(corpus, tmp_path / folder, *flags, hp=hp)) == 0
    assert losses(tmp_path / "plain") == losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert losses(tmp_path / "whole", "val") == losses(tmp_path / "parts", "val") != losses(tmp_path / "plain", "val")

    first, second, third = (
        torch.load(tmp_path / f"parts/checkpoint_step{step:09d}.pth", weights_only=True) for step in (1, 2, 3)
    )
    plain = torch.load(tmp_path / "plain/checkpoint_step000000003.pth", weights_only=True)["state_dict"]
    for name, value in third["state_dict"].items():
        if value.is_floating_point():
            a, b, c = (checkpoint["training_state_dict"][name] for checkpoint in (first, second, third))
            assert torch.allclose(value, 0.25 * (2 / 11 * a + 9 / 11 * b) + 0.75 * c, atol=1e-6), name
            assert (c == plain[name]).all(), name


def test_resuming_without_a_mean_starts_from_the_mean_weights(corpus, tmp_path):
    """Those are what was evaluated, not the weights of the last step."""
    expert = ExpertTask(CPU, HParams(ema_decay=0.9), 0.125)
    fill(expert.ema.module)
    checkpoints.save_checkpoint(expert, tmp_path, Position(5), 0)
    plain = ExpertTask(CPU, HParams(), 0.125)
    checkpoints.load_checkpoint(plain, tmp_path / "checkpoint_step000000005.pth")
    ours, theirs = plain.expert.state_dict(), expert.ema.module.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_best_checkpoint_is_kept(corpus, tmp_path, monkeypatch):
    """Across stops, and even if the newest is worse."""
    figures = iter([0.5, 0.3, 0.4, 0.35, 0.2])
    monkeypatch.setattr(loop, "evaluate", lambda *_: {"loss": next(figures)})
    hp = f"{SMALL},syncnet_eval_interval=1"
    best_steps = []
    for steps in (2, 4, 5):
        assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", steps, "--resume", hp=hp)) == 0
        best_steps.append(torch.load(tmp_path / "checkpoint_best.pth", weights_only=True)["global_step"])
    assert best_steps == [2, 2, 5]
    best, newest = (torch.load(tmp_path / name, weights_only=True)["state_dict"]
                    for name in ("checkpoint_best.pth", "checkpoint_step000000005.pth"))  # fmt: skip
    assert all(torch.equal(best[name], newest[name]) for name in newest)
    assert weights.load_model(tmp_path / "checkpoint_best.pth", models.SyncNet_color).width == 0.125


def test_unusable_clips_and_clips_in_both_lists_are_reported(corpus, tmp_path, told):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("s0/clip0\ns1/clip1\ns0/nowhere\ns0/gone\n")
    (lists / "val.txt").write_text("s1/clip1\n")
    options = recipes.TrainingOptions(lists, SMALL, max_steps=1, device="cpu", precision="fp32")
    recipes.train_expert(corpus, tmp_path / "run", options, told)
    unusable = tmp_path / "run/unusable.txt"
    assert unusable.read_text() == "".join(f"{corpus}/s0/{name}: no such folder\n" for name in ("nowhere", "gone"))
    assert any("2 training clips cannot be used" in note and str(unusable) in note for note in told.notes)
    assert any(f"1 validation clips are training clips as well, the first: {corpus}/s1/clip1" in n for n in told.notes)


INTERRUPTED = f"{WHOLE},syncnet_eval_interval=2"


@pytest.fixture(scope="module")
def undisturbed(corpus, tmp_path_factory):
    """The folder of four steps of the expert."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert color_syncnet_train.main(command(corpus, folder, "--max_steps", 4, hp=INTERRUPTED)) == 0
    return folder


def test_smaller_batches_go_on_with_new_samples(corpus, tmp_path, monkeypatch):
    """Half the batch, as advised when memory runs out, began with samples that had been drawn already."""
    drawn, draw = [], Batches.keys
    monkeypatch.setattr(Batches, "keys", lambda self, batch: drawn.append(draw(self, batch)) or drawn[-1])
    for steps, size in ((2, 4), (4, 2), (5, 4)):
        hp = f"{SMALL},syncnet_batch_size={size}"
        assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", steps, "--resume", hp=hp)) == 0
    begun = [keys[0] for keys in drawn]
    assert {0, 4, 8, 10, 12} <= {*begun} and drawn[begun.index(12)] == [12, 13, 14, 15]


def test_killed_run_resumes_as_if_nothing_had_happened(corpus, undisturbed, tmp_path, monkeypatch):
    """A kill leaves what lies in the folder at that moment: here steps 2 and 3 are logged, but only 1 is saved."""
    train, killed = loop._Trainer._train, tmp_path / "killed"

    def train_until_killed(trainer, batch, advance):
        train(trainer, batch, advance)
        if trainer.step == 3:
            shutil.copytree(tmp_path / "run", killed)
            fail()

    monkeypatch.setattr(loop._Trainer, "_train", train_until_killed)
    assert color_syncnet_train.main(command(corpus, tmp_path / "run", hp=INTERRUPTED)) == 1
    monkeypatch.undo()
    assert checkpoints.steps_saved(killed, "") == [1] and [r["step"] for r in losses(killed)] == [1, 2, 3]
    assert_resumes_like_an_undisturbed_run(corpus, killed, undisturbed)


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_stopped_run_resumes_as_if_nothing_had_happened(corpus, undisturbed, tmp_path, monkeypatch, capsys, how):
    if not hasattr(signal, how):
        pytest.skip("this system has no such signal")
    if signal.getsignal(getattr(signal, how)) is signal.SIG_IGN:
        pytest.skip("these tests were started so that they ignore it, as nohup does")
    train = loop._Trainer._train

    def stopped(trainer, batch, advance):
        train(trainer, batch, advance)
        if trainer.step == 3:
            signal.raise_signal(getattr(signal, how))

    monkeypatch.setattr(loop._Trainer, "_train", stopped)
    assert color_syncnet_train.main(command(corpus, tmp_path, hp=INTERRUPTED)) == 130
    words = capsys.readouterr().err
    assert words.count("\n") == 1 and "--resume" in words
    assert (tmp_path / "checkpoint_step000000003.pth").exists()
    monkeypatch.undo()
    assert_resumes_like_an_undisturbed_run(corpus, tmp_path, undisturbed)


def assert_resumes_like_an_undisturbed_run(corpus, folder, undisturbed):
    assert color_syncnet_train.main(command(corpus, folder, "--max_steps", 4, "--resume", hp=INTERRUPTED)) == 0
    for split in ("train", "val"):
        assert losses(folder, split) == losses(undisturbed, split) != []


# A forked process need not import torch again, which takes seconds. Backpropagation refuses to work in one if the
# first process has threads for GPUs.
PROCESSES = multiprocessing.get_context(
    "fork" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn"
)


@pytest.fixture
def start_training(tmp_path):
    """``start_training(arguments)`` trains the expert in a process of its own, which ends with the test at last."""
    processes = []

    def start(arguments):
        processes.append(PROCESSES.Process(target=train_and_print_into, args=(tmp_path, arguments)))
        processes[-1].start()
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


def train_and_print_into(folder, arguments):
    torch.set_num_threads(1)  # a forked process does not have the others
    with open(folder / "stdout", "w") as out, open(folder / "stderr", "w") as err:
        os.dup2(err.fileno(), 2)  # for libraries that are not written in Python
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = color_syncnet_train.main(arguments)
    sys.exit(code)


def outcome(process, folder):
    process.join(300)
    return SimpleNamespace(
        returncode=process.exitcode,
        stdout=(folder / "stdout").read_text(),
        stderr=(folder / "stderr").read_text(),
    )


def wait_for_steps(folder, count):
    for _ in range(3000):  # long enough for a busy machine
        path = folder / "metrics.jsonl"
        if path.exists() and path.read_text().count('"train"') >= count:
            return
        time.sleep(0.1)
    pytest.fail("the run does not get on")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the loader's processes in Linux's /proc")
def test_signals_to_workers_do_not_prevent_saving(corpus, tmp_path, start_training):
    """Job managers signal every process of a job; a worker that died of it used to end the run unsaved."""
    hp = f"{SMALL},num_workers=2,syncnet_eval_interval=1000"  # evaluations would start more workers
    process = start_training(command(corpus, tmp_path, hp=hp))
    wait_for_steps(tmp_path, 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    for pid in (*map(int, children), process.pid):
        os.kill(pid, signal.SIGTERM)
    done = outcome(process, tmp_path)
    assert done.returncode == 130 and done.stderr.count("\n") == 1 and "--resume" in done.stderr
    assert (tmp_path / f"checkpoint_step{len(losses(tmp_path)):09d}.pth").exists()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the loader's processes in Linux's /proc")
def test_killed_worker_costs_no_steps(corpus, tmp_path, start_training):
    """Linux kills one if memory runs out: all steps until then are saved."""
    hp = f"{SMALL},num_workers=1,syncnet_eval_interval=1000"
    process = start_training(command(corpus, tmp_path, hp=hp))
    wait_for_steps(tmp_path, 3)
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    done = outcome(process, tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    last = len(losses(tmp_path))
    assert (tmp_path / f"checkpoint_step{last:09d}.pth").exists()
    assert f"everything up to step {last} is saved" in done.stderr and "--resume" in done.stderr


def test_all_processes_stop_an_evaluation_when_one_is_asked_to():
    trainer = one_of_two(other=(1, 0))
    with pytest.raises(training.Stopped):
        next(trainer._stoppable([0]))
    assert waiting_of(trainer) == 1


def test_processes_may_have_different_numbers_of_evaluation_batches():
    trainer = one_of_two(other=(0, 1))  # the other has more
    batches = trainer._stoppable([0, 1])
    assert [next(batches), next(batches)] == [0, 1]
    trainer.group.other = (0, 0)
    assert list(batches) == []
    assert list(trainer._stoppable([0, 1])) == [0, 1]  # and here it has fewer


@pytest.mark.parametrize("read", ["_fetch", "_stoppable"])
def test_all_processes_hear_of_a_problem(read):
    """Of one in an evaluation they did not: they waited for the process that had left, and nothing was saved."""

    def broken():
        yield 0
        raise OSError("the disk is gone")

    trainer = one_of_two(other=(0, 0))
    trainer.plan = SimpleNamespace(minutes=None)
    batches = getattr(trainer, read)(broken())
    with pytest.raises(OSError, match="the disk is gone"):
        list(batches)
    assert trainer.group.told[-1][0] == 1  # the problem is a reason for all to stop
    assert waiting_of(trainer) == 1


def one_of_two(other):
    """Return the trainer of a process whose only companion sets the ``other`` flags."""

    class Two(Distributed):
        def mean(self, rows):
            self.told.append(rows.tolist())
            return (rows + torch.tensor(self.other[: len(rows)])) / 2

    trainer = object.__new__(loop._Trainer)
    trainer.group, trainer.step = Two(torch.device("cpu"), world_size=2), 0
    trainer.group.__dict__.update(other=other, told=[])
    trainer._stop = trainer._interruptible = False
    trainer._first_step, trainer._leaving = 0, contextlib.ExitStack()
    return trainer


def waiting_of(trainer):
    """Return how often the process waits for the others before it leaves."""
    before = len(trainer.group.told)
    trainer._leaving.close()
    return len(trainer.group.told) - before


@pytest.mark.parametrize("words", [
    "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)",
    "DataLoader worker (pid 7) is killed by signal: Bus error. Workers may be out of shared memory.",
])  # fmt: skip
def test_full_shared_memory_is_called_so(words):
    """In a container it has 64 MB, and the error seemed to be about a disk."""
    trainer = one_of_two(other=(0, 0))
    trainer.plan = SimpleNamespace(saves=True, checkpoint_dir=Path("EXPERT"))
    with pytest.raises(RuntimeError, match=r"shared memory .* is full; everything up to step 0 is saved .*--shm-size"):
        trainer._raise_for_killed(RuntimeError(words))


def test_a_failed_process_does_not_wait_for_the_others(monkeypatch):
    """By NCCL, leaving waits for processes that may wait for this one; two hours passed before the run ended."""
    calls = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(dist, "destroy_process_group", lambda *_: calls.append("destroyed"))
    aborted = "_abort_process_group", lambda _: calls.append("aborted")
    monkeypatch.setattr(dist.distributed_c10d, *aborted, raising=False)
    with pytest.raises(OSError), recipes.training_session(recipes.TrainingOptions(device="cpu")):
        raise OSError("the disk is full")
    assert calls == ["aborted"]


def test_batch_norms_are_shared_on_gpus():
    expert = SyncNet_color(0.25)
    names = [*expert.state_dict()]
    shared = distributed._share_statistics(expert, torch.device("cuda"))
    assert not any(type(module) is torch.nn.BatchNorm2d for module in shared.modules())
    assert sum(isinstance(module, torch.nn.SyncBatchNorm) for module in shared.modules()) > 10
    assert [*shared.state_dict()] == names


def test_ctrl_c_ends_a_run_whose_data_hang(corpus, tmp_path, monkeypatch):
    """As on a network disk that is gone: only a kill helped, and the steps since the last checkpoint were lost."""
    read = SyncNetDataset.read

    def hanging(self, key):
        if key >= 24:
            signal.raise_signal(signal.SIGINT)
            pytest.fail("reading goes on")
        return read(self, key)

    monkeypatch.setattr(SyncNetDataset, "read", hanging)
    assert color_syncnet_train.main(command(corpus, tmp_path)) == 130
    assert len(losses(tmp_path)) == 6
    assert (tmp_path / f"checkpoint_step{len(losses(tmp_path)):09d}.pth").exists()


def train_as_one_of_two(rank, todo):
    """Run scripts in what torchrun would start as the process ``rank``, each with its own port for the meeting."""
    torch.set_num_threads(1)  # a forked process does not have the others
    warnings.simplefilter("error", FutureWarning)  # what torch deprecates is not the user's business
    for script, arguments, port in todo:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        # a process left waiting in the group may abort a run that has succeeded
        if importlib.import_module(script).main(arguments) or torch.distributed.is_initialized():
            sys.exit(1)


def test_two_processes_equal_one(corpus, tmp_path):
    """To 1e-4, at a small learning rate: Adam's first steps turn rounding into differences as large as the rate."""
    slow = f"{SMALL},batch_size=2,syncnet_wt=0.03,syncnet_lr=1e-6"
    slow += ",initial_learning_rate=1e-6,disc_initial_learning_rate=1e-6"
    expert, generator = ("--checkpoint_path", corpus / "expert.pth"), ("--checkpoint_path", corpus / "generator.pth")
    runs = {
        "pairs": (color_syncnet_train, expert, f"{slow},syncnet_eval_interval=1,syncnet_eval_steps=2,ema_decay=0.9"),
        "all_pairs": (color_syncnet_train, expert, f"{slow},windows_per_clip=2"),
        "hq": (hq_wav2lip_train, (*generator, *hq_flags(corpus)), slow),
    }

    def arguments(name: str, folder: str) -> list[str]:
        _, flags, hp = runs[name]
        return command(corpus, tmp_path / folder / name, *flags, "--max_steps", 2, hp=hp)

    todo = [(script.__name__, arguments(name, "two"), free_port()) for name, (script, *_) in runs.items()]
    pair = [PROCESSES.Process(target=train_as_one_of_two, args=(rank, todo)) for rank in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(300)
        process.kill()  # if it has not ended
    assert [process.exitcode for process in pair] == [0, 0]
    for name, (script, *_) in runs.items():
        assert script.main(arguments(name, "one")) == 0
        for split, count in (("train", 2), ("val", 2 if name == "pairs" else 0)):
            one, two = losses(tmp_path / "one" / name, split), losses(tmp_path / "two" / name, split)
            assert len(one) == len(two) == count
            for a, b in zip(one, two):
                assert a == pytest.approx(b, abs=1e-4), (name, split, a["step"])


def test_training_can_start_from_official_checkpoints(corpus, tmp_path):
    """They have no width, no random state, and the optimizer state of an old torch."""
    network = models.SyncNet_color()
    moments = [
        {"step": 7, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
        for parameter in network.parameters()
    ]
    old = {"lr": 1e-4, "betas": (0.7, 0.9), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    state = {"state": dict(enumerate(moments)), "param_groups": [{**old, "params": [*range(len(moments))]}]}
    content = {"state_dict": network.state_dict(), "optimizer": state, "global_step": 700, "global_epoch": 3}
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    flags = ("--checkpoint_path", tmp_path / "old.pth", "--max_steps", 701)
    hp = "syncnet_batch_size=2,num_workers=0,syncnet_lr=3e-5"
    assert color_syncnet_train.main(command(corpus, tmp_path / "new", *flags, hp=hp)) == 0
    assert [r["step"] for r in losses(tmp_path / "new")] == [701]
    written = torch.load(tmp_path / "new/checkpoint_step000000701.pth", weights_only=True)
    (group,) = written["optimizer"]["param_groups"]
    assert (
        group["lr"] == 3e-5 and tuple(group["betas"]) == (0.9, 0.999) and group["fused"]
    )  # as this run sets them, not as in the file
    assert {float(moment["step"]) for moment in written["optimizer"]["state"].values()} == {8}


def test_run_from_an_official_generator_is_evaluated_at_once(corpus, tmp_path, capsys):
    """Such a run used to learn only L1 for thousands of steps, until lips no longer moved."""
    torch.save(
        {"state_dict": models.Wav2Lip(0.125).state_dict(), "global_step": 700, "width": 0.125}, tmp_path / "g.pth"
    )
    flags = (*hq_flags(corpus), "--checkpoint_path", tmp_path / "g.pth", "--max_steps", 701)
    for train, weight in ((wav2lip_train, 0.01), (hq_wav2lip_train, 0.03)):
        folder = tmp_path / train.__name__
        assert train.main(command(corpus, folder, *flags, hp=f"{SMALL},width=0.125")) == 0
        assert [r["step"] for r in losses(folder, "val")] == [700]
        assert f"--hparams syncnet_wt={weight} turns it on from the start" in capsys.readouterr().out


def test_networks_keep_the_references_argument_and_method_names():
    mels, faces = torch.zeros(1, 1, 80, 16), torch.zeros(1, 6, 96, 96)
    network, expert = models.Wav2Lip(0.125).eval(), models.SyncNet_color(0.125).eval()
    assert (network(audio_sequences=mels, face_sequences=faces) == network(mels, faces)).all()
    assert len(expert(audio_sequences=mels, face_sequences=torch.zeros(1, 15, 48, 96))) == 2
    judge, drawn = models.Wav2Lip_disc_qual(0.125), torch.rand(2, 3, 5, 96, 96)
    assert judge.perceptual_forward(drawn).item() == pytest.approx(-judge(drawn).log().mean().item(), rel=1e-4)


def test_adam_moments_of_the_reference_keep_their_weights(tmp_path):
    """They are contiguous, our weights channels last: one pass over both memories would mix them up."""
    theirs = models.SyncNet_color(0.125)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for seed in (1, 2):
        for n, parameter in enumerate(theirs.parameters()):
            parameter.grad = rnd(100 * seed + n, parameter.shape, "n")
        if seed == 2:
            content = {"state_dict": theirs.state_dict(), "optimizer": optimizer.state_dict(), "width": 0.125}
            torch.save(content, tmp_path / "old.pth")
        optimizer.step()

    task = ExpertTask(CPU, HParams(syncnet_lr=1e-2), 0.125)
    checkpoints.load_checkpoint(task, tmp_path / "old.pth")
    for ours, parameter in zip(task.expert.parameters(), theirs.parameters()):
        ours.grad = torch.empty_like(ours).copy_(parameter.grad)
    task.optimizer.step()
    for ours, parameter in zip(task.expert.parameters(), theirs.parameters()):
        torch.testing.assert_close(ours, parameter, rtol=0, atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not bind processes to CPUs")
def test_no_more_loader_processes_than_cpus(corpus, tmp_path, monkeypatch):
    """A container with one of 64 CPUs used to get 16, and a warning from torch."""
    plans = []
    monkeypatch.setattr(training, "fit", lambda task, train, val, plan, say: plans.append(plan))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert color_syncnet_train.main(command(corpus, tmp_path, hp=f"{SMALL},num_workers=16")) == 0
    assert plans[0].num_workers == 1


@pytest.mark.parametrize("script, name", [(wav2lip_train, "eval_steps"), (hq_wav2lip_train, "hq_eval_steps")])
def test_length_of_evaluations_can_be_set(corpus, tmp_path, monkeypatch, script, name):
    plans = []
    monkeypatch.setattr(training, "fit", lambda task, train, val, plan, say: plans.append(plan))
    flags = ("--syncnet_checkpoint_path", corpus / "expert.pth")
    assert script.main(command(corpus, tmp_path, *flags, hp=f"{SMALL},{name}=3")) == 0
    assert plans[0].eval_steps == 3


# --------------------------------------------------------------------------------------------------------------------
# What must fail, with one line


@pytest.mark.parametrize("more", ["", ",windows_per_clip=4"])
def test_loss_that_is_not_finite_names_the_clips(corpus, tmp_path, capsys, monkeypatch, more):
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    for clip in data.glob("s*/clip*"):
        np.save(clip / "mel.npy", np.full_like(np.load(clip / "mel.npy"), np.nan))
    assert color_syncnet_train.main(command(data, tmp_path / "run", "--max_steps", 2, hp=SMALL + more)) == 1
    words = capsys.readouterr().err
    assert "step 1: loss" in words and "not finite" in words and "s0/clip" in words and words.count("\n") == 1
    assert not list((tmp_path / "run").glob("*.pth"))  # NaN weights are not worth keeping


@pytest.fixture
def run_expert(tmp_path, start_training, capsys):
    """``run_expert(arguments, workers)`` trains, elsewhere if workers read the data: such a run once never ended."""

    def run(arguments, workers):
        if workers:
            return outcome(start_training(arguments), tmp_path)
        code = color_syncnet_train.main(arguments)
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return run


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_picture_is_named_and_skipped(corpus, tmp_path, run_expert, workers):
    """It used to end the run, or, with worker processes, make it hang."""
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    (data / "s0/clip0/20.jpg").write_bytes(b"junk")
    (data / "s1/clip5/20.jpg").write_bytes(b"junk")  # for validation
    hp = f"{SMALL},num_workers={workers},syncnet_eval_interval=2,syncnet_eval_steps=2"  # both evaluations meet it
    arguments = command(data, tmp_path / "run", "--max_steps", 4, hp=hp)
    done = run_expert(arguments, workers)
    assert done.returncode == 0 and len(losses(tmp_path / "run")) == 4
    words = [line for line in (done.stdout + done.stderr).splitlines() if "damaged files so far" in line]
    assert sum("s0/clip0/20.jpg" in line for line in words) == sum("s1/clip5/20.jpg" in line for line in words) == 1
    assert words[-1].endswith("2 damaged files so far")


@pytest.mark.parametrize("workers", [0, 2])
def test_run_ends_but_stays_saved_if_all_pictures_are_damaged(corpus, tmp_path, capsys, run_expert, workers):
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    assert color_syncnet_train.main(command(data, tmp_path / "run", "--max_steps", 1)) == 0
    capsys.readouterr()
    for picture in data.glob("s*/*/*.jpg"):
        picture.write_bytes(b"junk")
    flags = ("--max_steps", 9, "--resume")
    arguments = command(data, tmp_path / "run", *flags, hp=SMALL.replace("workers=0", f"workers={workers}"))
    done = run_expert(arguments, workers)
    assert done.returncode == 2 and "like everything else that was tried" in done.stderr
    assert done.stderr.count("\n") == 1 and (tmp_path / "run/checkpoint_step000000001.pth").exists()


def test_run_is_not_overwritten(corpus, tmp_path, capsys):
    """Without --resume, the reference started over among the old checkpoints, and the next --resume took those."""
    hp = f"{SMALL},syncnet_eval_interval=1,syncnet_eval_steps=1"
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 2, hp=hp)) == 0
    before = losses(tmp_path)
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 2, hp=hp)) == 2
    assert "--resume continues it" in capsys.readouterr().err and losses(tmp_path) == before
    assert hq_wav2lip_train.main(command(corpus, tmp_path, *hq_flags(corpus), "--max_steps", 2, "--resume")) == 2
    assert "--resume cannot continue" in capsys.readouterr().err and losses(tmp_path) == before
    first = ("--checkpoint_path", tmp_path / "checkpoint_step000000001.pth")
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 3, *first)) == 2
    best = weights.read_state(tmp_path / "checkpoint_best.pth")
    best["figures"]["loss"] = 0.0  # which cannot be surpassed
    weights.write(best, tmp_path / "checkpoint_best.pth")
    kept = (tmp_path / "checkpoint_best.pth").read_bytes()
    last = ("--checkpoint_path", tmp_path / "checkpoint_step000000002.pth")
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 3, *last, hp=hp)) == 0
    assert losses(tmp_path)[:2] == before and len(losses(tmp_path)) == 3
    assert (tmp_path / "checkpoint_best.pth").read_bytes() == kept


def test_run_is_not_overwritten_by_one_that_starts_from_a_later_step(corpus, tmp_path, capsys):
    """The official files have done 250 thousand steps; the run in the folder lost its best and its last checkpoints."""
    folder = tmp_path / "run"
    assert color_syncnet_train.main(command(corpus, folder, "--max_steps", 2)) == 0
    official = weights.read_state(folder / "checkpoint_step000000002.pth") | {"global_step": 252000}
    torch.save(official, tmp_path / "official.pth")
    kept = {path.name: path.read_bytes() for path in folder.glob("*.pth")}
    start = ("--checkpoint_path", tmp_path / "official.pth", "--max_steps", 252001, "--keep", 1)
    assert color_syncnet_train.main(command(corpus, folder, *start)) == 2
    assert "holds a run that has reached step 2, and --resume continues it" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.glob("*.pth")} == kept


def test_running_out_of_memory_costs_no_steps(corpus, tmp_path, monkeypatch, capsys):
    """All steps since the last checkpoint used to be lost, thousands by default."""
    real = ExpertTask._figures

    def figures(task, network, batch):
        if len(losses(tmp_path)) == 2 and network.training:
            raise torch.OutOfMemoryError("out of memory")
        return real(task, network, batch)

    monkeypatch.setattr(ExpertTask, "_figures", figures)
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 3)) == 1
    assert checkpoints.steps_saved(tmp_path, "") == [1, 2]
    monkeypatch.undo()
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 3, "--resume")) == 0
    assert len(losses(tmp_path)) == 3


def test_discriminator_running_out_of_memory_costs_no_steps(corpus, tmp_path, monkeypatch):
    """It needs most memory; by then, the generator used to have changed already."""
    real = HQGeneratorTask._discriminator_losses

    def figures(task, logits):
        if len(losses(tmp_path)) == 2 and task.discriminator.training:
            raise torch.OutOfMemoryError("out of memory")
        return real(task, logits)

    monkeypatch.setattr(HQGeneratorTask, "_discriminator_losses", figures)
    assert hq_wav2lip_train.main(command(corpus, tmp_path, *hq_flags(corpus), "--max_steps", 4)) == 1
    assert checkpoints.steps_saved(tmp_path, "") == checkpoints.steps_saved(tmp_path, "disc_") == [1, 2]


def test_half_a_step_is_not_saved(corpus, tmp_path, monkeypatch):
    """One of the two networks has changed already when the other fails, in step 3; so step 2 is lost as well."""
    learn, steps = torch.optim.Adam.step, itertools.count()
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *a, **k: 1 / 0 if next(steps) == 5 else learn(*a, **k))
    assert hq_wav2lip_train.main(command(corpus, tmp_path, *hq_flags(corpus), "--max_steps", 3)) == 1
    assert checkpoints.steps_saved(tmp_path, "") == [1]


def test_lone_best_checkpoint_is_not_overwritten(corpus, tmp_path, capsys):
    """If the others had been deleted to save room, a run from the start used to replace it."""
    flags = hq_flags(corpus)
    assert wav2lip_train.main(command(corpus, tmp_path, *flags, "--max_steps", 1, hp=SMALL)) == 0
    for path in tmp_path.glob("checkpoint_step*"):
        path.unlink()
    log, best = (tmp_path / "metrics.jsonl").read_text(), (tmp_path / "checkpoint_best.pth").read_bytes()
    for more in ((), ("--resume",)):
        assert wav2lip_train.main(command(corpus, tmp_path, *flags, "--max_steps", 3, *more, hp=SMALL)) == 2
        assert "holds a run that has reached step 1" in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").read_text() == log
    assert (tmp_path / "checkpoint_best.pth").read_bytes() == best


def test_runs_with_and_without_a_discriminator_are_not_mixed(corpus, tmp_path, capsys):
    assert hq_wav2lip_train.main(command(corpus, tmp_path, *hq_flags(corpus), "--max_steps", 1, hp=SMALL)) == 0
    assert wav2lip_train.main(command(corpus, tmp_path, *hq_flags(corpus), "--max_steps", 4, "--resume", hp=SMALL)) == 2
    assert "continue it with hq_wav2lip_train.py" in capsys.readouterr().err
    shutil.copy(tmp_path / "checkpoint_step000000001.pth", tmp_path / "checkpoint_step000000009.pth")
    arguments = command(corpus, tmp_path, *hq_flags(corpus), "--max_steps", 4, "--resume", hp=SMALL)
    assert hq_wav2lip_train.main(arguments) == 2
    assert "has reached step 9" in capsys.readouterr().err


def test_best_score_only_counts_for_the_same_validation_clips(corpus, tmp_path):
    """A score on easier clips, or by another expert, used to stay the best for ever."""
    flags = hq_flags(corpus)
    hp = SMALL.replace("eval_interval=4", "eval_interval=1")

    def best(*more, data=corpus):
        arguments = command(data, tmp_path / "run", *flags, *more, hp=hp)
        assert wav2lip_train.main(arguments) == 0
        return checkpoints.read_best(tmp_path / "run")

    first = best("--max_steps", 1)
    content = torch.load(tmp_path / "run/checkpoint_best.pth", weights_only=True)
    perfect = dict.fromkeys(content["figures"], 0.0)
    torch.save({**content, "figures": perfect}, tmp_path / "run/checkpoint_best.pth")
    shutil.copytree(corpus, tmp_path / "moved")  # the same clips in another place
    assert best("--max_steps", 2, "--resume", data=tmp_path / "moved").figures == perfect
    shutil.copytree(corpus / "lists", tmp_path / "lists")
    (tmp_path / "lists/val.txt").write_text("s1/clip3\n")
    again = best("--max_steps", 3, "--resume", "--filelists", tmp_path / "lists")
    assert again.step == 3 and again.figures["l1"] > 0 and first.step == 1


def test_best_score_is_computed_with_the_current_weights():
    """After a change of the sync loss's weight, nothing used to beat the old best, or everything did."""
    task = training.GeneratorTask(CPU, HParams(syncnet_wt=0.01), models.SyncNet_color(0.0625), width=0.0625)
    best = checkpoints.Best(4, {"l1": 0.03, "sync": 0.6, "sync_of_real": 0.3})
    assert best.score_until(4, {}, task) == pytest.approx(0.99 * 0.03 + 0.01 * 0.6)
    task.sync_weight = 0.5
    assert best.score_until(9, {}, task) == pytest.approx(0.5 * 0.03 + 0.5 * 0.6)
    assert best.score_until(3, {}, task) == checkpoints.Best().score_until(9, {}, task) == math.inf


@pytest.mark.parametrize(
    "l1, sync, score", [(0.02, 0.5, 0.99 * 0.02 + 0.01 * 0.5), (0.02, 0.1, 0.99 * 0.02 + 0.01 * 0.3)]
)
def test_best_generator_must_also_draw_well(l1, sync, score):
    """By sync alone, the best of 3600 steps was the 400th; and a lower sync loss than real lips' (0.3) is no better."""
    group = Distributed(torch.device("cpu"))
    task = training.GeneratorTask(group, HParams(), models.SyncNet_color(0.0625), width=0.0625)
    assert task.score({"l1": l1, "sync": sync, "sync_of_real": 0.3}) == pytest.approx(score)


def test_weights_that_leave_none_for_l1_are_refused(corpus, tmp_path, capsys):
    """Training used to maximise L1."""
    arguments = command(corpus, tmp_path, *hq_flags(corpus), hp=f"{SMALL},syncnet_wt=0.95")
    assert hq_wav2lip_train.main(arguments) == 2
    assert "leave no weight to L1" in capsys.readouterr().err
    assert hq_wav2lip_train.main(command(corpus, tmp_path, *hq_flags(corpus), hp=f"{SMALL},disc_wt=0.98")) == 2
    assert "leave no weight to L1" in capsys.readouterr().err  # once an evaluation switches sync on
    task = HQGeneratorTask(CPU, HParams(disc_wt=0.5), models.SyncNet_color(0.0625), width=0.0625)
    with pytest.raises(UserError, match="the checkpoint's syncnet_wt 0.6 leaves no weight for L1"):
        task.load_extra_state({"syncnet_wt": 0.6, "discriminator": True})


def test_decay_reaches_the_optimizer(corpus, tmp_path):
    """The rate in the checkpoint is that of its last step; halfway through the decay it is half."""
    hp = f"{WHOLE},syncnet_lr=1e-3,lr_decay_steps=4"
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 2, hp=hp)) == 0
    (path,) = tmp_path.glob("*step000000002.pth")
    (group,) = torch.load(path, weights_only=True)["optimizer"]["param_groups"]
    assert group["lr"] == pytest.approx(0.5e-3)


def test_learning_rates_decayed_before_the_start_are_reported(corpus, tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(TERMINAL, "note", notes.append)
    assert color_syncnet_train.main(command(corpus, tmp_path / "a", "--max_steps", 1)) == 0
    last = ("--checkpoint_path", tmp_path / "a/checkpoint_step000000001.pth", "--max_steps", 2)
    assert color_syncnet_train.main(command(corpus, tmp_path / "b", *last, hp=f"{SMALL},lr_decay_steps=1")) == 0
    assert any("learning rates are a hundredth" in text for text in notes)


def test_time_spent_waiting_for_data_is_logged(corpus, tmp_path, monkeypatch):
    """A run held up by its disk used to look as fast as any."""
    real = SyncNetDataset.read
    monkeypatch.setattr(SyncNetDataset, "read", lambda *args: (time.sleep(0.06), real(*args))[1])
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 3)) == 0
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(record["waited"] > 0.2 for record in records if record["split"] == "train")  # four samples of 0.06 s


def test_truncated_checkpoint_is_no_dead_end(corpus, tmp_path, capsys):
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 2)) == 0
    newest = tmp_path / "checkpoint_step000000002.pth"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 3, "--resume")) == 2
    assert (
        "or delete checkpoint_step000000002.pth: --resume then continues from the previous one"
        in capsys.readouterr().err
    )
    newest.unlink()
    other = command(corpus, tmp_path, "--max_steps", 3, "--resume", hp=f"{SMALL},width=0.25")
    assert color_syncnet_train.main(other) == 2
    assert "delete" not in capsys.readouterr().err  # it is intact
    (tmp_path / "checkpoint_best.pth").write_bytes(b"junk")
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 3, "--resume")) == 2
    assert "delete it: the run continues without it" in capsys.readouterr().err
    (tmp_path / "checkpoint_best.pth").unlink()
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 3, "--resume")) == 0


def test_checkpoint_without_its_discriminator_is_no_dead_end(corpus, tmp_path, capsys):
    def train(steps):
        return hq_wav2lip_train.main(command(corpus, tmp_path, *hq_flags(corpus), "--max_steps", steps, "--resume"))

    assert train(2) == 0
    (tmp_path / "disc_checkpoint_step000000002.pth").write_bytes(b"junk")
    assert train(3) == 2 and "delete *checkpoint_step000000002.pth" in capsys.readouterr().err
    (tmp_path / "disc_checkpoint_step000000002.pth").unlink()
    assert train(3) == 2 and "delete checkpoint_step000000002.pth, too" in capsys.readouterr().err
    (tmp_path / "checkpoint_step000000002.pth").unlink()
    (tmp_path / "checkpoint_best.pth").unlink(missing_ok=True)
    assert train(2) == 0


@pytest.mark.parametrize("wrong, words", [
    ({"precision": "fp8"}, "precision fp8 is not one of"), ({"max_steps": 4.5}, "max_steps 4.5 is not a whole number"),
    ({"seed": 2**63}, "is not a whole number from 0"), ({"keep": 2.5}, "keep 2.5 would keep no checkpoint"),
    ({"filelists": None}, "is not a file name"), ({"settings": "adam_beta1=1"}, "adam_beta1 must be 0.999 at most"),
])  # fmt: skip
def test_impossible_options_are_refused(corpus, tmp_path, wrong, words):
    with pytest.raises(UserError, match=words):
        recipes.train_expert(corpus, tmp_path, recipes.TrainingOptions(**{"device": "cpu", **wrong}))


def test_every_setting_is_in_exactly_one_group():
    kinds = [
        recipes.SHARED_HPARAMS,
        recipes.PARTLY_SHARED,
        recipes.EXPERT_HPARAMS,
        recipes.GENERATOR_HPARAMS,
        recipes.DISCRIMINATOR_HPARAMS,
    ]
    every = {field.name for field in dataclasses.fields(HParams)} - FIXED_BY_NETWORKS - FIXED_BY_PREPROCESSING
    assert set.union(*kinds) == every and sum(map(len, kinds)) == len(every)


@pytest.mark.parametrize("script, asked, expected", [
    (color_syncnet_train, "batch_size=4", "note: batch_size of --hparams does nothing in this training; is it "
     "syncnet_batch_size?"),
    (wav2lip_train, "disc_wt=0.1,syncnet_lr=1", "note: disc_wt, syncnet_lr of --hparams does nothing in this training"),
    (wav2lip_train, "plateau_warn_steps=9", "note: plateau_warn_steps of --hparams does nothing in this training"),
    (hq_wav2lip_train, "disc_wt=0.1", None),
])  # fmt: skip
def test_unused_settings_are_reported(corpus, tmp_path, monkeypatch, script, asked, expected):
    notes = []
    monkeypatch.setattr(TERMINAL, "note", notes.append)
    monkeypatch.setattr(training, "fit", lambda *_: None)
    flags = () if script is color_syncnet_train else hq_flags(corpus)
    assert script.main(command(corpus, tmp_path, *flags, hp=f"{asked},width=0.125")) == 0
    assert [text for text in notes if "does nothing" in text] == ([expected] if expected else [])


def test_mels_that_cannot_be_saved_are_reported(corpus, tmp_path, monkeypatch):
    """On a read-only disk, every start used to compute them all without saying why it took so long."""
    notes, data = [], tmp_path / "data"
    shutil.copytree(corpus, data)
    for clip in data.glob("s*/clip*"):
        (clip / "mel.npy").unlink()
        clip.chmod(0o555)
    monkeypatch.setattr(TERMINAL, "note", notes.append)
    monkeypatch.setattr(audio, "load_wav", lambda _: np.zeros(16000 * 2, np.float32))
    assert color_syncnet_train.main(command(data, tmp_path / "run", "--max_steps", 1)) == 0
    assert any(text.startswith("note: the mels of 5 training clips are computed in every run") for text in notes)
    assert not list(data.glob("s*/*/mel.npy"))


def test_missing_adam_moments_are_reported(corpus, tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(TERMINAL, "note", notes.append)
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 1, hp=SMALL)) == 0
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 2, "--resume", hp=SMALL)) == 0
    assert (
        f"note: {tmp_path / 'checkpoint_step000000001.pth'} has no optimizer state: Adam's moments start from zero"
        in notes
    )


def test_same_command_with_resume_continues(corpus, tmp_path, monkeypatch):
    """As a stopped run advises; with --checkpoint_path it used to be refused."""
    notes = []
    monkeypatch.setattr(TERMINAL, "note", notes.append)
    assert color_syncnet_train.main(command(corpus, tmp_path / "first", "--max_steps", 2)) == 0
    start = "--checkpoint_path", tmp_path / "first/checkpoint_step000000002.pth", "--resume"
    notes.clear()
    assert color_syncnet_train.main(command(corpus, tmp_path / "new", *start, "--max_steps", 3, "--seed", 4)) == 0
    assert "continuing after step 2" in str(notes) and "differs from the one it continues" not in str(
        notes
    )  # it is a new run
    assert checkpoints.steps_saved(tmp_path / "new", "") == [3]
    assert color_syncnet_train.main(command(corpus, tmp_path / "new", *start, "--max_steps", 4, "--seed", 4)) == 0
    assert "continuing after step 3" in str(notes)


def test_unused_settings_do_not_count_as_changes(corpus, tmp_path, monkeypatch):
    """One setting used to be reported both as doing nothing and as a difference."""
    notes = []
    monkeypatch.setattr(TERMINAL, "note", notes.append)
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 1)) == 0
    flags = "--max_steps", 2, "--resume"
    assert color_syncnet_train.main(command(corpus, tmp_path, *flags, hp=f"{SMALL},disc_wt=0.1,mouth_wt=3")) == 0
    assert "disc_wt, mouth_wt of --hparams does nothing in this training" in str(notes)
    assert not [text for text in notes if "differs from the one it continues" in text]


def test_resumed_run_reports_what_has_changed(corpus, tmp_path, monkeypatch):
    notes = []
    monkeypatch.setattr(TERMINAL, "note", notes.append)
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 1)) == 0
    flags = ("--max_steps", 2, "--resume", "--seed", 5)
    hp = f"{SMALL},syncnet_lr=3e-5,plateau_warn_steps=9"
    assert color_syncnet_train.main(command(corpus, tmp_path, *flags, hp=hp)) == 0
    assert [text for text in notes if "warning" in text] == [
        "warning: this run differs from the one it continues: syncnet_lr 0.0001 -> 3e-05, seed 0 -> 5"
    ]
    lists = corpus / "lists", tmp_path / "lists"
    shutil.copytree(*lists)
    (lists[1] / "train.txt").write_text("\n".join((lists[0] / "train.txt").read_text().splitlines()[1:]))
    other = command(corpus, tmp_path, *flags, "--filelists", lists[1], hp=hp)
    assert color_syncnet_train.main(other) == 0
    assert "warning: this run differs from the one it continues: different list of training clips" in notes
    assert color_syncnet_train.main(command(corpus, tmp_path, *flags, hp=hp)) == 0
    assert notes[-1] == "warning: --max_steps 2 has been reached already; there is nothing left to train"


def test_training_asks_for_large_pages():
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not pages.exists() or "[never]" in pages.read_text():
        pytest.skip("this kernel gives no large pages")
    program = """
import resource, torch, recipes
with recipes.training_session(recipes.TrainingOptions()):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16, 2**20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    # without the settings of malloc that make all tests faster, also by large pages
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GLIBC_", "MALLOC_"))}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True
    )
    assert int(result.stdout) < 16 * 2**20 * 4 / 4096 / 2  # half of the faults that small pages would cause


def test_processes_at_different_steps_are_refused(tmp_path):
    """Machines that did not share the folder used to find different checkpoints and train different networks."""

    class Two(Distributed):
        def gather(self, rows):
            return torch.cat((rows, torch.tensor([300])))

    with pytest.raises(ValueError, match="0 and 300.*share"):
        starting._check_agreement(Two(torch.device("cpu")), 0, tmp_path)
    starting._check_agreement(Two(torch.device("cpu")), 300, tmp_path)


def test_processes_with_different_clips_are_refused(corpus):
    """As if one machine could not read a clip: their batches did not fit together, and nobody was told."""

    class Two(Distributed):
        def gather(self, rows):
            return torch.cat((rows, rows + torch.tensor([[0, 1, 0, 0]])))

    train, val = (SyncNetDataset([corpus / "s0" / name for name in names]) for names in (("clip0", "none"), ("clip2",)))
    digests = {"list of training clips": "1", "validation clips": "2"}
    words = r"differ in their validation clips: all machines need the same.*1 unusable here the first: .*none"
    with pytest.raises(UserError, match=words):
        starting.check_same_inputs(Two(torch.device("cpu")), train, val, digests)
    starting.check_same_inputs(CPU, train, val, digests)


def test_cancelled_training_is_saved(corpus, tmp_path):
    """A reporter that raises does so when a step is complete; all since the last checkpoint was lost."""

    class Cancelling(Reporter):
        def progress(self, stage, done, total):
            if stage == "Training" and done == 3:
                raise Cancelled

    settings = f"{SMALL},syncnet_eval_interval=3"
    options = recipes.TrainingOptions(corpus / "lists", settings, max_steps=9, device="cpu", precision="fp32")
    with pytest.raises(Cancelled):
        recipes.train_expert(corpus, tmp_path, options, Cancelling())
    assert checkpoints.steps_saved(tmp_path, "") == [1, 3] and not losses(tmp_path, "val")
    recipes.train_expert(corpus, tmp_path, dataclasses.replace(options, max_steps=3, resume=True))
    assert [figures["step"] for figures in losses(tmp_path, "val")] == [3]  # was due when the run was cancelled


def test_worker_killed_in_an_evaluation_is_named(monkeypatch, tmp_path):
    """The first evaluation starts more of them, just when memory is short; torch's words were all that was said."""

    def killed():
        yield from ()
        raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. ")

    monkeypatch.setattr(loop, "evaluate", lambda _, batches: list(batches))
    trainer = one_of_two(other=(0, 0))
    trainer.task = SimpleNamespace(swap_in_ema=contextlib.nullcontext)
    trainer.plan, trainer.step = SimpleNamespace(saves=True, checkpoint_dir=tmp_path), 7
    with pytest.raises(RuntimeError, match="perhaps for lack of memory.*everything up to step 7 is saved"):
        trainer._evaluate(killed())


def test_keeping_few_checkpoints_keeps_complete_ones(filled, tmp_path, monkeypatch):
    """A disk full after the discriminator's file, but before the generator's, used to leave no step to resume."""
    task = HQGeneratorTask(CPU, HParams(), filled(models.SyncNet_color, 0.125), width=0.125)
    checkpoints.save_checkpoint(task, tmp_path, Position(9), 0, keep=1)
    checkpoints.save_checkpoint(task, tmp_path, Position(4), 0, keep=1)  # of a run that went back
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"{kind}checkpoint_step00000000{n}.pth" for kind in ("", "disc_") for n in (4, 9)]
    write = torch.save
    monkeypatch.setattr(torch, "save", lambda content, path: write(content, path) if calls.pop() else fail())
    calls = [False, True]
    with pytest.raises(MemoryError):
        checkpoints.save_checkpoint(task, tmp_path, Position(12), 0, keep=1)
    assert checkpoints.newest_step(tmp_path, ["disc_", ""]) == 9


@pytest.mark.parametrize("change, words", [
    (("--hparams", "batchsize=3"), "batchsize"),
    (("--filelists", "/nowhere"), "train.txt"),
    (("--data_root", "/nowhere"), "none of 5 clips is usable"),
    (("--checkpoint_path", "/nowhere.pth"), "/nowhere.pth"),
    (("--hparams", "syncnet_eval_interval=0"), "hparam syncnet_eval_interval must be 1 or more, not 0"),
    (("--hparams", "syncnet_batch_size=1"), "hparam syncnet_batch_size must be 2 or more, not 1"),
    (("--hparams", "windows_per_clip=8,negative_distance=0"), "1 or more frames away, not 0"),
    (("--hparams", "img_size=192"), "img_size cannot be changed: the networks are built for 96"),
    (("--hparams", "width=0"), "width must be above 0, 4 at most"),
    (("--hparams", "width=5"), "width must be above 0, 4 at most"),
    (("--data_root", "/nowhere", "--hparams", "syncnet_eval_steps=0"), "hparam syncnet_eval_steps must be 1 or more"),
    (("--checkpoint_dir", str(ROOT / "LICENSE" / "run")), "cannot write in"),
])  # fmt: skip
def test_unusable_arguments(corpus, tmp_path, capsys, change, words):
    assert color_syncnet_train.main([*command(corpus, tmp_path, "--max_steps", 1), *change]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_checkpoint_of_another_width_says_which(corpus, tmp_path, capsys):
    flags = ("--max_steps", 1, "--checkpoint_path", corpus / "expert.pth")
    hp = SMALL.replace("width=0.125", "width=0.25")
    assert color_syncnet_train.main(command(corpus, tmp_path, *flags, hp=hp)) == 2
    assert "--hparams width=0.125" in capsys.readouterr().err


@pytest.mark.parametrize("optimizer", [
    {"state": {}, "param_groups": []}, {"state": {}}, 7, {"state": {}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
], ids=("no group", "no groups", "a number", "of another network"))  # fmt: skip
def test_optimizer_that_does_not_fit_gets_one_line(corpus, tmp_path, capsys, optimizer):
    content = torch.load(corpus / "expert.pth", weights_only=True) | {"optimizer": optimizer}
    torch.save(content, tmp_path / "odd.pth")
    flags = ("--max_steps", 1, "--checkpoint_path", tmp_path / "odd.pth")
    assert color_syncnet_train.main(command(corpus, tmp_path / "new", *flags)) == 2
    err = capsys.readouterr().err
    assert "its optimizer belongs to another network" in err and err.count("\n") == 1


def test_full_disk_leaves_no_half_checkpoint(corpus, tmp_path, monkeypatch):
    def fail(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 1)) == 1
    assert not list(tmp_path.glob("*.pth")) and not list(tmp_path.glob(".*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full, a disk that is always full")
def test_full_disk_is_named_as_the_cause(filled):
    """torch itself says "enforce fail at inline_container.cc: unexpected pos"."""
    with pytest.raises(OSError, match="No space left on device"):
        weights.write({"state_dict": filled(models.SyncNet_color, 0.125).state_dict()}, Path("/dev/full"))


def test_leftovers_of_killed_writers_are_removed(corpus, tmp_path):
    for name in (".0123456789ab.pth", ".mine.pth"):
        (tmp_path / name).touch()
    assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 1)) == 0
    assert [path.name for path in tmp_path.glob(".*")] == [".mine.pth"]


@pytest.mark.skipif(not importlib.util.find_spec("fcntl"), reason="this system has no file locks")
def test_two_runs_do_not_share_a_folder(corpus, tmp_path, capsys):
    """As when a job is requeued while its first run is still saving."""
    with files.locked(tmp_path / f".{tmp_path.name}.lock"):
        assert color_syncnet_train.main(command(corpus, tmp_path, "--max_steps", 1, "--resume")) == 2
    assert "another process is working on" in capsys.readouterr().err and not list(tmp_path.iterdir())


# --------------------------------------------------------------------------------------------------------------------
# Where an expert errs


def test_expert_errors_weight_pairs_as_an_evaluation_does(corpus):
    """Against the mean over all possible draws, half of them matched, evaluated one by one by the task itself."""
    task = ExpertTask(CPU, HParams(), 0.125)
    fill(task.expert).eval()
    data = SyncNetDataset([corpus / "s0/clip0", corpus / "s1/clip1"])
    figures = []
    clips = [dataclasses.replace(clip, starts=clip.starts[:6]) for clip in data.index.clips]
    for clip in clips:
        matched = [Draw(clip, int(a), int(a), True) for a in clip.starts]
        mismatched = [Draw(clip, int(a), int(b), False) for a in clip.starts for b in clip.starts if a != b]
        for draws in (matched, mismatched):
            batch = tuple(map(torch.stack, zip(*map(data.sample, draws))))
            with torch.no_grad():
                figures.append({name: value.numpy() for name, value in task.evaluate_batch(batch).items()})
    pairs = expert_errors.join([expert_errors.pairs_of(data, clip, task.expert) for clip in clips])
    summary = expert_errors.summary(pairs)
    for name in ("loss", "accuracy"):
        assert summary[name] == pytest.approx(np.mean([f[name] for f in figures]), abs=1e-5)
    for name, first in (("matched", 0), ("mismatched", 1)):
        total, count = np.sum([f[name] for f in figures[first::2]], 0)
        assert summary[name] == pytest.approx(total / count, abs=1e-5)


def test_errors_that_no_expert_can_avoid():
    pairs = expert_errors.Pairs(
        cosine=np.array([0.9, 0.2, 0.8, 0.9, 0.9, 0.1]),
        distance=np.array([0, 0, 3, 4, 50, 4]),  # right, silent, near, silent, neither, right
        face_level=np.array([0, 30, 0, 40, 40, 0.0]),
        voice_level=np.array([0, 30, 0, 40, 0, 0.0]),
        weight=np.array([0.3, 0.2, 0.1, 0.1, 0.1, 0.2]),
    )
    found = expert_errors.errors(pairs)
    expected = {"near": 0.2, "silent": 0.6, "rest": 0.2, "pairs_in_rest": 0.6, "accuracy_of_rest": 5 / 6}
    assert found == pytest.approx(expected)
    rows = {name: expert_errors.accuracy(pairs, chosen) for name, chosen in expert_errors.rows(pairs).items()}
    assert sum(row["share"] for name, row in rows.items() if name.startswith("distance")) == pytest.approx(0.5)
    assert sum(row["share"] for name, row in rows.items() if name.startswith("level")) == pytest.approx(1)
    assert rows["distance_4"]["accuracy"] == pytest.approx(2 / 3)


# --------------------------------------------------------------------------------------------------------------------
# Emulated bfloat16


def test_emulated_bf16_is_what_autocast_computes():
    """Rounding explains nearly all of autocast's difference, in results and gradients; afterwards, float32 is back."""

    def results(context):
        torch.manual_seed(0)
        blocks = [models.conv.Conv2d(24, 24, 3, 1, 1, residual) for residual in (False, True)]
        network = torch.nn.Sequential(*blocks)
        x = torch.randn(4, 24, 12, 12, requires_grad=True)
        with context:
            y = network(x).float()
            (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
        return [y.detach(), x.grad, *(parameter.grad for parameter in network.parameters())]

    plain, autocast, emulated, after = (
        results(context)
        for context in (
            contextlib.nullcontext(),
            torch.autocast("cpu", torch.bfloat16),
            emulated_bf16.emulation(),
            contextlib.nullcontext(),
        )
    )
    for exact, wanted, found in list(zip(plain, autocast, emulated))[:3]:  # result, gradient of input and of weight
        assert (found - wanted).norm() < 0.2 * (exact - wanted).norm()
    assert all(torch.equal(a, b) for a, b in zip(plain, after))
