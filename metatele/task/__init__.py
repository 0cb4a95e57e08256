"""Tasks: what a user writes for one task, and stacked meta-batches of them."""

from metatele.task.batch import MetaBatch
from metatele.task.family import PARTS, Part, Split, TaskFamily
from metatele.task.mixture import TaskMixture
from metatele.task.sampling import sample_meta_batch

__all__ = ["PARTS", "MetaBatch", "Part", "Split", "TaskFamily", "TaskMixture", "sample_meta_batch"]
