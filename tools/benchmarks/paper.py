"""Part "paper": a classifier at the paper's reductions, top-1 and loss on test labels, with the controls a gain needs.

Ranks are chosen on calibration samples, plans on validation samples; the test set is met once a plan. Controls: both
models with a temperature of their own, fitted on validation (a compressed model that is merely less sure of itself
gains loss, not knowledge); and the leaky protocol, which calibrates and validates on the samples that it reports.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from benchmarks.lines import Cells, Line
from benchmarks.parts import Cell, Part, sections
from benchmarks.scores import Scores, compared, means, original_on_test
from benchmarks.wording import NONE, number, paired, percent, table, with_interval
from benchmarks.workbench import ANY, Goal, Workbench, triple
from benchmarks.zoo import CLASSIFIERS
from onnx_lowrank import Compact, DataSources, Gate, Lossless, Session

KEEPS, DROPS, LEAKY_KEEPS = (0.5, 0.3, 0.2, 0.1), (0.0, 0.005), (0.3, 0.1)
GOALS: dict[str, Goal] = {
    **{f"lossless/{keep:g}": Lossless(keep=keep, gate=ANY) for keep in KEEPS},
    **{f"compact/{drop:g}": Compact(gate=Gate(max_drop=drop, observed=True)) for drop in DROPS},
    **{f"leaky/{keep:g}": Lossless(keep=keep, gate=ANY) for keep in LEAKY_KEEPS},
}
LEAKY = 2000
"""Test samples that the leaky protocol calibrates, validates and reports on; the honest rows are told on them, too."""
ABOUT = (
    "Whole-file parameters; *lossless* is the most accurate model found of that size, *compact* the smallest whose"
    " validation top-1 falls by no more than the number behind it. {n} test samples, paired 95 % intervals of the"
    " change: of top-1 exact (with how many samples were won and lost), of the loss in nats. *Tempered*: both models"
    " with a temperature of their own, fitted on validation: a loss that falls only where it is not tempered is one of"
    " confidence. Latency: one sample a call, in turns with the original. *s*: of the whole run; collection, which the"
    " rows share, counts in each."
)
ABOUT_LEAKY = (
    f"*Leaky*: calibrated, chosen and reported on the same {LEAKY:,} test samples, as one must not. The honest"
    " rows are those from above, told on these samples; by how much the leaky change is above theirs is leakage. (Also"
    f" different: leaky plans were validated on {LEAKY:,} samples alone.)"
)


def _collected(bench: Workbench, leaky: bool) -> tuple[Session, float]:
    """Return the session that the rows of a protocol share, and the seconds that collecting took."""
    start, samples = time.perf_counter(), None
    if leaky:
        test = bench.samples(bench.entry.tests[0])
        part = test.subset(range(min(len(test), LEAKY)))
        samples = DataSources(data=part, validation=part, force_overlap=True)
    session = bench.opened(samples=samples)
    session.collect(session.metric(ANY)[0])
    return session, time.perf_counter() - start


def _original(bench: Workbench) -> tuple[Scores, Scores]:
    return Scores.of(bench.original, bench.samples(bench.entry.validation)), bench.once(original_on_test)


def _measure(bench: Workbench, name: str) -> Line:
    leaky = name.startswith("leaky")
    session, seconds = bench.once(_collected, leaky)
    start = time.perf_counter()
    result = bench.goal(session, GOALS[name])
    training = {prop.key: prop.value for prop in session.loaded.model.metadata_props}.get("training", "")
    data: Line = {
        "reason": result.reason, "seconds": seconds + time.perf_counter() - start, "leaky": leaky,
        "weights": {"sha256": bench.entry.sha256, "training": training}, "outcome": "made" if result else "nothing",
    }  # fmt: skip
    if not result:
        return data
    dense = sum(curve.dense.cost.parameters for curve in result.curves)
    data |= {
        "kept": result.after.parameters / result.before.parameters,
        "kept_factorable": result.plan.cost.parameters / dense if result.plan else 1.0,
        "bytes": [result.before.bytes, result.after.bytes], "macs": result.after.macs / result.before.macs,
        "latency": triple(result.latency.ratio) if result.latency else None,
    }  # fmt: skip
    runner, before = bench.runner(result.model), bench.once(_original)
    after = tuple(Scores.of(runner, bench.samples(s)) for s in (bench.entry.validation, bench.entry.tests[0]))
    parts = before[1].part(LEAKY), after[1].part(LEAKY)
    if leaky:  # the samples that it reports are all that it has
        return {**data, **controlled((parts[0],) * 2, (parts[1],) * 2)}
    return {**data, **controlled(before, after), "leaky_samples": compared(*parts)}


def controlled(before: Sequence[Scores], after: Sequence[Scores]) -> Line:
    """Return what there is to say of (validation, test): `compared` of the test, and tempered on validation."""
    temperatures = [before[0].temperature(), after[0].temperature()]
    tempered = [each[1].losses(t) for each, t in zip((before, after), temperatures, strict=True)]
    tops = [float(each[0].hits.mean()) for each in (before, after)]
    pair = compared(before[1], after[1])
    return {**pair, "tempered": means(*tempered), "temperatures": temperatures, "validation_top1": tops}


def _section(model: str, cells: Cells) -> list[str]:
    there = {name: cells[name] for name in GOALS if name in cells}
    made = {name: data for name, data in there.items() if data["outcome"] == "made"}
    honest = {name: data for name, data in made.items() if not data["leaky"]}
    leaky = {name: data for name, data in made.items() if data["leaky"]}
    text = [_weights(next(iter(there.values()))["weights"]), ""]
    if honest:
        first = next(iter(honest.values()))
        top, *losses = (number(first[key][0], 4) for key in ("top1", "loss", "tempered"))
        rows = [["original", "100 %", "100 %", "100 %", top, NONE, *losses, "1", NONE]]
        rows += [_row(name, data) for name, data in honest.items()]
        heads = (
            "",
            "kept",
            "of the factorable",
            "MACs",
            "top-1",
            "won, lost",
            "loss",
            "loss, tempered",
            "latency ×",
            "s",
        )
        text += [ABOUT.format(n=f"{first['n']:,}"), "", *table(heads, rows)]
    if leaky:
        first = next(iter(leaky.values()))
        rows = [["original", "100 %", number(first["top1"][0], 4), NONE, number(first["loss"][0], 4)]]
        for name, data in leaky.items():
            twin = name.replace("leaky", "lossless")
            rows += [_short(twin, {**honest[twin], **honest[twin]["leaky_samples"]})] if twin in honest else []
            rows += [_short(name, data)]
        text += [ABOUT_LEAKY, "", *table(("", "kept", "top-1", "won, lost", "loss"), rows)]
    reasons = [f"- {name}: {data['reason']}" for name, data in there.items() if name not in made]
    return [*text, *reasons, *([""] if reasons else [])]


def _weights(about: Line) -> str:
    untold = "a file given with `--model`, which does not say how it was trained"
    how = f"trained by the recipe in `models/`: `{about['training']}`" if about["training"] else untold
    return f"Weights: {how} (SHA-256 of the file: `{about['sha256'][:12]}`)."


def _short(name: str, data: Line) -> list[str]:
    won, lost = data["flips"]
    return [name.replace("/", " "), percent(data["kept"]), paired(data["top1"]), f"{won}, {lost}", paired(data["loss"])]


def _row(name: str, data: Line) -> list[str]:
    label, kept, top, flips, loss = _short(name, data)
    shares = [kept, percent(data["kept_factorable"]), percent(data["macs"])]
    latency = with_interval(data["latency"], 2) if data["latency"] else NONE
    return [label, *shares, top, flips, loss, paired(data["tempered"]), latency, f"{data['seconds']:.0f}"]


PART = Part(
    "paper", "The paper's reductions",
    lambda model, quick: [Cell(name, partial(_measure, name=name)) for name in (["lossless/0.3"] if quick else GOALS)],
    sections("paper", _section), CLASSIFIERS,
)  # fmt: skip
