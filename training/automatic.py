"""What "auto" stands for in the settings of a training run: it depends on the network, the data and the machine."""

import argparse
from pathlib import Path

import keras

EPOCHS, EPOCHS_DRAWN = 80, 40
SMALL = ("tiny_XCEPTION", "mini_XCEPTION")


def resolve_auto(args: argparse.Namespace) -> argparse.Namespace:
    """Replace "auto" in the settings of a run by what suits its network and its data.

    Args:
        args: As the training script's flags give them; changed, and returned.
    """
    args.output_dir = choose_output_dir(args.output_dir, args.dataset)
    args.epochs = choose_epochs(args.epochs, args.dataset)
    args.augmentation = choose_augmentation(args.augmentation, args.network)
    args.disturbances = choose_disturbances(args.disturbances, args.network)
    args.teacher_share = choose_teacher_share(args.teacher_share, args.network)
    args.precision = choose_precision(args.precision, args.network)
    return args


def choose_output_dir(wanted: str | Path, data: str | Path) -> Path:
    """Resolve "auto": networks of drawn faces do not lie beside those that come trained, which know people."""
    if str(wanted) != "auto":
        return Path(wanted)
    models = Path(__file__).resolve().parents[1] / "models"
    return models / "drawn" if str(data) == "drawn" else models


def choose_epochs(wanted: int | str, data: str | Path) -> int:
    """Resolve "auto": drawn faces are learnt in fewer epochs."""
    if wanted != "auto":
        return wanted
    return EPOCHS_DRAWN if str(data) == "drawn" else EPOCHS


def choose_augmentation(wanted: float | str, name: str) -> float:
    """Resolve "auto": thin networks underfit and get weaker transforms.  Strengths tried: docs/experiments.md."""
    if wanted != "auto":
        return wanted
    return {"tiny_XCEPTION": 0.7, "mini_XCEPTION": 1.0}.get(name, 1.4)


def choose_disturbances(wanted: float | str, name: str) -> float:
    """Resolve "auto": small networks have less capacity, so fewer of their faces are disturbed."""
    if wanted != "auto":
        return wanted
    return 0.15 if name in SMALL else 0.3


def choose_teacher_share(wanted: float | str, name: str) -> float:
    """Resolve "auto": 0.9 for small networks; larger networks lose accuracy with so much, and get 0.5."""
    if wanted != "auto":
        return wanted
    return 0.9 if name in SMALL else 0.5


def choose_precision(wanted: str, name: str) -> str:
    """Resolve "auto": mixed_bfloat16 where TensorFlow runs on a processor that multiplies bfloat16, else float32.

    Such a processor lists `avx512_bf16` or `amx_bf16` among its flags in Linux's /proc/cpuinfo.  Accelerators, other
    systems and the JAX backend stay at float32 unless asked, and so do tiny_XCEPTION and mini_XCEPTION: float32
    was the faster for them where it was measured (docs/scaling.md).
    """
    if wanted != "auto":
        return wanted
    if name in SMALL or keras.backend.backend() != "tensorflow" or keras.distribution.list_devices("gpu"):
        return "float32"
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "float32"
    return "mixed_bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"
