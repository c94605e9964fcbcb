"""Training of the zoo's networks: it can be interrupted, and what is exported is what was trained. Needs torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from builders import run

torch = pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module


@pytest.fixture
def tiny(module: Callable[[str], Any], tmp_path: Path) -> SimpleNamespace:
    """A network with everything that has a state (batch norm, dropout, momentum, augmentation), and 40 images."""
    training, augment = module("models.networks.training"), module("models.networks.augment")
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(40, 1, 28, 28, generator=generator), torch.arange(40) % 10
    return SimpleNamespace(
        training=training,
        make=lambda: module("models.networks.vgg").vgg(((4,), (6,)), head=8),
        data=training.Data(inputs=images, labels=labels, augment=augment.shifted_flipped_erased),
        recipe=training.Recipe(epochs=3, batch=16, rate=0.05, smoothing=0.1),
        file=tmp_path / "deep" / "net.pt",
    )


def weights(course: Any) -> dict[str, np.ndarray]:
    return {name: each.detach().numpy() for name, each in course.network.state_dict().items()}


def assert_same(first: Any, second: Any) -> None:
    for name, each in weights(first).items():
        np.testing.assert_array_equal(each, weights(second)[name], err_msg=name)


def differ(first: Any, second: Any) -> bool:
    return any(not np.array_equal(each, weights(second)[name]) for name, each in weights(first).items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_interrupted_training_gives_the_weights_of_uninterrupted(tiny: SimpleNamespace, optimizer: Any):
    recipe = tiny.training.Recipe(epochs=3, batch=16, optimizer=optimizer, rate=0.01)
    whole = tiny.training.train(tiny.make, tiny.data, recipe, None)
    stopped = tiny.training.train(tiny.make, tiny.data, recipe, tiny.file, until=1)
    assert differ(stopped, whole)
    assert [(each.about()["epochs"], each.about()["epochs_done"]) for each in (stopped, whole)] == [(3, 1), (3, 3)]
    torch.rand(7)
    tiny.training.train(tiny.make, tiny.data, recipe, tiny.file, until=2)
    assert_same(tiny.training.train(tiny.make, tiny.data, recipe, tiny.file), whole)


def test_a_finished_network_is_only_read(tiny: SimpleNamespace):
    first = tiny.training.train(tiny.make, tiny.data, tiny.recipe, tiny.file)
    content = tiny.file.read_bytes()
    assert_same(tiny.training.train(tiny.make, tiny.data, tiny.recipe, tiny.file), first)
    assert tiny.file.read_bytes() == content


def test_a_checkpoint_of_another_recipe_or_of_other_data_is_refused(tiny: SimpleNamespace, module: Any):
    error = module("models.fetch").RecipeError
    tiny.training.train(tiny.make, tiny.data, tiny.recipe, tiny.file, until=1)
    other = tiny.training.Recipe(epochs=4, batch=16, rate=0.05, smoothing=0.1)
    with pytest.raises(error, match=r"net\.pt was trained with epochs 3: delete it, or train as it was"):
        tiny.training.train(tiny.make, tiny.data, other, tiny.file)
    moved = tiny.training.Data(inputs=tiny.data.inputs * 0.5, labels=tiny.data.labels, augment=tiny.data.augment)
    with pytest.raises(error, match=r"net\.pt was trained with data [0-9a-f]{64}: delete it"):
        tiny.training.train(tiny.make, moved, tiny.recipe, tiny.file)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None], ids=["empty", "other", "cut"])
def test_a_damaged_checkpoint_is_refused(tiny: SimpleNamespace, module: Any, content: bytes | None):
    tiny.training.train(tiny.make, tiny.data, tiny.recipe, tiny.file, until=1)
    tiny.file.write_bytes(tiny.file.read_bytes()[:-400] if content is None else content)
    with pytest.raises(module("models.fetch").RecipeError, match=r"net\.pt is no checkpoint, or a damaged one"):
        tiny.training.train(tiny.make, tiny.data, tiny.recipe, tiny.file)


def test_a_checkpoint_that_could_not_be_written_leaves_the_one_before(tiny: SimpleNamespace, monkeypatch: Any):
    tiny.training.train(tiny.make, tiny.data, tiny.recipe, tiny.file, until=1)
    content = tiny.file.read_bytes()

    def full(state: Any, file: Any) -> None:
        file.write(b"half of it")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        tiny.training.train(tiny.make, tiny.data, tiny.recipe, tiny.file)
    assert tiny.file.read_bytes() == content


def test_fewer_samples_than_a_batch_are_refused(tiny: SimpleNamespace, module: Any):
    recipe = tiny.training.Recipe(epochs=1, batch=41)
    with pytest.raises(module("models.fetch").RecipeError, match="40 samples do not fill a batch of 41"):
        tiny.training.train(tiny.make, tiny.data, recipe, None)


def test_augmentation_keeps_the_shape_and_blacks_out_half_of_the_images(module: Callable[[str], Any]):
    torch.manual_seed(0)
    whole = torch.ones(2000, 1, 40, 40)
    shifted = module("models.networks.augment").shifted_flipped_erased(whole)
    assert shifted.shape == whole.shape
    assert set(shifted.unique().tolist()) == {0.0, 1.0}
    black = (shifted[:, 0, 2:-2, 2:-2] == 0).flatten(1).sum(1)  # shifts blacken two pixels from the edge at most
    assert 0.4 < (black > 0).float().mean() < 0.55
    assert int(black.max()) <= 12 * 12


def test_only_known_words_are_dropped(module: Callable[[str], Any]):
    torch.manual_seed(0)
    tokens = torch.arange(12).repeat(500, 1)
    dropped = module("models.networks.augment").words_dropped(tokens, unknown=1, share=0.25)
    assert (dropped[:, :2] == tokens[:, :2]).all()
    changed = dropped != tokens
    assert (dropped[changed] == 1).all()
    assert changed[:, 2:].float().mean() == pytest.approx(0.25, abs=0.02)


def networks(module: Callable[[str], Any]) -> dict[str, Any]:
    transformer = module("models.networks.transformer")
    return {
        "resnext50": module("models.networks.resnext").resnext,
        "vgg": module("models.networks.vgg").vgg,
        "vit": transformer.VisionTransformer,
    }


PARAMETERS = {"resnext50": 22_991_562, "vgg": 4_963_538, "vit": 3_179_018}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(module: Callable[[str], Any], name: str):
    assert sum(each.numel() for each in networks(module)[name]().parameters()) == PARAMETERS[name]


SMALL: dict[str, dict[str, Any]] = {
    "resnext50": {"depths": (1, 1)},
    "vgg": {"stages": ((4,), (8, 8)), "head": 16},
    "vit": {"width": 16, "depth": 2, "heads": 2, "patch": 14},
}


@pytest.mark.parametrize("name", SMALL)
def test_the_exported_network_is_the_trained_one_for_any_batch(module: Callable[[str], Any], name: str):
    torch.manual_seed(3)
    network = networks(module)[name](**SMALL[name])
    images = torch.rand(5, 1, 28, 28)
    network.train()(images)  # so that batch norms have statistics of their own
    model = module("models.trained").exported_classifier(network, {"epochs": 1})
    assert [each.version for each in model.opset_import if not each.domain] == [17]
    for each, axes in ((model.graph.input[0], 4), (model.graph.output[0], 2)):
        shape = each.type.tensor_type.shape.dim
        assert (len(shape), shape[0].dim_param) == (axes, "batch")
    assert (model.graph.input[0].name, model.graph.output[0].name) == ("input", "logits")
    assert '"epochs": 1' in next(each.value for each in model.metadata_props if each.key == "training")
    with torch.no_grad():
        expected = network(images).numpy()
    for count in (1, 5):
        found = run(model, {"input": images[:count].numpy()})["logits"]
        np.testing.assert_allclose(found, expected[:count], rtol=1e-4, atol=1e-5)


def test_an_export_that_computes_something_else_is_refused(module: Callable[[str], Any], monkeypatch: Any):
    trained = module("models.trained")

    def louder(*arguments: Any, **changes: Any) -> onnx.ModelProto:
        return real(*arguments, **changes) + 1

    real = trained._run
    monkeypatch.setattr(trained, "_run", louder)
    network = networks(module)["vgg"](**SMALL["vgg"])
    with pytest.raises(module("models.fetch").RecipeError, match=r"the exported network is off by 1 from torch's"):
        trained.exported_classifier(network, {})


def test_a_text_is_worth_the_same_however_it_is_filled_up(module: Callable[[str], Any]):
    torch.manual_seed(5)
    network = module("models.networks.transformer").TextTransformer(30, 12, width=16, heads=2).eval()
    texts = [torch.randint(1, 30, (count,)) for count in (3, 7, 12)]
    filled = torch.zeros(3, 12, dtype=torch.long)
    for row, text in zip(filled, texts, strict=True):
        row[: len(text)] = text
    with torch.no_grad():
        together, alone = network(filled), torch.cat([network(text[None]) for text in texts])
    np.testing.assert_allclose(together.numpy(), alone.numpy(), rtol=1e-4, atol=1e-5)
    axes = {"tokens": {0: "batch", 1: "sequence"}, "logits": {0: "batch"}}
    model = module("models.trained").exported(network, {}, filled[:, :8], name="tokens", axes=axes)
    for text, expected in zip(texts, alone.numpy(), strict=True):
        found = run(model, {"tokens": text[None].numpy()})["logits"]
        np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "vgg", "vit", "text"])
def test_a_network_that_is_to_remember_has_no_dropout_and_is_exported(module: Callable[[str], Any], kind: str):
    torch.manual_seed(7)
    network = module("models.networks.memorising").network_of(kind, 30, 12)
    assert all(each.p == 0 for each in network.modules() if isinstance(each, torch.nn.Dropout))
    inputs = torch.randint(1, 30, (5, 12)) if kind == "text" else torch.rand(5, 1, 28, 28)
    with torch.no_grad():
        np.testing.assert_array_equal(network.eval()(inputs).shape, (5, 2 if kind == "text" else 10))
    if kind != "text":
        module("models.trained").exported_classifier(network, {})


def test_every_text_is_learned_once_an_epoch_with_others_of_its_length(module: Callable[[str], Any]):
    torch.manual_seed(11)
    lengths = torch.randint(1, 60, (3000,))
    texts = (torch.arange(60) < lengths[:, None]).long()
    batches = module("models.networks.memorising")._batches(texts, 20)
    assert sorted(torch.cat(batches).tolist()) == list(range(3000))
    filled = sum(int(lengths[each].max()) * len(each) for each in batches)
    assert filled < 1.15 * int(lengths.sum())
    longest = [int(lengths[each].max()) for each in batches]
    assert longest != sorted(longest)
