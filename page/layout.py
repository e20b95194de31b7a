"""The page's layout, and which button calls what."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import component_meta, processing_utils, route_utils
from gradio.data_classes import FileData
from gradio.exceptions import InvalidPathError
from gradio.route_utils import GradioMultiPartParser
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware

from page.buttons import BLENDS, DONE, LABELS, LOOPS, REFERENCES, VOICES, Buttons
from page.gate import Gate
from page.sessions import COMPARE, LEARN, LIP_SYNC, LIVE
from page.settings import Settings

TITLE = "Wav2Lip: lips for any speech"
gradio_check = processing_utils._check_allowed
component_meta.create_or_modify_pyi = lambda *_: None  # it writes a stub beside files with components, such as this

WAITING = 500  # events in all queues together; with more, nobody could even cancel
HEIGHT = 300  # pixels of pictures
SAVE: list[Any] = ["fullscreen", "download"]  # buttons of a picture; Gradio's third would publish it elsewhere
BEGIN = f"(said) => said && said.startsWith('{DONE}') ? '' : said"  # clears the note on the last result
STAGE = '<canvas id="live-picture" width="480" height="360"></canvas><p id="live-words">It will speak here.</p>'
CSS = """
.gradio-container {max-width: 1120px !important; margin: auto}
#faces .grid-container {grid-template-columns: repeat(auto-fill, minmax(110px, 150px)) !important}
#faces .thumbnail-item.selected {outline: 4px solid var(--color-accent); outline-offset: -4px}
button:focus-visible {outline: 3px solid var(--color-accent); outline-offset: 2px}
button[role=tab]:focus-visible {outline-offset: -3px}
.press {align-items: flex-end; min-height: 98px}
.given video, .given img {max-height: 235px}
.given button[aria-label^="Trim"], .given button[aria-label^="Reset"] {display: none}
.press button {height: 46px}
#speech {min-height: 300px}
#network .empty {min-height: 0; height: 90px}
#live-picture {display: block; max-width: 100%; max-height: 70vh; margin: auto; border-radius: 8px}
#live-picture {background: var(--block-background-fill); border: 1px solid var(--border-color-primary)}
#live-words {text-align: center; margin-top: 8px}
@media (max-width: 640px) {
  .options .form {flex-direction: column}
  .press {min-height: 0}
  .outcome {order: -1}
  .tab-container button {padding: 0 7px !important}
}
"""

NARROW = "@media (max-width: 640px) {.gradio-container .main {padding: 16px 12px !important}}"  # css= cannot style this


def theme() -> gr.themes.Base:
    """Return plain colours and the fonts of the visitor's machine, so that none are fetched from elsewhere."""
    fonts = ("system-ui", "sans-serif")
    plain = gr.themes.Soft(font=fonts, font_mono=("ui-monospace", "monospace"))
    return plain.set(  # inputs have visible borders, and small print is legible
        body_text_color_subdued="*neutral_500", checkbox_border_color="*neutral_400",
        checkbox_border_color_dark="*neutral_500", input_border_width="1px", input_border_color="*neutral_300",
        input_border_color_dark="*neutral_600", background_fill_primary="*neutral_50",  # otherwise reset by ``set``
    )  # fmt: skip


def head() -> str:
    """Return the script for the browser, and the style of Gradio's elements around the page."""
    return f"<style>{NARROW}</style><script>{(Path(__file__).parent / 'page.js').read_text(encoding='utf-8')}</script>"


