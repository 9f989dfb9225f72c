"""The page of eomt-demo: what it answers, and how gradio shows it."""

import collections
import dataclasses
import html
import importlib
import pathlib
import shutil
import tempfile
from typing import Any

import jax
import numpy as np
from etils import epath
from PIL import Image

from eomt_jax.cli.result_files import write_result
from eomt_jax.pictures.hover import hover_picture
from eomt_jax.pictures.overlays import short_name
from eomt_jax.predict.last_photograph import LastPhotograph
from eomt_jax.predict.photographs import MOST_SERVED_PIXELS
from eomt_jax.predict.result import Result, Segment
from eomt_jax.predict.segmenter import Segmenter
from eomt_jax.task_registry import get_task, task_names

_SLIDERS = {
    "threshold": "Least score of a segment",
    "nms_iou": "Largest IoU of two instances of a class",
}
"""Labels of the sliders, by the setting of a Segmenter that each moves."""

_LEAST = 0.05
"""Where the sliders begin; at a score of 0 every query would be an instance."""

_KEPT = 4
"""Answers whose files stay: gradio copies them soon after it has got their names."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """Holds what the page shows for a photograph.

    Attributes:
      sentence: says what was found, or why nothing could be done.
      picture: HTML of the overlay, whose segments say their names, and of their list.
      files: the overlay and the JSON as eomt-predict writes them; empty if the
        photograph was refused.
    """

    sentence: str
    picture: str = ""
    files: tuple[str, ...] = ()


class Page:
    """Answers what a visitor asks of the page.

    Attributes:
      tasks: names of the tasks that the classes allow, the model's own first.
      nms_iou: the Segmenter's; 1, which keeps all instances, if it has none.
    """

    def __init__(
        self, segmenter: Segmenter, folder: str, *, skip_padding: bool = False
    ):
        """Keeps no photograph yet.

        Args:
          segmenter: the network and its classes.
          folder: for the files of the last answers.
          skip_padding: see Segmenter.
        """
        self.tasks = allowed_tasks(segmenter)
        self.nms_iou = segmenter.network.nms_iou or 1.0
        self._segment = LastPhotograph(
            segmenter.network, skip_padding=skip_padding, max_pixels=MOST_SERVED_PIXELS
        )
        self._folder = folder
        self._kept: collections.deque[str] = collections.deque()

    def answer(
        self,
        path: str | None,
        task: str,
        threshold: float,
        nms_iou: float | None = None,
    ) -> Answer:
        """Segments a photograph; whatever is wrong with it becomes a sentence.

        Args:
          path: the file; None if there is none yet.
          task: one of `tasks`.
          threshold: score from which on a segment counts, 0 to 1.
          nms_iou: see Segmenter; its own by default.
        """
        if path is None:
            return Answer("Drop a photograph above.")
        name = pathlib.Path(path).name
        nms_iou = nms_iou or self.nms_iou
        try:
            result = self._segment(
                path, task=task, threshold=threshold, nms_iou=nms_iou
            )
            return self._show(result)
        except FileNotFoundError:
            return Answer(f"{name} was deleted an hour after it came: drop it again.")
        except ValueError as error:
            return Answer(f"{error}.")
        except MemoryError:
            return Answer(
                f"{name} has more segments than the memory holds: move the threshold up, "
                "or make it smaller."
            )
        except jax.errors.JaxRuntimeError as error:
            return Answer(f"{name}: {str(error).splitlines()[0][:500]}")

    def _show(self, result: Result) -> Answer:
        folder = tempfile.mkdtemp(dir=self._folder)
        self._kept.append(folder)
        while len(self._kept) > _KEPT:
            shutil.rmtree(self._kept.popleft(), ignore_errors=True)
        stem = pathlib.Path(result.file_name).stem
        write_result(result, epath.Path(folder) / stem)
        files = tuple(f"{folder}/{stem}{ending}" for ending in (".png", ".json"))
        with Image.open(files[0]) as overlay:
            picture = np.asarray(overlay)
        texts = [describe(segment) for segment in result.segments]
        svg = hover_picture(picture, result.segmentation, texts)
        return Answer(self._sentence(result), svg + _list(result), files)

    def _sentence(self, result: Result) -> str:
        height, width = result.size
        count = len(result.segments)
        seconds = self._segment.network_seconds
        network = f"took {seconds:.2f} s" if seconds else "did not run again"
        note = get_task(result.task).class_note(result.info)
        return (
            f"{result.file_name}, {width} × {height} pixels: "
            f"{count or 'no'} segment{'' if count == 1 else 's'}. The network {network}."
            + (f" Note: {note}." if note and result.task != self.tasks[0] else "")
        )


def allowed_tasks(segmenter: Segmenter) -> list[str]:
    """Returns the tasks that the classes allow; the segmenter's own comes first."""

    def is_allowed(name: str) -> bool:
        try:
            get_task(name).check_classes(segmenter.info)
        except ValueError:
            return False
        return True

    others = [name for name in task_names() if name != segmenter.task]
    return [segmenter.task, *filter(is_allowed, others)]


