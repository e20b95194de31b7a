"""How the page looks, and which action each button starts."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from errors import UserError
from page.actions import Actions, Settings
from page.sessions import KEPT_SECONDS, Progress, Session, Sessions, Stopped

TITLE = "Wav2Lip: lips for any speech"
QUEUE = "work"  # all that computes stands in one line
CSS = "#faces button {min-height: 90px} .gradio-container {max-width: 1100px !important; margin: auto}"
LOOPS = {"from its start": "loop", "back and forth": "pingpong"}
REFERENCES = {"each frame itself": "same", "a frame with a shut mouth": "still"}
BLENDS = {"as the network wants it": None, "softly, only what changes": "feather", "the whole box": "box"}


def theme() -> gr.themes.Base:
    """Return plain colours and the fonts of the visitor's machine: none are fetched from elsewhere."""
    fonts = ("system-ui", "sans-serif")
    return gr.themes.Soft(font=fonts, font_mono=("ui-monospace", "monospace"))


class Page:
    """The page, and who has it open."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.actions, self.sessions = settings, Actions(settings), Sessions()

    def build(self) -> gr.Blocks:
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, int(KEPT_SECONDS))) as blocks:
            gr.Markdown(
                f"# {TITLE}\nGive a face and a speech. Files stay on this machine, are seen by nobody else and are "
                "deleted within an hour."
            )
            with gr.Tab("Lip-sync"):
                self._lip_sync_tab()
            with gr.Tab("Who speaks?"):
                self._similarity_tab()
            with gr.Tab("One person"):
                self._adapt_tab()
            blocks.unload(self._leave)
        return blocks.queue(max_size=50, default_concurrency_limit=1)

    # ----------------------------------------------------------------------------------------------------------------
    # Tabs

    def _lip_sync_tab(self) -> None:
        with gr.Row():
            with gr.Column():
                with gr.Tab("Video"):
                    film = gr.Video(label="Face: a video", sources=["upload", "webcam"], height=280, elem_id="film")
                with gr.Tab("Photo"):
                    photo = gr.Image(
                        label="Face: a photo",
                        sources=["upload", "webcam"],
                        type="filepath",
                        height=280,
                        elem_id="photo",
                    )
                speech = gr.Audio(label="Speech", type="filepath", sources=["upload", "microphone"], elem_id="speech")
                said = gr.Markdown(elem_id="said")
                faces = gr.Gallery(
                    label="Who is to speak?", columns=5, height=190, visible=False, elem_id="faces",
                    allow_preview=False, object_fit="contain", interactive=False,
                )  # fmt: skip
                chosen = gr.State(None)
            with gr.Column():
                shown = gr.Image(label="Preview", height=280, interactive=False, elem_id="preview")
                result = gr.Video(label="Result", height=280, interactive=False, elem_id="result", autoplay=True)
        with gr.Row():
            closed = gr.Checkbox(True, label="Close the lips in pauses")
            gain = gr.Slider(0.0, 3.0, 1.0, step=0.1, label="Movement of the mouth")
            second = gr.Slider(0.0, 60.0, 1.0, step=0.5, label="Preview this second")
        with gr.Accordion("More", open=False):
            with gr.Row():
                reference = gr.Dropdown(list(REFERENCES), label="The network sees", value="each frame itself")
                blend = gr.Dropdown(list(BLENDS), label="Put the mouth in", value="as the network wants it")
                loop = gr.Dropdown(list(LOOPS), label="Repeat a short video", value="from its start")
            with gr.Row():
                delay = gr.Number(0.0, label="Lips later by (milliseconds)")
                shrink = gr.Number(1, label="Shrink the frames by", precision=0, minimum=1)
                crf = gr.Slider(0, 51, 18, step=1, label="Quality of the file (lower is better)")
            network = gr.File(label="A network of your own (.pth)", file_types=[".pth", ".pt"], height=90)
        with gr.Row():
            look = gr.Button("Preview", elem_id="look")
            start = gr.Button("Lip-sync", variant="primary", elem_id="start")
            cancel = gr.Button("Cancel", variant="stop", elem_id="cancel")
        options = [closed, gain, reference, blend, loop, delay, shrink, crf, network, chosen]
        for source, other in ((film, photo), (photo, film)):
            source.input(self._find_faces, source, [faces, said, chosen, other], show_progress_on=said, **computing())
        faces.select(_choose, None, [chosen, said], api_visibility="private")
        look.click(self._preview, [film, photo, speech, second, *options], shown, **computing())
        start.click(
            self._lip_sync, [film, photo, speech, *options], [result, said], show_progress_on=result, **computing()
        )
        cancel.click(self._cancel, None, None, queue=False, api_visibility="private")

    def _similarity_tab(self) -> None:
        gr.Markdown("How well does every face match every voice, and how late is the sound?")
        with gr.Row():
            film = gr.Video(label="A video of people who speak", sources=["upload"], height=280, elem_id="pair_film")
            sounds = gr.File(
                label="Voices (without any, the video's own sound)", file_count="multiple", elem_id="voices",
                file_types=["audio", "video"], height=280,
            )  # fmt: skip
        start = gr.Button("Compare", variant="primary", elem_id="compare")
        words = gr.Textbox(label="Result", lines=4, interactive=False, elem_id="verdict")
        plot = gr.Image(label="Over time", interactive=False, elem_id="plot")
        start.click(self._measure, [film, sounds], [words, plot], show_progress_on=plot, **computing())

    def _adapt_tab(self) -> None:
        most = self.settings.max_minutes
        gr.Markdown(
            "Let the network learn one person from a video in which they speak: five seconds at least, a minute is "
            "better. Then choose the file that comes out under Lip-sync, More."
        )
        film = gr.Video(label="A video of one person who speaks", sources=["upload", "webcam"], height=280)
        minutes = gr.Slider(0.5, most, min(10.0, most), step=0.5, label="Minutes of learning")
        with gr.Row():
            start = gr.Button("Learn", variant="primary", elem_id="learn")
            cancel = gr.Button("Cancel", variant="stop")
        words = gr.Markdown()
        network = gr.File(label="The network", interactive=False)
        sheet = gr.Image(label="As filmed, before, after", interactive=False)
        start.click(self._adapt, [film, minutes], [network, sheet, words], show_progress_on=sheet, **computing())
        cancel.click(self._cancel, None, None, queue=False, api_visibility="private")

    # ----------------------------------------------------------------------------------------------------------------
    # Buttons; Gradio knows requests and progress by their places

    @contextlib.contextmanager
    def _working(self, request: gr.Request, progress: gr.Progress) -> Iterator[tuple[Session, Progress]]:
        """Give a session and its progress to an action; what goes wrong becomes one sentence on the page."""
        session = self.sessions.of(request.session_hash)
        session.stop.clear()
        try:
            yield session, Progress(session, lambda share, words: progress(share, desc=words))
        except Stopped:
            raise gr.Error("Stopped; nothing was kept.", title="Stopped", print_exception=False) from None
        except UserError as error:
            raise gr.Error(str(error), title="That cannot be used", print_exception=False) from None
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            words = " ".join(str(error).split())[:300]
            raise gr.Error(f"{type(error).__name__}: {words}", title="It failed", print_exception=False) from None

    def _find_faces(
        self, face: str | None, request: gr.Request, progress: gr.Progress = gr.Progress()
    ) -> tuple[Any, str, None, None]:
        if not face:
            return gr.Gallery(visible=False), "", None, None
        with self._working(request, progress) as (session, report):
            seen = self.actions.find_faces(session, face, report)
            several = len(seen.pictures) > 1
            return gr.Gallery(seen.pictures, visible=several, selected_index=None), seen.words, None, None

    def _preview(
        self,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),
        film: str | None = None,
        photo: str | None = None,
        speech: str | None = None,
        second: float = 1.0,
        *options: Any,
    ) -> Any:
        with self._working(request, progress) as (session, report):
            face, speech = _given(film or photo, speech)
            return self.actions.preview(session, face, speech, second, report, **_options(*options))

    def _lip_sync(
        self,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),
        film: str | None = None,
        photo: str | None = None,
        speech: str | None = None,
        *options: Any,
    ) -> tuple[Path, str]:
        with self._working(request, progress) as (session, report):
            face, speech = _given(film or photo, speech)
            made = self.actions.lip_sync(session, face, speech, report, **_options(*options))
            return made, " ".join(["Done.", *report.notes])

    def _measure(
        self, film: str | None, sounds: list[str] | None, request: gr.Request, progress: gr.Progress = gr.Progress()
    ) -> tuple[str, Path]:
        with self._working(request, progress) as (session, report):
            if not film:
                raise UserError("give a video first")
            return self.actions.measure(session, film, sounds or [], report)

    def _adapt(
        self, film: str | None, minutes: float, request: gr.Request, progress: gr.Progress = gr.Progress()
    ) -> tuple[Path, Path, str]:
        with self._working(request, progress) as (session, report):
            if not film:
                raise UserError("give a video of the person first")
            return self.actions.adapt(session, film, minutes, report)

    def _leave(self, request: gr.Request) -> None:
        self.sessions.close(request.session_hash)

    def _cancel(self, request: gr.Request) -> None:
        self.sessions.stop(request.session_hash)


def computing() -> dict[str, Any]:
    """What all buttons that compute have in common: one line to stand in, and no way in but the page."""
    return {"concurrency_limit": 1, "concurrency_id": QUEUE, "api_visibility": "private"}


def _given(face: str | None, speech: str | None) -> tuple[str, str]:
    if not face:
        raise UserError("give a video or a photo of a face first")
    if not speech:
        raise UserError("give a speech first: any file with sound, or record one")
    return face, speech


def _choose(event: gr.SelectData) -> tuple[int, str]:
    return event.index, f"Face {event.index + 1} from the left will speak."


def _options(
    closed: bool,
    gain: float,
    reference: str,
    blend: str,
    loop: str,
    delay: float,
    shrink: float,
    crf: float,
    network: str | None,
    chosen: int | None,
) -> dict[str, Any]:
    """What ``lipsync.Options`` takes, and the checkpoint, from what is on the page."""
    return {
        "silence": "closed" if closed else "free",
        "mouth_gain": gain,
        "reference": REFERENCES[reference],
        "blend": BLENDS[blend],
        "loop": LOOPS[loop],
        "lip_delay": delay or 0.0,
        "resize_factor": int(shrink or 1),
        "crf": int(crf),
        "checkpoint": network,
        "face_index": chosen,
    }