class Page:
    """The page and its buttons."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.buttons = settings, Buttons(settings)

    def build(self) -> gr.Blocks:
        with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
            gr.Markdown(
                f"# {TITLE}\nGive a face and a speech. Files are kept only on the computer that serves this page; "
                "other visitors do not see them, and they are deleted within an hour. Do not make people say what they "
                "did not say, unless everybody who sees it is told."
            )
            with gr.Tab("Lip-sync", id="lipsync"):
                self._lip_sync_tab()
            with gr.Tab("Who speaks?"):
                self._similarity_tab()
            with gr.Tab("One person"):
                self._adapt_tab()
            with gr.Tab("Live"):
                self._live_tab()
            blocks.unload(self.buttons.leave)
        return blocks.queue(max_size=WAITING)

    def server(self, uploads: Path, largest: int) -> dict[str, Any]:
        """Return FastAPI's arguments; uploads of up to ``largest`` bytes are accepted, and no URLs are fetched."""
        processing_utils.async_ssrf_protected_download = _fetch_nothing
        processing_utils._check_allowed = _check_given
        utils: Any = route_utils
        utils.GradioMultiPartParser = FilesOnly
        return {
            "routes": self.buttons.live_faces.routes(),
            "middleware": [Middleware(Gate, uploads=uploads, largest=largest)],
        }

    def start(self, uploads: Path, over: threading.Event) -> None:
        """Start deleting old files, until the page is ``over``."""
        threading.Thread(target=self.buttons.sessions.sweep_always, args=(uploads, over), daemon=True).start()

    # ----------------------------------------------------------------------------------------------------------------
    # Tabs

    def _lip_sync_tab(self) -> None:
        with gr.Row():
            with gr.Column():
                film, photo = _face("1. A face")
            with gr.Column():
                speech, filmed = _speech("2. A speech")
        said, seen, chosen = gr.Markdown(elem_id="said"), gr.State([]), gr.State(None)
        faces = gr.Gallery(
            label="Who should speak?", columns=6, height=200, visible=False, elem_id="faces", allow_preview=False,
            object_fit="contain", interactive=False, show_label=False, buttons=[],
        )  # fmt: skip
        with gr.Accordion("Several of them speak", open=False, visible=False, elem_id="several") as several:
            gr.Markdown("Instead of one speech, give each of these faces its own. They speak at the same time.")
            with gr.Row():
                voices = {name: _voice(i + 1) for i, name in enumerate(VOICES)}
        options = _options(bool(self.settings.restorer))
        with gr.Row():
            with gr.Column():
                with gr.Row(elem_classes="press"):
                    second = gr.Number(1.0, label="Preview at (s)", minimum=0, step=0.5, min_width=120)
                    look = gr.Button("Preview", elem_id="look", min_width=120)
                shown = gr.Image(label="Preview", height=HEIGHT, interactive=False, elem_id="preview", buttons=SAVE)
                original = _shown("Original", "original", visible=False)
            with gr.Column(elem_classes="outcome"):
                with gr.Row(elem_classes="press"):
                    start = gr.Button("Lip-sync", variant="primary", elem_id="start", min_width=120)
                    cancel = gr.Button("Cancel", variant="stop", elem_id="cancel", min_width=120)
                result = _shown("Result", "result", autoplay=True)

        given = {"film": film, "photo": photo, "speech": speech, "filmed": filmed}
        components = {**given, **voices, "seen": seen, "chosen": chosen, "second": second, **options}
        self.buttons.components, inputs = components, set(components.values())
        _replace_each_other(speech, filmed)
        speech_inputs, rotate = [several, *voices.values()], options["rotate"]
        shown_faces = [faces, said, seen, chosen, *speech_inputs]
        turned = rotate.input(self.buttons.forget_faces, None, shown_faces, **self._no_queue())
        for source, other in ((film, photo), (photo, film)):
            before, found = [*shown_faces, other], [faces, said, seen, *speech_inputs]
            gone = gr.on(_input_events(source), self.buttons.forget, source, before, **self._no_queue())
            for event in (gone, turned):
                event.then(
                    self.buttons.find_faces,
                    [source, rotate],
                    found,
                    show_progress_on=said,
                    trigger_mode="always_last",  # "once" would drop what is given during a search
                    **self._short_queue(),
                )
        faces.select(self.buttons.choose, seen, [chosen, said], api_visibility="private")
        look.click(self.buttons.preview, inputs, [shown, original], **self._short_queue())
        start.click(None, said, said, js=BEGIN, api_visibility="private")  # first, or it would wait for the next
        start.click(
            self.buttons.lip_sync,
            inputs,
            [result, shown, original, said],
            show_progress_on=result,
            **self._long_queue(),
        )
        self._cancels(cancel, LIP_SYNC)

    def _similarity_tab(self) -> None:
        gr.Markdown("How well does every face match every voice, and how late is the sound?")
        with gr.Row():
            film = gr.Video(
                label="A video of people who speak", elem_id="pair_film", **_input_options() | {"sources": ["upload"]}
            )
            sounds = gr.File(
                label="Voices, if not the video's own", file_count="multiple", elem_id="voices",
                file_types=["audio", "video"], height=HEIGHT,
            )  # fmt: skip
        with gr.Row():
            start = gr.Button("Compare", variant="primary", elem_id="compare")
            cancel = gr.Button("Cancel", variant="stop")
        words = gr.Textbox(label="Verdict", lines=3, interactive=False, elem_id="verdict")
        plot = gr.Image(label="Over time", interactive=False, elem_id="plot", buttons=SAVE)
        start.click(self.buttons.measure, [film, sounds], [words, plot], show_progress_on=plot, **self._long_queue())
        self._cancels(cancel, COMPARE)

    def _adapt_tab(self) -> None:
        most = self.settings.max_minutes
        gr.Markdown(
            "Let the network learn one person from a video in which they speak: five seconds at least, a minute is "
            "better. Then use the resulting file under Lip-sync, More."
        )
        film = gr.Video(label="A video of one person who speaks", elem_id="person", **_input_options())
        minutes = gr.Slider(min(0.5, most), most, min(10.0, most), step=0.5, label="Minutes of learning")
        with gr.Row():
            start = gr.Button("Learn", variant="primary", elem_id="learn")
            cancel = gr.Button("Cancel", variant="stop", elem_id="stop_learning")
        words = gr.Markdown(elem_id="learned")
        network = gr.File(label="The network", interactive=False, elem_id="network")
        sheet = gr.Image(label="As filmed, before, after", interactive=False, elem_id="sheet", buttons=SAVE)
        start.click(
            self.buttons.adapt, [film, minutes], [network, sheet, words], show_progress_on=sheet, **self._queue("learn")
        )
        self._cancels(cancel, LEARN)

    def _live_tab(self) -> None:
        gr.Markdown("Prepare a face, then talk: its lips follow your voice within a second. Use headphones to hear it.")
        with gr.Row():
            with gr.Column():
                film, photo = _face("A face", "live_")
            with gr.Column():
                gr.HTML(STAGE)
        with gr.Row():
            prepare = gr.Button("Prepare", variant="primary", elem_id="prepare")
            talk = gr.Button("Talk", elem_id="talk")
            stop = gr.Button("Stop", variant="stop", elem_id="hush")
            hear = gr.Checkbox(False, label="Hear it (before Talk)", elem_id="hear")
        said, token = gr.Markdown(elem_id="live_said"), gr.Textbox(visible=False)
        _replace_each_other(film, photo)
        for source in (film, photo):
            gr.on(_input_events(source), self.buttons.forget_live, source, [token, said], **self._no_queue())
        prepare.click(
            self.buttons.prepare_live, [film, photo], [token, said], show_progress_on=said, **self._long_queue()
        )
        talk.click(None, [token, hear], None, js="(token, hear) => live.talk(token, hear)", api_visibility="private")
        stop.click(None, None, None, js="() => live.stop('')", api_visibility="private")
        self._cancels(stop, LIVE)

    # ----------------------------------------------------------------------------------------------------------------
    # Queues; events can only be called from the page

    def _short_queue(self) -> dict[str, Any]:
        """Return the settings of events that take a second, so that they do not wait for those that take minutes."""
        return self._queue("brief", 2)

    def _long_queue(self) -> dict[str, Any]:
        return self._queue("long", self.settings.runs)

    def _queue(self, name: str, limit: int | None = 1) -> dict[str, Any]:
        return {"concurrency_limit": limit, "concurrency_id": name, "api_visibility": "private"}

    def _no_queue(self) -> dict[str, Any]:
        return {"show_progress": "hidden", **self._queue("at once", None)}

    def _cancels(self, button: gr.Button, tab: str) -> None:
        button.click(self.buttons.cancel, gr.State(tab), None, **self._no_queue())