def describe(segment: Segment) -> str:
    """Returns a segment's name, with its score if it has one."""
    name = short_name(segment.class_name)
    return name if segment.score is None else f"{name}, {100 * segment.score:.0f} %"


def _list(result: Result) -> str:
    """Returns HTML of all segments' names, scores and shares, the largest first."""
    height, width = result.size
    rows = "".join(
        f"<li>{html.escape(describe(segment))}, on "
        f"{100 * segment.area / (height * width):.3g} % of the photograph</li>"
        for segment in sorted(result.segments, key=lambda segment: -segment.area)
    )
    return f"<ol>{rows}</ol>"


def build(page: Page, title: str) -> Any:
    """Returns the page as gradio's Blocks; needs gradio.

    All events share one queue, which lets one photograph at a time to the device. While
    a slider moves, only its last position waits.

    Args:
      page: what answers.
      title: of the page, as Markdown.
    """
    gr: Any = importlib.import_module("gradio")

    def outputs(answer: Answer) -> tuple[Any, ...]:
        overlay, coco = answer.files or (None, None)
        return (
            html.escape(answer.sentence),
            answer.picture,
            gr.update(value=overlay, interactive=overlay is not None),
            gr.update(value=coco, interactive=coco is not None),
        )

    def upload(file: Any, task: str, *numbers: Any) -> tuple[Any, ...]:
        # An empty field takes the next photograph.
        return None, file["path"], *move(file["path"], task, *numbers)

    def choose_task(path: str | None, task: str, nms_iou: Any) -> tuple[Any, ...]:
        sliders = [gr.update(visible=is_used(name, task)) for name in _SLIDERS]
        sliders[0]["value"] = threshold = get_task(task).threshold
        return *sliders, *move(path, task, threshold, nms_iou)

    def move(
        path: str | None, task: str, threshold: Any, nms_iou: Any
    ) -> tuple[Any, ...]:
        threshold = slider_value(threshold, get_task(task).threshold)
        nms_iou = slider_value(nms_iou, page.nms_iou)
        return outputs(page.answer(path, task, threshold, nms_iou))

    def slider(name: str, value: float) -> Any:
        return gr.Slider(
            _LEAST,
            1.0,
            step=0.01,
            value=value,
            visible=is_used(name, page.tasks[0]),
            label=_SLIDERS[name],
            elem_id=name,
        )

    # Uploads and results are deleted an hour after they came.
    with gr.Blocks(
        title="eomt-demo", analytics_enabled=False, delete_cache=(600, 3600)
    ) as blocks:
        gr.Markdown(title)
        shown = gr.State()
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                file = gr.File(label="Photograph", height=150, elem_id="photograph")
                task = gr.Radio(
                    page.tasks, value=page.tasks[0], label="Task", elem_id="task"
                )
                threshold = slider("threshold", get_task(page.tasks[0]).threshold)
                nms_iou = slider("nms_iou", page.nms_iou)
                sentence = gr.HTML(
                    page.answer(None, page.tasks[0], 0.0).sentence, elem_id="sentence"
                )
                overlay = gr.DownloadButton(
                    "Overlay (PNG)", interactive=False, elem_id="overlay"
                )
                coco = gr.DownloadButton(
                    "Segments (JSON)", interactive=False, elem_id="coco"
                )
            with gr.Column(scale=3):
                picture = gr.HTML(elem_id="picture")
        results = [sentence, picture, overlay, coco]
        options = {
            "concurrency_id": "device",
            "concurrency_limit": 1,
            "show_progress_on": picture,
            # gradio calls a slider's field that is empty for a moment an error.
            "preprocess": False,
        }
        sliders = [threshold, nms_iou]
        inputs = [shown, task, *sliders]
        file.upload(upload, [file, task, *sliders], [file, shown, *results], **options)
        task.input(choose_task, [shown, task, nms_iou], [*sliders, *results], **options)
        for one in sliders:
            one.input(move, inputs, results, trigger_mode="always_last", **options)
    return blocks


def is_used(name: str, task: str) -> bool:
    """Returns whether a slider changes anything for the task."""
    return name not in get_task(task).unused_settings


def slider_value(value: Any, default: float) -> float:
    """Returns what a slider says, or the default while its field holds no such number."""
    is_number = isinstance(value, int | float) and _LEAST <= value <= 1
    return float(value) if is_number else default
