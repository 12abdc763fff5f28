"""The table of a sweep: mean and spread over seeds, and paired differences with their intervals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from speechssl.errors import UserError, writing
from speechssl.files import write_text
from speechssl.report.results import format_number, markdown_table
from speechssl.sweep.grid import PlannedRun
from speechssl.sweep.measures import needs_labels
from speechssl.text import markdown, tsv_cell

MOST_COLUMNS = 12  # of the tables for people
MOST_SETTINGS_PAIRED = 50
"""With more settings than these, differences are from the reference alone."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Summary:
    """One measure of one setting.

    Attributes:
        count: n, runs that have it.
        mean: over them.
        deviation: sample standard deviation over seeds; NaN for one run.
    """

    count: int
    mean: float
    deviation: float


@dataclass(frozen=True)
class Difference:
    """One measure of a setting minus that of another, over the seeds that both have.

    Attributes:
        count: n, pairs.
        mean: of the n differences.
        low, high: 95 % interval of the mean by Student's t with n - 1 degrees of freedom; NaN for
            one pair. It covers what the seed changes, not what other data would.
    """

    count: int
    mean: float
    low: float
    high: float


def summarise(values: Sequence[float]) -> Summary:
    """Return mean and spread of the values that are not NaN."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return Summary(0, math.nan, math.nan)
    deviation = float(known.std(ddof=1)) if len(known) > 1 else math.nan
    return Summary(len(known), float(known.mean()), deviation)


def paired_difference(
    one: Mapping[int | None, float], other: Mapping[int | None, float]
) -> Difference:
    """Return `one` minus `other`, seed by seed.

    Args:
        one, other: seed -> value; None as the only seed where a sweep has none of its own.
    """
    differences = []
    for seed, value in one.items():
        difference = value - other.get(seed, math.nan)
        if not math.isnan(difference):
            differences.append(difference)
    summary = summarise(differences)
    if summary.count < 2:
        return Difference(summary.count, summary.mean, math.nan, math.nan)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, summary.count - 1))
    half = quantile * summary.deviation / math.sqrt(summary.count)
    return Difference(summary.count, summary.mean, summary.mean - half, summary.mean + half)


def first_of_each_list(measures: Sequence[str]) -> list[str]:
    """Return the measures without those of a list (`LIST/eer`, `LIST/min_dcf_0.01`) that has one already."""
    lists = [measure.rpartition("/")[0] for measure in measures]
    return [
        measure
        for number, measure in enumerate(measures)
        if not lists[number] or lists[number] not in lists[:number]
    ]


class Table:
    """The measures of all runs of a sweep.

    Args:
        runs: in the order of the table.
        measured: run's name -> measure -> value; a run that failed is not there.
        reference: setting that the others are compared with; None: the first one.

    Raises:
        UserError: there is no such setting.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        measured: Mapping[str, Mapping[str, float]],
        reference: str | None = None,
    ) -> None:
        self.runs = runs
        self.measured = measured
        self._runs_of: dict[str, list[PlannedRun]] = {}
        for run in runs:
            self._runs_of.setdefault(run.setting, []).append(run)
        self.settings = list(self._runs_of)
        if reference is not None and reference not in self.settings:
            raise UserError(
                f"sweep: no setting {reference!r}; --reference is one of {', '.join(self.settings)}"
            )
        self.reference = reference or self.settings[0]
        names = dict.fromkeys(itertools.chain.from_iterable(measured.values()))
        self.measures = sorted(names, key=lambda name: not needs_labels(name))

    def values(self, setting: str, measure: str) -> dict[int | None, float]:
        """Return seed -> value, NaN where a run has not got it."""
        found = {}
        for run in self._runs_of[setting]:
            found[run.seed] = self.measured.get(run.name, {}).get(measure, math.nan)
        return found

    def summary(self, setting: str, measure: str) -> Summary:
        """Return mean and spread over the seeds."""
        return summarise(list(self.values(setting, measure).values()))

    def difference(self, one: str, other: str, measure: str) -> Difference:
        """Return setting `one` minus setting `other`."""
        return paired_difference(self.values(one, measure), self.values(other, measure))

    def write(self, out: Path, remarks: Sequence[str] = ()) -> str:
        """Write `runs.tsv`, `sweep.tsv`, `differences.tsv` and `sweep.md`; return the last one.

        Args:
            out: folder of the sweep.
            remarks: lines below the tables.
        """
        text = self.markdown(remarks)
        with writing(out):
            write_text(out / "runs.tsv", self._runs_tsv())
            write_text(out / "sweep.tsv", self._summaries_tsv())
            write_text(out / "differences.tsv", self._differences_tsv())
            write_text(out / "sweep.md", text + "\n")
        return text

    def _runs_tsv(self) -> str:
        lines = [["run", "setting", "seed", *self.measures]]
        for run in self.runs:
            values = self.measured.get(run.name, {})
            cells = [_number(values.get(name, math.nan)) for name in self.measures]
            lines.append([run.name, run.setting, "" if run.seed is None else str(run.seed), *cells])
        return _tsv(lines)

    def _summaries_tsv(self) -> str:
        head = ["setting", "measure", "n", "mean", "sd", "reference", "pairs", "difference"]
        lines = [[*head, "low", "high"]]
        for setting, measure in itertools.product(self.settings, self.measures):
            one = self.summary(setting, measure)
            cells = [setting, measure, str(one.count), _number(one.mean), _number(one.deviation)]
            difference = self.difference(setting, self.reference, measure)
            lines.append([*cells, self.reference, *_cells(difference)])
        return _tsv(lines)

    def _differences_tsv(self) -> str:
        lines = [["setting", "minus", "measure", "pairs", "difference", "low", "high"]]
        pairs = list(itertools.combinations(self.settings, 2))
        if len(self.settings) > MOST_SETTINGS_PAIRED:
            pairs = [(self.reference, setting) for setting in self.settings]
        for (other, one), measure in itertools.product(pairs, self.measures):
            if one != other:
                lines.append([one, other, measure, *_cells(self.difference(one, other, measure))])
        return _tsv(lines)

    def markdown(self, remarks: Sequence[str] = ()) -> str:
        """Return the tables of means and of differences, for people.

        Where there are very many measures, only the first of each evaluated list is shown.
        """
        shown = self.measures
        if len(shown) > MOST_COLUMNS:
            shown = first_of_each_list(shown)
        means = []
        differences = []
        for setting in self.settings:
            summaries = [self.summary(setting, measure) for measure in shown]
            count = max((summary.count for summary in summaries), default=0)
            means.append([setting, str(count), *map(_mean, summaries)])
            if setting != self.reference:
                row = [self.difference(setting, self.reference, measure) for measure in shown]
                differences.append([setting, *map(_interval, row)])
        paragraphs = ["Mean ± standard deviation over seeds:"]
        paragraphs.append(markdown_table(["setting", "runs", *shown], means))
        if differences:
            paragraphs += [
                f"Difference from {markdown(self.reference)}, paired by seed, with its 95 % interval"
                " (Student's t; one pair has none; each comparison by itself):",
                markdown_table(["setting", *shown], differences),
            ]
        if len(shown) < len(self.measures):
            paragraphs.append("Other measures of the lists are in sweep.tsv and differences.tsv.")
        return "\n\n".join([*paragraphs, *map(markdown, remarks)])


def _cells(difference: Difference) -> list[str]:
    numbers = (difference.mean, difference.low, difference.high)
    return [str(difference.count), *map(_number, numbers)]


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _tsv(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells; numbers stay numbers, names cannot become formulas."""
    text = []
    for line in lines:
        text.append("\t".join(cell if _is_number(cell) else tsv_cell(cell) for cell in line) + "\n")
    return "".join(text)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _digits(value: float) -> int:
    """Digits after the point that show three or four of a number."""
    size = abs(value)
    if size == 0 or size >= 100 or not math.isfinite(size):
        return 0
    return 2 if size >= 1 else 4


def _mean(summary: Summary) -> str:
    shown = format_number(summary.mean, _digits(summary.mean))
    if math.isnan(summary.deviation):
        return shown
    return f"{shown} ± {format_number(summary.deviation, _digits(summary.mean))}"


def _interval(difference: Difference) -> str:
    digits = _digits(difference.high if difference.mean == 0 else difference.mean)
    if math.isnan(difference.mean):
        return "-"
    shown = f"{difference.mean:+.{digits}f}"
    if math.isnan(difference.low):
        return shown
    return f"{shown} [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]"