class FilesOnly(GradioMultiPartParser):
    """Gradio's parser of uploads, which would keep all that is not a file in memory, whatever its size."""

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        if self._current_part.file is None:
            raise MultiPartException("Send files only.")


def _check_given(path: str | Path, check_in_upload_folder: bool) -> None:
    """Check a path as Gradio does, but say why: its own error is shown as nothing at all."""
    try:
        gradio_check(path, check_in_upload_folder)
    except InvalidPathError:
        if not check_in_upload_folder:
            raise
        raise gr.Error(
            "The server does not have this file any more; reload the page and give it again.", print_exception=False
        ) from None


async def _fetch_nothing(url: str, cache_dir: str) -> str:
    """Replace Gradio's download, which would fetch URLs for visitors from anywhere this machine can reach."""
    raise gr.Error("Give a file, not an address.", print_exception=False)


def _face(label: str, prefix: str = "") -> tuple[gr.Video, gr.Image]:
    """Return the inputs for a video and for a photo."""
    with gr.Tab("Video"):
        film = gr.Video(label=f"{label}: a video", elem_id=f"{prefix}film", **_input_options())
    with gr.Tab("Photo"):
        photo = Picture(label=f"{label}: a photo", elem_id=f"{prefix}photo", **_input_options())
    return film, photo


class Picture(gr.Image):
    """A picture input that passes on the file itself: pictures.py reads more formats and explains failures."""

    is_template = True  # the browser treats it as Gradio's own component

    def preprocess(self, payload: Any) -> str | None:
        return payload.path if payload else None


class Film(gr.Video):
    """A video output that shows the file itself: Gradio would re-encode it if there is an ffmpeg."""

    is_template = True

    def postprocess(self, value: Any) -> Any:
        return FileData(path=str(value)) if value else None


