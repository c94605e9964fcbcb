"""`apply`: repeat a saved plan's schemes and ranks on the model it was made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from onnx_lowrank.errors import DataError, PlanError
from onnx_lowrank.graph.files import spare
from onnx_lowrank.graph.scratch import scratch
from onnx_lowrank.options import Options
from onnx_lowrank.passes.factorize import rewrite
from onnx_lowrank.pipeline.loaded_model import DataSources, LoadedModel, read_samples
from onnx_lowrank.pipeline.number_formats import with_compensation
from onnx_lowrank.pipeline.post_quantize import PostQuantizer, settings_of
from onnx_lowrank.pipeline.provenance import stamp
from onnx_lowrank.pipeline.refit import refitted
from onnx_lowrank.pipeline.staging import checked, on_disk, publish
from onnx_lowrank.progress import Progress, steps_of
from onnx_lowrank.results.saved_plan import SavedChoice, SavedPlan, read_plan
from onnx_lowrank.runtime.runner import Runner
from onnx_lowrank.samples import Source, Split
from onnx_lowrank.schemes import Factors, among, by_name, ranks_of, shared_ranks
from onnx_lowrank.sensitivity import Decomposed, decompose_plain
from onnx_lowrank.sensitivity.decompose import shared_input_of
from onnx_lowrank.sensitivity.measure import calibrate
from onnx_lowrank.sensitivity.modes import mode_of
from onnx_lowrank.types import DENSE, OWN, SHARED, Choice, Cost, Form, Option, Plan, Ranks, Site
from onnx_lowrank.types.number_formats import EACH
from onnx_lowrank.version import __version__
from onnx_lowrank.weights.find import find_sites
from onnx_lowrank.weights.inventory import Inventory, RangeSamples


def apply(
    plan: SavedPlan | Path | str,
    model: onnx.ModelProto | Path | str,
    data: Source | None = None,
    options: Options | None = None,
    *,
    output: Path | str | None = None,
    validation: Source | None = None,
    progress: Progress | None = None,
    before_writing: Callable[[], None] | None = None,
) -> onnx.ModelProto:
    """Return the model with the plan's sites factored; with `output`, also write it, checked and loadable.

    `data` are the calibration samples, needed unless the plan came from the weights alone. Give the same `data` (and
    `validation`, if there was one) as the run that made the plan, and the same factors come out. Nothing is validated
    here: `compare` judges the result. The input is never overwritten; `before_writing` is called right before `output`
    is written, and what it raises leaves it as it was. Raises PlanError where plan and model do not belong together,
    DataError, ModelError.

    >>> from onnx_lowrank import Lossless, Gate, Options, SavedPlan, apply, optimize
    >>> from onnx_lowrank.demo import MODEL, demo_samples
    >>> goal = Lossless(keep=0.6, gate=Gate(max_drop=0.1))
    >>> options = Options(sensitivity="weights", refit=False, include=("7.weight",))
    >>> result = optimize(MODEL, demo_samples()["calibration"], goal, options)
    >>> again = apply(SavedPlan.of_result(result), MODEL)
    >>> again.graph == result.model.graph
    True
    """
    saved = plan if isinstance(plan, SavedPlan) else read_plan(Path(plan))
    options = _as_saved(saved, options or Options())
    loaded = LoadedModel.of(model, options.runtime)
    if output is not None:
        spare(Path(output), loaded.files)
    if loaded.sha256 != saved.model_sha256:
        raise PlanError(
            f"the plan was made for another model (sha256 {saved.model_sha256[:12]}…, this one has"
            f" {loaded.sha256[:12]}…): give the model it was made for"
        )
    inventory = _inventory(saved, loaded, options)
    progress = steps_of(progress)
    split = _samples(saved, loaded, data, validation, options, progress)
    if split is not None:
        inventory = replace(inventory, ranged=RangeSamples(split.calibration.feeds, options.runtime))
    quantizer = PostQuantizer(loaded, split.calibration.feeds if split is not None else (), options, progress)
    decomposed, inventory = _decomposed(saved, loaded, inventory, split, options, progress)
    chosen = _plan(saved, inventory, decomposed)
    factors = _factors(saved, loaded, inventory, split, chosen, decomposed, options)
    target = None if output is None else Path(output)
    with scratch(loaded.model) as place:
        if place is not None:
            place.keep = True
        factored = rewrite(loaded.model, inventory, chosen, factors, narrow=quantizer.active)
        rewritten = quantizer.on(factored, chosen.choices)
        _write(rewritten, chosen, loaded, options, target, before_writing)
    return rewritten


def _write(
    model: onnx.ModelProto,
    plan: Plan,
    loaded: LoadedModel,
    options: Options,
    target: Path | None,
    before_writing: Callable[[], None] | None,
) -> None:
    """Stamp a model, check and open it in a file, and put that in its place where there is one."""
    stamp(
        model, plan, version=__version__, goal="apply", options=options,
        sha256=loaded.sha256, warning="", then=settings_of(options),
    )  # fmt: skip
    with on_disk(model, target, options) as stage:
        checked(stage.path, loaded)
        Runner(stage.path, runtime=options.runtime)
        if target is not None:
            publish(stage, loaded, before_writing)


def _as_saved(saved: SavedPlan, options: Options) -> Options:
    """Return the options under which the plan was made, but for where and with how much memory it runs."""
    return replace(
        options,
        sensitivity=saved.sensitivity,
        exponents=saved.exponents,
        objective=saved.objective,
        seed=saved.seed,
        rank_multiple=saved.rank_multiple,
        refit=saved.refit,
        then=saved.then,
        shared_input=saved.shared_input,
        outputs=saved.outputs,
        groups=saved.groups,
        bits=(32,),  # the plan says it of each weight
    )


def _inventory(saved: SavedPlan, loaded: LoadedModel, options: Options) -> Inventory:
    """Return the sites that factors have to be made of: all where gradients are run, as all of them share a run."""
    rounds = any(choice.storage != OWN for choice in saved.choices)
    inventory = find_sites(loaded.model, multiple=saved.rank_multiple, rigid=rounds).sharing(options.shares)
    if mode_of(options).needs_gradients:
        return inventory
    names = {choice.weight for choice in saved.choices}
    return replace(inventory, sites=tuple(site for site in inventory.sites if site.weight in names))


def _samples(
    saved: SavedPlan,
    loaded: LoadedModel,
    data: Source | None,
    validation: Source | None,
    options: Options,
    progress: Progress,
) -> Split | None:
    """Return the samples, None where the plan needs none. Raises DataError where they are missing."""
    if not saved.needs_data:
        return None
    if data is None:
        sensitivity = f"--sensitivity {saved.sensitivity}{', --refit' if saved.refit else ''}"
        what = (
            f"factors depend on the inputs ({sensitivity})" if saved.factors_need_data else "int8 ranges come from them"
        )
        raise DataError(f"this plan's {what}: give the calibration samples with --data")
    return read_samples(loaded, DataSources(data=data, validation=validation), options, progress)


def _decomposed(
    saved: SavedPlan,
    loaded: LoadedModel,
    inventory: Inventory,
    split: Split | None,
    options: Options,
    progress: Progress,
) -> tuple[Decomposed, Inventory]:
    """Return the factors of all weights, and the inventory that rounds weights as the plan was made."""
    if split is None or not saved.factors_need_data:
        return decompose_plain(inventory.factorable, multiple=saved.rank_multiple), inventory
    done = calibrate(loaded, split.calibration, inventory.factorable, options, progress, saved.divergence)
    formats = {name for choice in saved.choices for name in choice.storage.split(EACH)}
    return done.decomposed, with_compensation(loaded, inventory, options, done, formats, progress)


def _factors(
    saved: SavedPlan,
    loaded: LoadedModel,
    inventory: Inventory,
    split: Split | None,
    plan: Plan,
    decomposed: Decomposed,
    options: Options,
) -> Mapping[tuple[str, str], Factors]:
    """Return the factors of a plan: as decomposed, or refitted."""
    if split is None or not saved.refit:
        return decomposed.factors
    most, memory = saved.refitted_on, options.memory
    return refitted(loaded, split, inventory, plan, decomposed.factors, options.runtime, most=most, memory=memory)


def _plan(saved: SavedPlan, inventory: Inventory, decomposed: Decomposed) -> Plan:
    sites = {site.weight: site for site in inventory.sites}
    chosen = (
        _choice(choice, sites.get(choice.weight), inventory, decomposed, saved.rank_multiple)
        for choice in saved.choices
    )
    return Plan(tuple(chosen), "applied")


def _choice(
    choice: SavedChoice, site: Site | None, inventory: Inventory, decomposed: Decomposed, multiple: int
) -> Choice:
    if site is None or site.shape != choice.shape:
        have = "no such weight that can be factored" if site is None else f"{site.shape}"
        raise PlanError(f"the plan factors {choice.weight!r} of shape {choice.shape}, and the model has {have}")
    possible = (*inventory.formats(site), *inventory.arithmetic(site))
    if {*choice.storage.split(EACH)} - {OWN, *(number.name for number in possible)}:
        raise PlanError(f"the plan stores {choice.weight!r} as {choice.storage!r}, which is not possible here")
    curve = next((c for c in decomposed.curves if c.site == choice.site), None)
    cost = Cost(parameters=choice.parameters)
    if choice.scheme == DENSE and choice.storage != OWN and (site.rigid or curve is not None):
        return Choice(choice.site, choice.weight, Option(Form(storage=choice.storage), cost, loss=choice.loss))
    if curve is None or (choice.site, choice.scheme) not in decomposed.factors:
        raise PlanError(f"the plan factors {choice.weight!r} by {choice.scheme!r}, which is not possible here")
    if not among(choice.ranks, _ranks(choice, site, inventory, multiple)):
        rank = "x".join(map(str, choice.ranks))
        raise PlanError(f"the plan gives {choice.weight!r} rank {rank}, which is none of those that save here")
    form = Form(choice.scheme, choice.ranks, choice.storage, interpolative=choice.interpolative)
    return Choice(choice.site, choice.weight, Option(form, cost, loss=choice.loss, shared_input=choice.shared_input))


def _ranks(choice: SavedChoice, site: Site, inventory: Inventory, multiple: int) -> list[Ranks]:
    """Return the ranks that the choice's scheme offers. Raises PlanError for another shared input."""
    if choice.scheme != SHARED:
        return ranks_of(by_name(choice.scheme), site, multiple)
    shared = shared_input_of(inventory).get(site.id)
    if shared is None or shared.members != choice.shared_input:
        raise PlanError(f"the plan gives {choice.weight!r} another shared input than it has here: save the plan again")
    return shared_ranks(shared, multiple)
