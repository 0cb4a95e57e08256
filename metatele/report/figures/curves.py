"""The figures of losses, gradients, accuracies and profiles: evaluations to frames."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from metatele.evaluation import Entry, Evaluation
from metatele.evaluation.statistics import performance_profile
from metatele.report.figures.frames import Frame, Line, Panel, Scale, Values

LOSS_OF = {"inner": "training loss", "meta": "loss on the rows of the meta-loss", "test": "loss on unseen rows"}
WIDEST = 1e3  # a multiple of the best loss beyond which a profile is not drawn
POINTS = 120  # of a profile

Centre = Callable[[Values], Values]


def loss_against_step(evaluation: Evaluation) -> Frame:
    """The loss of every contestant against the step."""
    panel, caption = _losses(evaluation, "step", lambda e: np.asarray(e.runs[0].at, np.float64))
    return Frame("loss_against_step", "Loss against step", caption, (panel,))


def loss_against_time(evaluation: Evaluation) -> Frame | None:
    """The same against the wall-clock time; None if no contestant was timed."""
    timed = [e for e in evaluation.ran if e.cost is not None]
    if not timed:
        return None
    tasks = timed[0].cost.tasks if timed[0].cost is not None else 0
    x = f"seconds for {tasks} task{'s' if tasks > 1 else ''} together"
    panel, caption = _losses(evaluation, x, _seconds, "log")
    caption += " Time is the median of repeated runs, the teleports' own time included."
    return Frame("loss_against_time", "Loss against wall-clock time", caption, (panel,))


def gradient_against_loss(evaluation: Evaluation) -> Frame:
    """The gradient norm against the training loss at the same point."""
    both = {e.name: (_finished(e, "loss"), _finished(e, "norm")) for e in evaluation.ran}
    x_scale, x_centre, words = _scaled([loss for loss, _ in both.values()])
    y_scale, y_centre, _ = _scaled([norm for _, norm in both.values()])
    lines = [Line(name, x_centre(loss), y_centre(norm)) for name, (loss, norm) in both.items() if loss.shape[1]]
    panel = Panel("", LOSS_OF["inner"], "gradient norm", x_scale, y_scale, tuple(lines), end=True)
    caption = (
        f"{words} over the tasks that ran all steps. Every line begins at the common initial point, on the right, "
        "and ends in a dot at the last step; higher at the same loss means steeper."
    )
    return Frame("gradient_against_loss", "Gradient norm against loss", caption, (panel,))


def profile(evaluation: Evaluation) -> Frame | None:
    """The performance profile of the final losses; None unless all of them are positive."""
    losses = {e.name: e.losses(evaluation.part, evaluation.last) for e in evaluation.ran}
    if len(losses) < 2 or not all(v.size and (v > 0).all() for v in losses.values()):
        return None
    best = np.min([v.min(0) for v in losses.values()], axis=0)
    widest = min(WIDEST, max(2.0, 1.05 * float(max((v / best).max() for v in losses.values()))))
    ratios = np.geomspace(1, widest, POINTS)
    lines = [Line(name, ratios, y) for name, y in performance_profile(losses, ratios).items()]
    y = "fraction of tasks"
    panel = Panel("", "at most so many times the best contestant's final loss", y, "log", "linear", tuple(lines))
    caption = (
        "For each contestant, the fraction of tasks on which its final loss is at most the given multiple of the best "
        "contestant's loss on that task. At the left edge: how often it is the best. Higher is better."
    )
    return Frame("profile", "Performance profile", caption, (panel,))


def accuracy_against_step(evaluation: Evaluation) -> Frame | None:
    """The accuracy against the step; None if the family has none."""
    part = evaluation.part
    if not evaluation.has_accuracy(part):
        return None
    lines = []
    for e in evaluation.ran:
        values = np.concatenate([run.scored_accuracy(part) for run in e.runs], axis=1)
        lines.append(Line(e.name, np.asarray(e.runs[0].at, np.float64), mean(values), *quartiles(values)))
    words = {"inner": "accuracy on training rows", "meta": "accuracy", "test": "accuracy on unseen rows"}[part]
    panel = Panel("", "step", words, "linear", "linear", tuple(lines))
    caption = "Lines: means over tasks."
    if any(e.diverged for e in evaluation.ran):
        caption += " A task that diverged goes on with its last accuracy or its first, whichever is lower."
    return Frame("accuracy_against_step", "Accuracy against step", caption, (panel,))


def quartiles(values: Values) -> tuple[Values, Values]:
    """The lower and the upper quartile of the numbers in each row."""
    with warnings.catch_warnings():  # of a row without a number
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanquantile(values, [0.25, 0.75], axis=1)
    return low, high


def median(values: Values) -> Values:
    """The median of the numbers in each row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmedian(values, axis=1))


def mean(values: Values) -> Values:
    """The mean of the numbers in each row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=1))


def _losses(
    evaluation: Evaluation, x: str, xs: Callable[[Entry], Values], x_scale: Scale = "linear"
) -> tuple[Panel, str]:
    """The losses of all contestants against something, and what the lines and bands are, in words."""
    part = evaluation.part
    losses = {e.name: np.concatenate([run.scored(part) for run in e.runs], axis=1) for e in evaluation.ran}
    scale, centre, words = _scaled(list(losses.values()))
    lines = [Line(e.name, xs(e), centre(losses[e.name]), *quartiles(losses[e.name])) for e in evaluation.ran]
    seeds = " and meta-seeds" if any(len(e.runs) > 1 for e in evaluation.ran) else ""
    caption = f"Lines: {words.lower()} over tasks{seeds}."
    if any(e.diverged for e in evaluation.ran):
        caption += " A task that diverged goes on with its last loss or its first, whichever is larger."
    return Panel("", x, LOSS_OF[part], x_scale, scale, tuple(lines)), caption


def _seconds(entry: Entry) -> Values:
    """When each recorded step was reached; NaN for step 0, which has no place on a logarithmic axis."""
    if entry.cost is None:
        return np.full(len(entry.runs[0].at), np.nan)
    return np.where(entry.cost.seconds > 0, entry.cost.seconds, np.nan)


def _finished(entry: Entry, what: str) -> Values:
    """The training losses or gradient norms of the tasks that ran all steps, [R, n]."""
    columns: list[ArrayLike] = []
    for run in entry.runs:
        values = run.losses["inner"] if what == "loss" else run.gradient_norm
        columns.append(np.asarray(values, np.float64)[:, run.finished])
    return np.concatenate(columns, axis=1)


def _scaled(values: Sequence[Values]) -> tuple[Scale, Centre, str]:
    """The scale of an axis for some numbers, the mean that belongs to it, and that mean in words."""
    everything = np.concatenate([v.ravel() for v in values]) if values else np.empty(0)
    known = everything[np.isfinite(everything)]
    if not len(known) or (known < 0).any() or not (known > 0).any():
        return "linear", mean, "Means"
    if (known == 0).any():
        return "log", lambda v: np.where(mean(v) > 0, mean(v), np.nan), "Arithmetic means (some numbers are 0)"
    return "log", lambda v: np.exp(mean(np.log(v))), "Geometric means"
