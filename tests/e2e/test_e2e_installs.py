"""Other people's programs with this package in them, each in an environment of its own: `pytest -m installs -n0`.

Olive, pre-commit, the action's installation, the Dockerfile's steps. Needs pip and several gigabytes; with
ONNX_LOWRANK_VENVS=FOLDER what is installed is kept there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
import yaml
from action import ROOT, run_step

from onnx_lowrank.demo import MODEL, demo_files
from onnx_lowrank.integrations import OLIVE_PACKAGE_CONFIG
from onnx_lowrank.passes.node_marks import METADATA_KEY

pytestmark = pytest.mark.installs
OLIVE = ("olive-ai==0.13.0", "requests")
"""requests: Olive 0.13 imports it and does not ask for it."""
ALONE = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
ENVIRONMENT = {name: text for name, text in os.environ.items() if name not in ALONE}
QUICK = {"threads": 1, "sensitivity": "weights"}


def called(command: Sequence[str | Path], folder: Path, **more: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder, env=ENVIRONMENT | more, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with this working tree as its only commit."""
    folder = tmp_path_factory.mktemp("tree")
    listed = called(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], ROOT)
    for name in (each for each in listed.split("\0") if each and (ROOT / each).is_file()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    commit(folder)
    return folder


def commit(folder: Path) -> None:
    called(["git", "init", "-q"], folder)
    called(["git", "add", "-A"], folder)
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    called(["git", *author, "commit", "-q", "--no-verify", "-m", "all"], folder)


@pytest.fixture(scope="module")
def olive(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment with Olive and this package."""
    kept = os.environ.get("ONNX_LOWRANK_VENVS")
    folder = (Path(kept) if kept else tmp_path_factory.mktemp("venvs")).resolve() / OLIVE[0].replace("==", "-")
    if not (folder / "bin" / "olive").exists():
        called([sys.executable, "-m", "venv", "--clear", folder], tree)
        called([folder / "bin/pip", "install", "--quiet", *OLIVE], tree)
    called([folder / "bin/pip", "install", "--quiet", tree], tree)
    called([folder / "bin/pip", "install", "--quiet", "--no-deps", "--force-reinstall", tree], tree)
    return folder / "bin"


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    for name, content in demo_files().items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def olive_run(olive: Path, folder: Path, package_config: Path, *passes: dict[str, object]) -> tuple[bytes, str]:
    """Return the model that `olive run` makes of the demo, and what it logs."""
    config = {
        "input_model": {"type": "OnnxModel", "model_path": "demo.onnx"},
        "passes": {f"step{number}": each for number, each in enumerate(passes)},
        "output_dir": "out",
        "cache_dir": "cache",
        "log_severity_level": 1,
    }
    (folder / "run.json").write_text(json.dumps(config), encoding="utf-8")
    command = [olive / "olive", "run", "--config", "run.json", "--package-config", package_config]
    logged = called(command, folder, OLIVE_DISABLE_TELEMETRY="1")
    return (folder / "out" / "model.onnx").read_bytes(), logged


def lowrank(**settings: object) -> dict[str, object]:
    return {"type": "OnnxLowRank", "data": "calibration.npz", "validation": "validation.npz", **QUICK, **settings}


def test_olive_makes_a_model_that_is_smaller_and_certified(olive: Path, demo: Path):
    made, logged = olive_run(olive, demo, OLIVE_PACKAGE_CONFIG, lowrank(max_drop=0.01))
    assert len(made) < MODEL.stat().st_size / 4
    assert "certified: top1" in logged
    record = {entry.key: entry.value for entry in onnx.load_from_string(made).metadata_props}
    certificate = json.loads(record[METADATA_KEY])["certificate"]
    assert (certificate["word"], certificate["allowed"], certificate["samples"]) == ("certified", 0.01, 2000)
    told = json.loads((demo / "out" / "model_config.json").read_text("utf-8"))["config"]["model_attributes"]
    assert told["onnx_lowrank"] == {"file_sha256": hashlib.sha256(made).hexdigest(), **certificate}


def test_olive_keeps_the_model_where_nothing_passes(olive: Path, demo: Path):
    made, logged = olive_run(olive, demo, OLIVE_PACKAGE_CONFIG, lowrank(max_drop=0.0001))
    assert made == MODEL.read_bytes()
    assert "OnnxLowRank leaves the model as it is: 2,000 validation samples cannot certify" in logged


def test_olive_runs_it_behind_a_pass_of_its_own(olive: Path, demo: Path):
    code = (
        "import json; from onnx_lowrank.integrations.olive import package_config; print(json.dumps(package_config()))"
    )
    done = subprocess.run(
        [str(olive / "python"), "-c", code], cwd=demo, env=ENVIRONMENT, stdout=subprocess.PIPE, check=True
    )
    (demo / "both.json").write_bytes(done.stdout)
    first: dict[str, object] = {"type": "OnnxPeepholeOptimizer"}
    made, logged = olive_run(olive, demo, demo / "both.json", first, lowrank(keep=0.5))
    assert "onnxpeepholeoptimizer finished" in logged
    assert len(made) < MODEL.stat().st_size * 0.55


def test_pre_commit_lets_in_what_holds_and_nothing_else(tree: Path, demo: Path):
    home = {"PRE_COMMIT_HOME": str(demo / "pre-commit")}
    words = ["demo.onnx", "small.onnx", "--data=test.npz", "--threads=1"]
    hook = {"id": "onnx-lowrank-compare", "args": words, "verbose": True}
    repository = {"repo": str(tree), "rev": called(["git", "rev-parse", "HEAD"], tree).strip(), "hooks": [hook]}
    (demo / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [repository]}), encoding="utf-8")
    (demo / ".gitignore").write_text("pre-commit\n", encoding="utf-8")
    shutil.copy(MODEL, demo / "small.onnx")
    commit(demo)
    run = [sys.executable, "-m", "pre_commit", "run", "--files", "small.onnx"]
    assert "CERTIFIED" in called(run, demo, **home)
    model = onnx.load(MODEL)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(
        -onnx.numpy_helper.to_array(model.graph.initializer[0]), model.graph.initializer[0].name
    ))  # fmt: skip
    onnx.save(model, demo / "small.onnx")
    called(["git", "add", "small.onnx"], demo)
    refused = subprocess.run(run, cwd=demo, env=ENVIRONMENT | home, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "FAILED" in refused.stdout
    assert "exit code: 3" in refused.stdout
    untouched = [*run[:-1], ".gitignore"]
    assert "no files to check" in called(untouched, demo, **home)


def test_the_action_installs_the_tree(tree: Path, tmp_path: Path):
    known = {
        "steps.python.outputs.python-path": sys.executable, "github.action_path": str(tree),
        "runner.temp": str(tmp_path),
    }  # fmt: skip
    done = run_step("install", tmp_path, {"extras": "images"}, known)
    assert done.code == 0, done.printed
    python = done.outputs["python"]
    assert "onnx-lowrank" in called([python, "-m", "onnx_lowrank", "--version"], tmp_path)
    called([python, "-c", "import PIL"], tmp_path)


def test_the_steps_of_the_dockerfile(tree: Path, tmp_path: Path):
    """What RUN says, on what COPY copies and .dockerignore lets in; no image is built."""
    text = re.sub(r"\\\n\s*", "", (tree / "Dockerfile").read_text("utf-8"))
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    let_in = {line[1:] for line in (tree / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    source, venv = tmp_path / "src", tmp_path / "venv"
    source.mkdir()
    copied = [words.split()[:-1] for kind, words in steps if kind == "COPY" and "--from" not in words]
    for name in (each for names in copied for each in names):
        assert name in let_in
        copy = shutil.copytree if (tree / name).is_dir() else shutil.copy
        copy(tree / name, source / name)
    runs = [words for kind, words in steps if kind == "RUN"]
    assert len(runs) == 1
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    called(["sh", "-c", runs[0]], source, VENV=str(venv), EXTRAS="[images]", PATH=path)
    entry = json.loads(next(words for kind, words in steps if kind == "ENTRYPOINT"))
    assert "--from=build /opt/onnx-lowrank /opt/onnx-lowrank" in text
    command = [word.replace("/opt/onnx-lowrank", str(venv)) for word in entry]
    assert "optimize" in called([*command, "--help"], tmp_path)
    called([venv / "bin/python", "-c", "import PIL"], tmp_path)
