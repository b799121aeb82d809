"""Runs grouped by settings, with the names and saved predictions that tables and comparisons use."""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence

from data.predictions import read_predictions
from experiments import bootstrap
from experiments.records import Result, changes
from utils import InputError, log, short

Predicted = tuple[dict[int, list], list]  # seed -> the run's prediction for each row; and the labels


class Group:
    """The runs with the same settings, over seeds, all scored on the same set.

    Attributes:
        results: seed -> its run or evaluation; `first` is that of the lowest seed.
        method, task, encoder: as in the arguments of the runs.
        changed_training, changed_own: training arguments, and those of the method, that are not the usual ones (`first`
            has all of them).
        base: a key shared by the groups that differ in nothing but the method and its arguments.
        base_of_twice_the_epochs: the `base` of groups that differ in training for twice the epochs too.
    """

    def __init__(self, results: Mapping[int, Result]):
        self.results = dict(sorted(results.items()))
        first = next(iter(self.results.values()))
        self.first, self.method, self.task = first, first.args["method"], first.args["task_name"]
        self.encoder = first.args["load_model_path"]
        self.changed_training, self.changed_own = changes(first.args)
        self.base = _key(first.training, first)
        twice = {"num_train_epochs": 2 * first.args["num_train_epochs"]}
        self.base_of_twice_the_epochs = _key(first.training | twice, first)

    @property
    def settings(self) -> str:
        """The precision, and training settings that are not the usual ones."""
        return joined(self.first.precision, listed(self.changed_training))

    @property
    def scored_set(self) -> str:
        """The name of the evaluated set, with its task."""
        scored_on = self.first.scored_on
        return scored_on if self.first.best is None else f"{self.task} {scored_on}"

    def scores(self, epoch: str) -> dict[int, float]:
        """Seed -> score of the last or best epoch, for runs that have one."""
        scores = {seed: getattr(result, epoch) for seed, result in self.results.items()}
        return {seed: score for seed, score in scores.items() if score is not None}

    @functools.cached_property
    def predicted(self) -> Predicted | str:
        """The predictions after the last epoch, of the runs that keep them; or why they cannot be compared by rows.

        Raises:
            InputError: two runs were not scored on the same rows.
        """
        if self.first.held_out:
            return "each seed holds out other rows"
        files = {seed: each.predictions for seed, each in self.results.items() if each.predictions.exists()}
        if not files:
            return "its runs keep no predictions"
        columns = {seed: read_predictions(path) for seed, path in files.items()}
        first, *others = columns
        labels = columns[first]["label"]
        for seed in others:
            if columns[seed]["label"] != labels:
                raise InputError(f"{files[first]} and {files[seed]}: not the same rows; move one of these runs away")
        metric = self.first.metric
        if not bootstrap.computes(metric, labels):
            return f"{metric} is not computed from rows here"
        return {seed: bootstrap.predicted(each, metric) for seed, each in columns.items()}, labels


def _key(arguments, result: Result) -> str:
    """The key that results must share to have the same settings, or to be compared."""
    return json.dumps([arguments, result.precision, result.scored_on, result.metric, result.examples], sort_keys=True)


def grouped(results: Iterable[Result]) -> list[Group]:
    """The results grouped by settings.

    Raises:
        InputError: two runs with the same settings have the same seed.
    """
    groups: dict[str, dict[int, Result]] = {}
    for result in results:
        seed = result.args["seed"]
        seeds = groups.setdefault(_key([result.args["method"], result.training, result.own], result), {})
        if seed in seeds:
            first, second = (each.predictions.parents[1] for each in (seeds[seed], result))
            raise InputError(f"two runs of one setting have the seed {seed}: move {first} or {second} away")
        seeds[seed] = result
    return [Group(seeds) for seeds in groups.values()]


def where(group: Group) -> str:
    """A name, for messages, of what all methods compared with a group share."""
    first = group.first
    return joined(
        group.encoder, first.precision, group.task, listed(group.changed_training), f"scored on {first.scored_on}"
    )


def read_predicted(group: Group) -> Predicted | None:
    """The saved predictions of the runs; None, and a log message, if they cannot be compared by rows.

    Raises:
        InputError: two runs were not scored on the same rows.
    """
    predicted, name = group.predicted, joined(group.method, listed(group.changed_own))
    if isinstance(predicted, str):
        log.warning(f"{where(group)}: {name} is left out: {predicted}")
        return None
    if missing := sorted(group.results.keys() - predicted[0].keys()):
        log.warning(f"{where(group)}: {name} is without seed {', '.join(map(str, missing))}: no predictions are kept")
    return predicted


def check_rows(groups: Sequence[Group], predicted: Mapping[Group, Predicted]) -> None:
    """Raise `InputError` if two of these groups were not scored on the same rows."""
    first, *others = (group for group in groups if group in predicted)
    for other in others:
        if predicted[other][1] != predicted[first][1]:
            paths = (next(iter(group.results.values())).predictions for group in (first, other))
            raise InputError(f"{' and '.join(map(str, paths))}: not the same rows; report on them apart")


def listed(values: Mapping) -> str:
    """Settings in the form that the tables show."""
    return ", ".join(f"{name} {short(value)}" for name, value in values.items())


def joined(*parts: str) -> str:
    """The parts that are not empty, with commas between them."""
    return ", ".join(filter(None, parts))