def _shown(label: str, name: str, **how: Any) -> Film:
    return Film(label=label, height=HEIGHT, interactive=False, elem_id=name, buttons=SAVE[1:], **how)


def _speech(label: str) -> tuple[gr.Audio, gr.Video]:
    """Return the inputs for a sound and for a video with sound."""
    with gr.Tab("Sound"):
        sound = gr.Audio(
            label=label, type="filepath", sources=["upload", "microphone"], elem_id="speech", buttons=SAVE[1:]
        )
    with gr.Tab("Video"):
        film = gr.Video(
            label=f"{label}: a video's", elem_id="filmed_speech", **_input_options() | {"sources": ["upload"]}
        )
    return sound, film


def _voice(number: int) -> gr.Audio:
    return gr.Audio(
        label=f"Face {number} from the left says", type="filepath", sources=["upload", "microphone"],
        elem_id=f"voice{number}", visible=False, min_width=240, buttons=SAVE[1:],
    )  # fmt: skip


def _replace_each_other(*components: Any) -> None:
    for new, old in itertools.permutations(components):
        gr.on(_input_events(new), lambda: None, None, old, show_progress="hidden", api_visibility="private")


def _input_events(component: Any) -> list[Any]:
    """Return the events of a file being given, removed or recorded; recording does not trigger ``input``."""
    return [component.input, *([component.stop_recording] if hasattr(component, "stop_recording") else [])]


def _input_options() -> dict[str, Any]:
    # not mirrored: for that Gradio needs an ffmpeg that the machine may not have
    as_filmed = gr.WebcamOptions(mirror=False)
    return {
        "sources": ["upload", "webcam"], "height": HEIGHT, "webcam_options": as_filmed, "elem_classes": "given",
        "buttons": SAVE[1:],
    }  # fmt: skip


def _options(can_restore: bool) -> dict[str, Any]:
    """Return the inputs for options: the most common, and the rest folded. Names are those of ``buttons.job_of``."""
    with gr.Row(elem_classes="options"):
        options: dict[str, Any] = {
            "silence": gr.Checkbox(True, label=LABELS["silence"], info="otherwise the network decides"),
            "mouth_gain": gr.Slider(
                0.0, 3.0, 1.0, step=0.1, label=LABELS["mouth_gain"], info="1: as the network moves it"
            ),
            "loop": gr.Radio(list(LOOPS), label=LABELS["loop"], value="from its start", info="repeat it"),
        }
    with gr.Accordion("More", open=False):
        with gr.Row(elem_classes="options"):
            options |= {
                "reference": gr.Dropdown(list(REFERENCES), label=LABELS["reference"], value=next(iter(REFERENCES))),
                "blend": gr.Dropdown(list(BLENDS), label=LABELS["blend"], value=next(iter(BLENDS))),
                "lip_delay": gr.Textbox(label=LABELS["lip_delay"], placeholder="automatic", max_lines=1),
            }
        with gr.Row(elem_classes="options"):
            options |= {
                "pads": gr.Textbox(label=LABELS["pads"], placeholder="top bottom left right", max_lines=1),
                "resize_factor": gr.Number(1, label=LABELS["resize_factor"], precision=0, minimum=1),
                "fps": gr.Number(None, label=LABELS["fps"], minimum=0),
                "crf": gr.Slider(0, 51, 18, step=1, label=LABELS["crf"]),
            }
        with gr.Row(elem_classes="options"):
            options |= {
                "speaker": gr.Checkbox(
                    False, label=LABELS["speaker"], info="by the video's own sound; a click on a face is ignored"
                ),
                "occlusion": gr.Checkbox(True, label=LABELS["occlusion"], info="a hand, a microphone, a caption"),
            }
        with gr.Row(elem_classes="options"):
            options |= {
                "start": gr.Textbox(label=LABELS["start"], placeholder="1:05", max_lines=1),
                "end": gr.Textbox(label=LABELS["end"], placeholder="1:12.5", max_lines=1),
            }
        with gr.Row(elem_classes="options"):
            options |= {
                "sharp": gr.Checkbox(False, label="Sharpen the mouth", info="takes longer", visible=can_restore),
                "static": gr.Checkbox(False, label=LABELS["static"]),
                "rotate": gr.Checkbox(False, label=LABELS["rotate"]),
            }
        with gr.Row(elem_classes="options"):
            options |= {
                "mix": gr.Audio(
                    label=LABELS["mix"],
                    type="filepath",
                    sources=["upload"],
                    buttons=SAVE[1:],
                ),
                "network": gr.File(label="A network of your own (.pth)", file_types=[".pth", ".pt"], height=180),
                "face_like": Picture(
                    label=LABELS["face_like"], sources=["upload"], height=150, buttons=SAVE, elem_id="like"
                ),
            }
    return options
