"""All tasks, by name."""

from . import _digits, _images, _reddi_tasks, _texts
from ._task import Task


TASKS: dict[str, Task] = {
    task.name: task
    for task in (*_digits.TASKS, *_images.TASKS, *_texts.TASKS, *_reddi_tasks.TASKS)
}
