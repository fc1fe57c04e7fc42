"""All tasks, by name."""

from . import _digits, _images, _mills_tasks, _reddi_tasks, _texts, _zaccone_tasks
from ._task import Task


TASKS: dict[str, Task] = {
    task.name: task
    for part in (_digits, _images, _texts, _reddi_tasks, _mills_tasks, _zaccone_tasks)
    for task in part.TASKS
}
