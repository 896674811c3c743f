"""Measuring models: likelihood of held-out text, tasks with metrics and intervals, comparisons.

Called, it is the verb; imported from, it has the pieces::

    from codex_ray.evaluate import load_task, score

    task = load_task("capitals.yaml")
    scored = score(task, {example.id: [answer(example.prompt)] for example in task.examples})
    print(scored.figures["exact_match"])
"""

from codex_ray.evaluate.intervals import Difference, Interval, bootstrap, holm, paired
from codex_ray.evaluate.library import load_task
from codex_ray.evaluate.metrics import Answered, Example, Metric, find_metric
from codex_ray.evaluate.task_files import task_of_rows
from codex_ray.evaluate.tasks import Scored, Task, score

__all__ = [
    "Answered",
    "Difference",
    "Example",
    "Interval",
    "Metric",
    "Scored",
    "Task",
    "bootstrap",
    "find_metric",
    "holm",
    "load_task",
    "paired",
    "score",
    "task_of_rows",
]
