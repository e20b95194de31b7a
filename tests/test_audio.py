"""Mels against the reference; windows by arithmetic."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from scipy.io import wavfile

import audio
import video
from conftest import GOLDEN, INSIDE, ROOT, run_ffmpeg


def synthetic(n: int = 32000, sr: int = 16000) -> np.ndarray:
    t = np.arange(n) / sr
    tone = 0.4 * np.sin(2 * np.pi * (120 + 300 * t) * t) + 0.2 * np.sin(2 * np.pi * 1800 * t) * (
        np.sin(2 * np.pi * 3 * t) > 0
    )
    return (tone + 0.01 * np.random.default_rng(5).standard_normal(n)).astype(np.float32)


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "mel.npz")


def test_mel_of_known_signals(golden):
    assert np.abs(audio.melspectrogram(synthetic()) - golden["synthetic"])[:, INSIDE].max() < 1e-3
    assert np.abs(audio.melspectrogram(np.zeros(16000, np.float32)) - golden["zeros"]).max() < 1e-3


def test_mel_of_speech(shared):
    golden = np.load(shared / "golden/mel.npz")["speech_16k"]
    mel = audio.melspectrogram(audio.load_wav(shared / "golden/speech_16k.wav"))
    assert np.abs(mel - golden)[:, INSIDE].max() < 1e-3


def test_both_ways_to_read_a_sound_agree(speech):
    np.testing.assert_allclose(video.read_audio(speech, 16000), audio.load_wav(speech), atol=1e-4)


@pytest.mark.parametrize("samples", [2, 150, 400, 401, 900, 1001, 32000, 31999])
def test_ends_of_the_sound_are_mirrored(samples):
    """By definition: the magnitudes of each frame of the mirrored signal."""
    import librosa

    wav = synthetic()[:samples]
    emphasized = np.append(wav[:1], wav[1:] - np.float32(0.97) * wav[:-1])
    padded = np.pad(emphasized, 400, mode="reflect")
    window = np.hanning(801)[:-1]
    spectra = [np.abs(np.fft.rfft(window * padded[start : start + 800])) for start in range(0, samples + 1, 200)]
    basis = librosa.filters.mel(sr=16000, n_fft=800, n_mels=80, fmin=55, fmax=7600)
    decibels = 20 * np.log10(np.maximum(1e-5, basis @ np.array(spectra).T)) - 20
    expected = np.clip((decibels + 100) / 100 * 8 - 4, -4, 4)
    np.testing.assert_allclose(audio.melspectrogram(wav), expected, atol=2e-3)


@pytest.mark.parametrize("changed", ["", "fmin=0", "fmin=1200", "n_fft=1024,num_mels=40,fmax=8000"])
def test_mel_filters_are_those_of_librosa(monkeypatch, changed):
    import librosa

    for name, value in (item.split("=") for item in changed.split(",") if item):
        monkeypatch.setattr(audio.hp, name, type(getattr(audio.hp, name))(value))
    hp = audio.hp
    filters = librosa.filters.mel(sr=hp.sample_rate, n_fft=hp.n_fft, n_mels=hp.num_mels, fmin=hp.fmin, fmax=hp.fmax)
    assert np.array_equal(audio.mel_filters(), filters)


@pytest.mark.parametrize("block", [1, 7, 160])
def test_mel_does_not_depend_on_block_size(monkeypatch, block):
    whole = audio.melspectrogram(synthetic())
    monkeypatch.setattr(audio, "BLOCK_FRAMES", block)
    assert (audio.melspectrogram(synthetic()) == whole).all()


@pytest.mark.parametrize("sizes", [(31999, 1), (1, 199, 200, 600, 31000), (0, 400, 0, 31600), (32000,)])
def test_sound_in_blocks_has_the_mel_of_the_whole(sizes):
    blocks = np.split(synthetic(), np.cumsum(sizes)[:-1])
    mel, samples = audio.spectrogram_of(iter(blocks))
    assert samples == 32000 and mel.shape == (80, 161)
    assert (mel == audio.melspectrogram(synthetic())).all()


def test_sound_is_read_only_as_far_as_windows_need_it(monkeypatch):
    """The first frame of an hour need not wait for the whole spectrogram."""
    monkeypatch.setattr(audio, "BLOCK_FRAMES", 10)  # 0.125 s
    wav, read = synthetic(), []

    def sound():
        for start in range(0, 32000, 400):
            read.append(start)
            yield wav[start : start + 400]

    windows, whole = (
        audio.MelWindows(mel, 25, 50) for mel in (audio.Spectrogram(sound(), 32000), audio.melspectrogram(wav))
    )
    assert read == []
    assert np.array_equal(windows[10], whole[10]) and read[-1] <= (32 + 16) * 200 + 2 * 800
    assert np.array_equal(windows[2], whole[2]) and len(read) < 40  # what is known is not read again
    assert np.array_equal(list(windows), list(whole)) and len(read) == 80
    assert np.array_equal(windows.silence(), whole.silence())


def test_closed_spectrogram_can_read_its_sound_again():
    class Sound:
        opened = closed = 0

        def __iter__(self):
            self.opened += 1
            try:
                yield from np.split(synthetic(), 8)
            finally:
                self.closed += 1

    sound = Sound()
    spectrogram = audio.Spectrogram(sound, 32000)
    spectrogram.close()
    spectrogram.up_to(20)
    assert (sound.opened, sound.closed) == (1, 0)
    spectrogram.close()
    assert (sound.opened, sound.closed) == (1, 1)
    assert np.array_equal(spectrogram.up_to(161), audio.melspectrogram(synthetic()))
    spectrogram.close()
    spectrogram.up_to(161)
    assert (sound.opened, sound.closed) == (2, 2)


class FailingOnce:
    """Two seconds of sound, whose reading fails in the middle the first time."""

    def __init__(self):
        self.readings = 0

    def __iter__(self):
        self.readings += 1
        for n, block in enumerate(np.split(synthetic()[:32000], 4)):
            if self.readings == 1 and n == 2:
                raise OSError("it was stopped")
            yield block


def test_sound_whose_reading_failed_does_not_turn_silent():
    """The second to ask got silence from there on, as if the sound had ended."""
    spectrogram = audio.Spectrogram(FailingOnce(), 32000)
    with pytest.raises(OSError):
        spectrogram.up_to(160)
    assert (spectrogram.up_to(160) == audio.Spectrogram([synthetic()[:32000]], 32000).up_to(160)).all()


@pytest.mark.parametrize("make", ["sound", "boxes"])
def test_garbage_collection_in_the_middle_of_it_does_not_deadlock(make):
    """It may close an abandoned stream of the same take, whose closing waited for the lock of its own thread."""
    code = f"""
