"""What happens when a button is pressed: Gradio's values in, an action of ``actions``, Gradio's values out."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.utils import get_upload_folder

from errors import UserError, describe_error, is_fault
from page.sessions import COMPARE, KEPT_SECONDS, LEARN, LIP_SYNC, LIVE, Learning, Progress, Session, Sessions, Stopped
from page.settings import Settings
from page.stage import LiveFaces
from parts import moment

if TYPE_CHECKING:
    from page.actions import Actions  # not in what Gradio calls: it looks the names up

LOG = logging.getLogger("wav2lip.page")  # for the server; visitors see one sentence
LOOPS = {"from its start": "loop", "back and forth": "pingpong"}
REFERENCES = {
    "automatic": None,
    "each frame itself": "same",
    "a similar frame with a shut mouth": "still",
    "a frame whose mouth fits the sound": "matching",
}
BLENDS = {"automatic": None, "only what changes, with soft edges": "feather", "the whole box": "box"}
VOICES = ("voice1", "voice2", "voice3", "voice4")  # of the first faces from the left, if several speak
FILES = ("film", "photo", "speech", "filmed", *VOICES, "face_like", "mix", "network")  # the files on the first tab
LABELS = {  # the page's names for flags, for visitors who do not know the command line
    "silence": "Close the lips in pauses",
    "mouth_gain": "Mouth movement",
    "loop": "If the video is too short",
    "blend": "How the mouth is blended in",
    "occlusion": "Keep what is in front of the mouth",
    "mix": "Sound of the result: the speech with music, for example",
    "crf": "Compression (CRF); lower: better, and a larger file",
    "reference": "Reference frame for the network",
    "lip_delay": "Delay the lips by (milliseconds)",
    "pads": "Pixels around the face's box",
    "resize_factor": "Shrink frames by",
    "fps": "Frames a second; 0: the video's",
    "speaker": "Whoever speaks, shot by shot",
    "face_like": "The person in this picture",
    "start": "Only from this moment of the video",
    "end": "to this one; empty: to the end of the speech",
    "static": "Use only the first frame",
    "rotate": "The video lies on its side: turn it clockwise",
}
ALONE = ("speaker", "face_like")  # settings about one face
# Its phrases for other flags, and where a label does not fit into a sentence
PHRASES = {"face_index": "a click on the face", "pair": "of several who speak, face", "rotate": '"turn it clockwise"'}
FLAGS = re.compile(r"--([a-z_]+)")
NUMBERED = re.compile(r"(--pair |\b[Ff]ace )(\d+)(?=[=:])")  # numbers of faces, from 0
FOLDERS = re.compile(r"(?<![\w:/\\])(?:\w:)?[\\/](?:[^\\/\s'\"]+[\\/])+")  # of this machine, before a file name
ROOTS = [str(Path.cwd()), tempfile.gettempdir()]  # folders of this machine, whose names may have spaces
with contextlib.suppress(RuntimeError):  # of a user without a home
    ROOTS.append(str(Path.home()))
DONE = "**Done.**"
Values = dict[Any, Any]  # of the page's components, by component or by name


class Buttons:
    """The callbacks of the page's buttons, and the sessions they act for."""

    def __init__(self, settings: Settings) -> None:
        self.uploads = Path(get_upload_folder()).resolve()
        self.live_faces = LiveFaces(settings.live)
        self.sessions = Sessions(self.live_faces.remove)
        self._loaded: Future[Actions] = Future()
        threading.Thread(target=self._load, args=(settings,), daemon=True).start()  # Ctrl-C does not wait for it
        self.components: dict[str, Any] = {}  # the components of the first tab, by the names that ``job_of`` uses

    def _load(self, settings: Settings) -> None:
        try:
            self._loaded.set_result(load(settings))
        except BaseException as problem:
            self._loaded.set_exception(problem)

    def wait_until_loaded(self) -> None:
        """Wait until everything is loaded; raise any error from loading."""
        while wait([self._loaded], timeout=1).not_done:
            pass  # on Windows, Ctrl-C does not interrupt a wait without a timeout
        self._loaded.result()

    @property
    def actions(self) -> Actions:
        """The actions; blocks until they are loaded."""
        return self._loaded.result()

    @contextlib.contextmanager
    def _working(
        self,
        request: gr.Request,
        progress: gr.Progress,
        *files: str | None,
        tab: str = LIP_SYNC,
        report: Callable[..., Progress] = Progress,
    ) -> Iterator[tuple[Session, Any]]:
        """Provide an action with its session and progress, keep its files, and report errors in one sentence.

        Visitors may name only files that were uploaded to the page; Gradio does not always check.
        """
        problem = session = None
        try:
            for file in filter(None, files):
                if self.uploads not in Path(file).resolve().parents:
                    raise UserError(f"this page was not given {Path(file).name}; give it now")
                if not Path(file).exists():  # the visitor waited, or did nothing, for that long
                    raise UserError(
                        f"after {KEPT_SECONDS / 60:.0f} minutes files are deleted, {Path(file).name} too; give it again"
                    )
            session = self.sessions.of(request.session_hash)
            with session.using(*files):
                reporter = report(
                    session, lambda share, words: progress(share, desc=words), request.state.requested, tab
                )
                reporter.raise_if_stopped()
                yield session, reporter
        except Stopped:
            problem = gr.Error("Stopped; nothing was kept.", duration=5, print_exception=False)
        except UserError as error:
            problem = gr.Error(sentence(error), duration=None, print_exception=False)  # shown until it is closed
        except Exception as error:
            LOG.exception("an action of the page failed")
            said = "A bug in the program, " if is_fault(error) else ""
            problem = gr.Error(f"{said}{sentence(describe_error(error))}"[:300], print_exception=False)
        finally:
            if session and session.closed.is_set():
                session.delete()  # the running action may have created the folder again
        if problem:  # not raised inside the except, or its context would keep alive the objects of the failed action
            raise problem

    def find_faces(
        self, face: str | None, rotate: bool, request: gr.Request, progress: gr.Progress = gr.Progress()
    ) -> tuple[Any, ...]:
        """Show the faces of a video or photo; of several, one can be clicked on, or each be given a speech."""
        if not face:  # the file was removed, and ``forget`` has already run
            return (gr.skip(),) * (4 + len(VOICES))
        with self._working(request, progress, face) as (session, report):
            seen = self.actions.find_faces(session, face, report, rotate)
        if session.face not in (None, face):  # another was given meanwhile
            return (gr.skip(),) * (4 + len(VOICES))
        words = (
            "One face was found."
            if len(seen) == 1
            else f"{len(seen)} faces were found: **who should speak?** (Without a click, the largest.)"
        )
        pictures = [(face.picture, f"face {i + 1}") for i, face in enumerate(seen)]
        gallery = gr.Gallery(pictures, visible=len(seen) > 1, selected_index=None)
        return gallery, " ".join([words, *map(sentence, report.notes)]), seen, *speech_inputs(len(seen))

    def forget(self, face: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Reset what was shown for the previous video or photo; a new file also replaces one of the other kind."""
        self.sessions.of(request.session_hash).face = face or ""
        return *self.forget_faces(), None if face else gr.skip()

    def forget_faces(self) -> tuple[Any, ...]:
        """Reset the faces, what was said about them, and the choice of one."""
        return gr.Gallery(visible=False), "", [], None, *speech_inputs(0)

    def choose(self, seen: list[Any], event: gr.SelectData) -> tuple[Any, str]:
        return seen[event.index], f"Face {event.index + 1} from the left will speak."

    def preview(self, given: Values, request: gr.Request, progress: gr.Progress = gr.Progress()) -> tuple[Any, Any]:
        """Show one frame in the place of the original."""
        values = self._by_name(given)
        with self._working(request, progress, *map(values.get, FILES)) as (session, report):
            face, speech, options = job_of(values)
            picture = self.actions.preview(session, face, speech, values["second"] or 0.0, report, **options)
        return gr.Image(picture, label="Preview", visible=True), gr.Video(visible=False)

    def lip_sync(
        self, given: Values, request: gr.Request, progress: gr.Progress = gr.Progress()
    ) -> tuple[Path, Any, Any, str]:
        """Show the result beside the original."""
        values = self._by_name(given)
        with self._working(request, progress, *map(values.get, FILES)) as (session, report):
            face, speech, options = job_of(values)
            made = self.actions.lip_sync(session, face, speech, report, **options)
        is_film = face == values["film"]
        original = gr.Video(face, visible=True) if is_film else gr.Video(visible=False)
        picture = gr.Image(visible=False) if is_film else gr.Image(face, label="Original", visible=True)
        return made, picture, original, " ".join([DONE, *map(sentence, report.notes)])

    def _by_name(self, given: Values) -> Values:
        return {name: given[component] for name, component in self.components.items()}

    def measure(
        self, film: str | None, sounds: list[str] | None, request: gr.Request, progress: gr.Progress = gr.Progress()
    ) -> tuple[str, Path]:
        with self._working(request, progress, film, *(sounds or []), tab=COMPARE) as (session, report):
            if not film:
                raise UserError("give a video of people who speak first")
            words, plot = self.actions.measure(session, film, sounds or [], report)
        return words, plot

    def adapt(
        self, film: str | None, minutes: float, request: gr.Request, progress: gr.Progress = gr.Progress()
    ) -> tuple[str, Path, str]:
        learning = partial(Learning, minutes=minutes)
        with self._working(request, progress, film, tab=LEARN, report=learning) as (session, report):
            if not film:
                raise UserError("give a video of the person first")
            network, sheet, words = self.actions.adapt(session, film, minutes, report)
        return str(network), sheet, words

    def prepare_live(
        self,
        film: str | None,
        photo: str | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),
    ) -> tuple[str, str]:
        """Prepare a face; return its token, and a message that it is ready."""
        with self._working(request, progress, film, photo, tab=LIVE) as (session, report):
            if not (face := film or photo):
                raise UserError("give a video or a photo of a face first")
            prepared = self.actions.prepare_live(session, face, report)
            self.live_faces.remove(session.token)  # only now: if preparing fails, the previous face is still ready
            session.token = self.live_faces.add(
                self.actions.lips(session, report), prepared, partial(session.use, face)
            )
            if session.closed.is_set():  # the visitor left meanwhile, so nobody else would remove the face
                self.live_faces.remove(session.token)
            if session.live_face not in (None, face):  # another was given meanwhile
                return "", ""
        return session.token, "**Ready.** Press Talk, and let the page use the microphone."

    def forget_live(self, face: str | None, request: gr.Request) -> tuple[str, str]:
        """Reset what was said of the video or photo before; return no token, and no message."""
        self.sessions.of(request.session_hash).live_face = face or ""
        return "", ""

    def leave(self, request: gr.Request) -> None:
        self.sessions.close(request.session_hash)

    def cancel(self, tab: str, request: gr.Request) -> None:
        self.sessions.stop(request.session_hash, tab)


def load(settings: Settings) -> Actions:
    """Import and load what takes seconds; the page is shown before that is done."""
    from page.actions import Actions

    actions = Actions(settings)
    actions.warm_up()
    return actions


def sentence(error: object) -> str:
    """Return an error as one sentence, without the folders of this machine, in the words of the page."""
    text = " ".join(str(error).split()) or type(error).__name__
    if text.partition(" ")[0].isalpha():  # a word, not the name of a file or folder
        text = text[0].upper() + text[1:]
    for root in ROOTS:
        text = text.replace(root.rstrip("/\\") + os.sep, os.sep)
    text = NUMBERED.sub(lambda face: f"{face[1]}{int(face[2]) + 1}", FOLDERS.sub("", text))
    text = FLAGS.sub(label_of, advised(text))
    return text if text.endswith((".", "!", "?")) else f"{text}."


def advised(text: str) -> str:
    """Return a sentence without advice about flags that the page does not have."""
    statement, mark, advice = text.partition("; ")
    if advice.startswith("fetch it by other means"):  # for whoever runs the page
        return statement
    parts = advice.split(", ")
    kept = [part for part in parts if set(FLAGS.findall(part)) <= LABELS.keys() | PHRASES.keys()]
    if len(kept) == len(parts):
        return text
    begin = "try " if parts[0].startswith("try ") and parts[0] not in kept else ""
    return f"{statement}{mark}{begin}{', '.join(kept)}" if kept else statement


def label_of(flag: re.Match[str]) -> str:
    """Return the page's name for a flag: its label, up to any explanation."""
    if phrase := PHRASES.get(flag[1]):
        return phrase
    label = LABELS.get(flag[1])
    return f'"{re.split("[:;]", label)[0]}"' if label else flag[1].replace("_", " ")


def speech_inputs(faces: int) -> list[Any]:
    """Return the updates of the inputs for a speech of each face: of their accordion, and of each of them."""
    several = min(faces, len(VOICES)) if faces > 1 else 0
    return [gr.Accordion(visible=several > 0), *(gr.Audio(None, visible=i < several) for i in range(len(VOICES)))]


def job_of(values: Values) -> tuple[str, Any, Values]:
    """Return the face, the speech and the options for ``Actions``; raise UserError if something is missing."""
    face = values["film"] or values["photo"]
    if not face:
        raise UserError("give a video or a photo of a face first")
    return face, speech_of(values), {
        "chosen": None if values["speaker"] or values["face_like"] else values["chosen"],
        "speaker": "auto" if values["speaker"] else None,
        "face_like": values["face_like"] and Path(values["face_like"]),
        "sharp": values["sharp"],
        "start": moment(values["start"]) if values["start"] else None,  # "" once the text box has been shown
        "end": moment(values["end"]) if values["end"] else None,
        "occlusion": None if values["occlusion"] else "ignore",
        "network": values["network"],
        "silence": "closed" if values["silence"] else "free",
        "mouth_gain": values["mouth_gain"],
        "loop": LOOPS[values["loop"]],
        "reference": REFERENCES[values["reference"]],
        "blend": BLENDS[values["blend"]],
        "lip_delay": milliseconds(values["lip_delay"]),
        "pads": numbers(values["pads"], "pixels around the face's box are"),
        "static": values["static"],
        "rotate": values["rotate"],
        "resize_factor": max(1, int(values["resize_factor"] or 1)),
        "fps": values["fps"] or None,
        "mix": values["mix"] and Path(values["mix"]),
        "crf": int(values["crf"]),
    }  # fmt: skip


def speech_of(values: Values) -> Any:
    """Return the speech, or a list of faces and the speech of each; raise UserError for invalid combinations."""
    one = values["speech"] or values["filmed"]
    each = [(face, file) for face, file in zip(values["seen"], map(values.get, VOICES)) if file]
    if one and each:
        raise UserError("a speech for one face was given and some for several; remove one or the others")
    if not (one or each):
        raise UserError("give a speech first: any file with sound, or record one")
    for name in ALONE:
        if each and values[name]:
            raise UserError(f'"{LABELS[name]}" is for one face; remove it, or the speeches of several')
    if values["speaker"] and values["face_like"]:
        raise UserError("whoever speaks and the person in a picture cannot both be chosen; remove one of the two")
    return one or each


def milliseconds(text: str | None) -> float | None:
    """Return the number in a text box, None if it is empty: a hidden gr.Number turns None into 0 when it is shown."""
    try:
        return float(text) if text and text.strip() else None
    except ValueError:
        raise UserError(f"the delay of the lips must be a number of milliseconds, such as 40, not {text!r}") from None


def numbers(text: str | None, what: str) -> tuple[int, ...] | None:
    """Return the four whole numbers in a text box; None if it is empty."""
    if not (words := (text or "").replace(",", " ").split()):
        return None
    try:
        given = tuple(map(int, words))
    except ValueError:
        given = ()
    if len(given) != 4:
        raise UserError(f"{what} four whole numbers: top bottom left right, such as 0 20 0 0")
    return given
