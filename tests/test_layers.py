"""Tests of who imports whom: the contracts in pyproject.toml, which import-linter checks on a copy of the project."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
PACKAGES = ("training", "recognition", "evaluation", "models", "face_files")
LINT_IMPORTS = shutil.which("lint-imports", path=Path(sys.executable).parent)


@pytest.fixture
def project(tmp_path):
    """A copy of the project, in which every module of the root is a package: import-linter knows packages only."""
    for module in ROOT.glob("*.py"):
        (tmp_path / module.stem).mkdir()
        shutil.copy(module, tmp_path / module.stem / "__init__.py")
    for package in PACKAGES:
        (tmp_path / package).mkdir()
        for module in (ROOT / package).glob("*.py"):
            shutil.copy(module, tmp_path / package)
    return tmp_path


def lint(project):
    """Check the contracts; return the finished process."""
    command, environment = [LINT_IMPORTS, "--no-cache", ROOT / "pyproject.toml"], {"PYTHONPATH": str(project)}
    return subprocess.run(command, cwd=project, env=os.environ | environment, capture_output=True, text=True)


def test_no_module_imports_upwards(project):
    done = lint(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Contracts: {len(CONFIG['contracts'])} kept, 0 broken." in done.stdout


def in_a_function(line):
    return f"\n\ndef _late():\n    {line}\n"


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("models/cnn.py", "import train_emotion_classifier"),
        ("models/cnn.py", in_a_function("import train_emotion_classifier")),
        ("models/checkpoint.py", "from training.run import RunRecord"),
        ("training/run.py", "import recognition.tracking"),
        ("recognition/tracking.py", in_a_function("from training import hosts")),
        ("load_and_process/__init__.py", in_a_function("from models.classifier import crop_box")),
        ("load_and_process/__init__.py", in_a_function("from crop_photographs import crop_dataset")),
        ("face_files/images.py", in_a_function("from load_and_process import resize_face")),
        ("command_line/__init__.py", in_a_function("import load_and_process")),
        ("drawn_faces/__init__.py", "from load_and_process import EMOTIONS"),
        ("evaluate_emotion_classifier/__init__.py", "import train_emotion_classifier"),
        ("recognition/detection.py", "from recognition import sources"),
        ("recognition/sources.py", in_a_function("from recognition.window import open_window")),
        ("training/hosts.py", "from training import faces"),
        ("evaluation/figures.py", in_a_function("from evaluation import pictures")),
        ("evaluation/predictions.py", in_a_function("from training.disturbances import MEASURED")),
        ("models/checkpoint.py", in_a_function("from models.classifier import crop_box")),
    ],
)
def test_an_import_upwards_is_found(project, module, line):
    path = project / module
    path.write_text(path.read_text() + line + "\n")
    done = lint(project)
    assert done.returncode == 1 and "BROKEN" in done.stdout, done.stdout + done.stderr
    name = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert re.search(rf"^-?\s*{re.escape(name)} ->", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_a_module_that_no_layer_names_is_found(project, package):
    (project / package / "utils.py").write_text("")
    done = lint(project)
    assert done.returncode == 1 and "utils" in done.stdout, done.stdout + done.stderr


def test_every_module_of_the_root_has_a_layer():
    named = [name for layer in CONFIG["contracts"][0]["layers"] for name in re.findall(r"\w+", layer)]
    found = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert sorted(named) == sorted(found) == sorted(CONFIG["root_packages"])