import contextlib, gc, threading
import numpy as np
import audio, face_path

collecting = False

def items(item):
    for _ in range(3):
        if collecting:
            gc.collect()
        yield item

class Sound:
    __iter__ = lambda self: items(np.zeros(16000, np.float32))

def of_sound():
    with contextlib.closing(sound):
        yield sound.up_to(20)
        yield sound.up_to(200)

def of_boxes():
    with contextlib.closing(path):
        yield path.known(1)
        yield path.known(3)

sound = audio.Spectrogram(Sound(), 48000)
path = face_path.FacePath(lambda: items(face_path.Piece([(0, 0, 1, 1)], np.zeros((1, 4)))))
abandoned = of_{make}()
next(abandoned)
ring = [abandoned]
ring.append(ring)
del abandoned, ring
collecting = True
print(len(list(of_{make}())))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_sound_shorter_than_declared_is_followed_by_silence():
    spectrogram = audio.Spectrogram([synthetic()[:16000]], 32000)
    mel = spectrogram.up_to(161)
    assert mel.shape == (80, 161) and (mel[:, 81:] == audio.SILENCE).all()
    assert np.array_equal(mel[:, :81], audio.melspectrogram(synthetic()[:16000]))


@pytest.mark.parametrize("samples", [0, 1, 199, 200, 5000])
def test_short_and_silent_sound_gives_finite_mels(samples):
    mel = audio.melspectrogram(np.zeros(samples, np.float32))
    assert mel.shape == (80, 1 + samples // 200) and (mel == audio.SILENCE).all()


def test_window_of_a_frame_starts_at_its_time():
    mel = np.tile(np.arange(800, dtype=np.float32), (80, 1))
    windows = audio.MelWindows(mel, 25, 250)
    for frame in (0, 1, 2, 100):
        assert (windows[frame][0] == np.arange(16) + int(frame * 80 / 25)).all()
    assert len(list(windows)) == 250


def test_last_windows_continue_with_silence():
    """They ended with the sound: the last four were the same, and the mouth froze."""
    windows = audio.MelWindows(np.tile(np.arange(881, dtype=np.float32), (80, 1)), 25, 275)
    assert windows[270][0, 0] == 864  # the last that fits; the next is the reference's last
    for frame, first in ((271, 865), (272, 870), (273, 873), (274, 876)):
        heard = 881 - first
        assert windows[frame][0].tolist() == [*range(first, 881), *[audio.SILENCE] * (16 - heard)]
    late = audio.MelWindows(np.ones((80, 100), np.float32), 25, 40, delay=-1.0)  # nothing is left to hear
    assert (late[39] == audio.SILENCE).all()


def test_delayed_windows_are_those_of_earlier_frames():
    """Networks trained with mels that start a frame early, as in the reference, move lips a frame early."""
    mel = np.tile(np.arange(800, dtype=np.float32), (80, 1))
    usual, late, early = (audio.MelWindows(mel, 25, 240, delay) for delay in (0.0, 0.04, -0.08))
    for frame in range(1, 230):
        assert (late[frame] == usual[frame - 1]).all() and (early[frame] == usual[frame + 2]).all()
    assert late[0][0, 0] == 0 and len(list(early)) == 240
    for delay, first in ((1e307, 0), (-1e307, audio.SILENCE)):  # times 25 fps, more than a float holds
        assert audio.MelWindows(mel, 25, 240, delay)[5][0, 0] == first


def test_sound_shorter_than_a_window_is_followed_by_silence():
    windows = audio.MelWindows(np.ones((80, 3), np.float32), 25, 1)
    assert (windows[0][:, :3] == 1).all() and (windows[0][:, 3:] == audio.SILENCE).all()


@pytest.mark.parametrize("fps", [23.976, 25, 29.97, 30, 60])
def test_every_frame_of_the_sound_is_kept(fps):
    """The reference dropped 3 frames at 25 fps and 9 at 60."""
    count = audio.frame_count(11 * 16000, fps)
    assert count == round(11 * fps)
    assert len([*audio.MelWindows(audio.melspectrogram(np.zeros(11 * 16000)), fps, count)]) == count


def pieces(wav: np.ndarray, most: int, seed: int = 0) -> list[np.ndarray]:
    """Cut at random into pieces of 0 to ``most`` samples."""
    cuts = np.cumsum(np.random.default_rng(seed).integers(0, most + 1, 2 + 4 * len(wav) // most))
    return np.split(wav, cuts[cuts < len(wav)])


@pytest.mark.parametrize("samples, most", [(1, 1), (150, 30), (401, 200), (1001, 3), (20000, 50), (32000, 5000)])
@pytest.mark.parametrize("fps, delay", [(25, 0.0), (29.97, 0.04), (60, -0.08), (12.5, 1e307), (24, -1e307)])
def test_windows_of_sound_in_pieces_are_those_of_the_whole(samples, most, fps, delay):
    wav = synthetic()[:samples]
    whole = audio.MelWindows(audio.melspectrogram(wav), fps, audio.frame_count(samples, fps), delay)
    stream, windows = audio.WindowStream(fps, delay), []
    for piece in pieces(wav, most):
        stream.push(piece)
        windows += stream.ready()
    stream.end()
    windows += stream.ready()
    assert np.array_equal(windows, list(whole))


def test_window_is_ready_as_soon_as_its_sound_is():
    """The last mel frame of the first window is centred on sample 3000, and sees 400 to either side."""
    stream = audio.WindowStream(25)
    stream.push(synthetic()[:3399])
    assert not list(stream.ready())
    stream.push(synthetic()[3399:3400])
    assert len(list(stream.ready())) == 1


def test_window_stream_takes_bounded_memory():
    stream, second = audio.WindowStream(25), synthetic(16000)
    for _ in range(60):
        stream.push(second)
        assert sum(1 for _ in stream.ready()) in (20, 25)
        assert len(stream._mel) < 100
    assert stream.index == 60 * 25 - 5 and stream.samples == 60 * 16000


def test_save_wav_scales_the_peak_and_leaves_its_input(tmp_path):
    wav = np.array([0.0, 0.25, -0.5], np.float32)
    audio.save_wav(wav, tmp_path / "x.wav")
    np.testing.assert_allclose(audio.load_wav(tmp_path / "x.wav"), [0, 0.5, -1], atol=1e-3)
    assert wav[2] == -0.5


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_sound_of_the_wanted_rate_is_read_without_librosa(tmp_path, monkeypatch, channels):
    """The mean of 16-bit channels, as librosa reads it, whose import takes 3 s."""
    monkeypatch.setitem(sys.modules, "librosa", None)
    samples = np.random.default_rng(0).integers(-32768, 32768, (100, channels), np.int16)
    wavfile.write(tmp_path / "x.wav", 16000, samples)
    read = audio.load_wav(tmp_path / "x.wav")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, samples.astype(float).mean(1) / 32768, atol=1e-7)


@pytest.mark.parametrize("promised", [b"\0\0\0\0", b"\xff\xff\xff\xff"])
@pytest.mark.parametrize("rate", [16000, 22050])
def test_wav_written_to_a_pipe_is_read_whole(tmp_path, promised, rate):
    """Its header does not say how long it is: training used to hear nothing in it."""
    audio.save_wav(synthetic(), tmp_path / "x.wav", rate)
    content = bytearray((tmp_path / "x.wav").read_bytes())
    size = content.index(b"data") + 4
    content[4:8] = content[size : size + 4] = promised
    (tmp_path / "stream.wav").write_bytes(content)
    assert (audio.load_wav(tmp_path / "stream.wav") == audio.load_wav(tmp_path / "x.wav")).all()
    (tmp_path / "empty.wav").write_bytes(content[: size + 4])
    assert len(audio.load_wav(tmp_path / "empty.wav")) == 0


def test_sound_that_starts_late_is_not_cut_short(tmp_path):
    """It was said to be cut short, by the delay."""
    run_ffmpeg("-itsoffset", 0.5, "-f", "lavfi", "-i", "sine=300:d=2", "-c:a", "aac", tmp_path / "late.mka")
    sound = video.Sound(tmp_path / "late.mka", 16000)
    assert 1.9 < sound.measure() / 16000 < 2.6 and not sound.notes


def test_a_delay_that_undoes_the_networks_lead_leaves_the_pauses_where_they_are():
    """With ``lip_delay 40``, recommended for the official networks, lips shut and opened a frame late."""
    sound = np.concatenate(
        (np.zeros(32000), 0.1 * np.random.default_rng(3).standard_normal(32000), np.zeros(32000))
    ).astype(np.float32)
    mel = audio.melspectrogram(sound)
    plain, delayed = (audio.MelWindows(mel, 25, 150, delay) for delay in (0.0, 0.04))
    assert (delayed.silence(0.04) == plain.silence()).all() and (delayed.silence()[1:] == plain.silence()[:-1]).all()


def test_levels_of_hours_take_little_memory():
    mel = np.random.default_rng(0).uniform(-4, 4, (80, 3 * audio.BLOCK_FRAMES + 7)).astype(np.float32)
    blocks = [audio.levels_of(mel[:, i : i + 1000]) for i in range(0, mel.shape[1], 1000)]
    np.testing.assert_array_equal(audio.levels_of(mel), np.concatenate(blocks))
    tracemalloc.start()
    audio.levels_of(mel)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * mel.nbytes


def test_all_of_the_speech_tells_how_quiet_it_is():
    """The first 30 s decided: somebody else's turns, heard softly, had the speaker's own raised by 20 dB."""

    def speech(level: float) -> np.ndarray:  # 31 s with pauses
        wav = level * np.random.default_rng(0).standard_normal(31 * 16000).astype(np.float32)
        wav[np.arange(len(wav)) % 16000 > 9600] *= 0.001
        return audio.melspectrogram(wav)

    soft, loud = speech(0.01), speech(0.1)
    for before, after, lift in ((soft, loud, 0), (0 * soft + audio.SILENCE, soft, 20), (loud, soft, 0)):
        both = audio.Spectrogram.of(np.concatenate((before, after), axis=1))
        assert audio.lift_for(both, audio.loudness_of(loud)) == pytest.approx(lift, abs=0.5)


def test_quiet_speech_is_raised_to_what_a_network_knows(speech):
    """Speech 17 dB softer than what the included network was trained with opened mouths less and followed it worse."""
    sound = video.read_audio(speech, 16000)
    loud, soft = (audio.melspectrogram(factor * sound) for factor in (1.0, 0.05))
    usual = audio.loudness_of(loud)
    assert audio.loudness_of(soft) == pytest.approx(usual - 26, abs=1) and audio.loudness_of(soft * 0 - 4) is None
    assert audio.lift_for(audio.Spectrogram.of(loud), usual) == 0 == audio.lift_for(audio.Spectrogram.of(loud), -90.0)
    assert audio.lift_for(audio.Spectrogram.of(soft), usual) == audio.MAX_LIFT  # 26 would be too much
    assert audio.lift_for(audio.Spectrogram.of(soft), usual - 10) == pytest.approx(16, abs=1)
    raised = audio.MelWindows(soft, 25, 20, lift=20 * np.log10(20))
    for window, expected in zip(raised, audio.MelWindows(loud, 25, 20)):
        heard = (window > audio.SILENCE + 2.2) & (expected > audio.SILENCE)  # 26 dB above the floor, which is cut off
        np.testing.assert_allclose(window[heard], expected[heard], atol=2e-3)
    assert (audio.raised(np.full((80, 3), audio.SILENCE), 9.0) == audio.SILENCE).all()
