"""FER+: the votes of ten people on each image of FER2013."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from command_line import UserError, reading
from face_files.labels import SPLITS
from face_files.tables import decompressed, reading_whole, row_error

VOTE_COLUMNS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF")
# The labels of the first eight columns.
VOTE_LABELS = ("neutral", "happy", "surprise", "sad", "angry", "disgust", "fear", "contempt")


def load_votes(path: str | Path) -> dict[str, np.ndarray]:
    """Load FER+: for each image of FER2013, the votes of ten people, in the order of the rows of fer2013.csv.

    Args:
        path: fer2013new.csv, with the columns Usage and VOTE_COLUMNS; it may be compressed.

    Returns:
        For each split of FER2013, float32 (n, 10): the share of the votes for each of VOTE_COLUMNS ("NF": no face).

    Raises:
        UserError: There is no such file (the message says where to get it), or the file is not as described (the
            message names the line).

    Source: Barsoum, Zhang, Canton Ferrer and Zhang 2016, "Training Deep Networks for Facial Expression Recognition
    with Crowd-Sourced Label Distribution", https://arxiv.org/abs/1608.01041.
    """
    import pandas as pd

    with reading(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        Path(path).stat()
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: fer2013new.csv comes from https://github.com/microsoft/FERPlus")
    try:
        with reading_whole(Path(path)), open(path, "rb") as file:
            table = pd.read_csv(decompressed(Path(path), file))
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: votes must be a CSV; found {str(error).splitlines()[0]}: get it again") from error
    if missing := [name for name in ("Usage", *VOTE_COLUMNS) if name not in table]:
        raise UserError(
            f"{path}: the columns must be Usage, {', '.join(VOTE_COLUMNS)}; found none for {', '.join(missing)}"
        )
    counts = table[list(VOTE_COLUMNS)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
    total = counts.sum(axis=1, keepdims=True)
    wrong = ~table["Usage"].isin(SPLITS).to_numpy() | ~((counts >= 0).all(axis=1) & (total[:, 0] > 0))
    if wrong.any():
        row = int(wrong.argmax())
        found = ",".join(str(table[name][row]) for name in ("Usage", *VOTE_COLUMNS))
        raise row_error(path, row + 2, f"a row must name a split ({', '.join(SPLITS)}) and count votes", found)
    return {split: (counts / total)[(table["Usage"] == split).to_numpy()] for split in SPLITS}


def people_shares(votes: np.ndarray, emotions: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Say what share of people saw which emotion; votes for other emotions, "unknown" and "no face" do not count.

    Args:
        votes: float32 (n, 10), as `load_votes` gives them.
        emotions: Among VOTE_LABELS.

    Returns:
        float32 (n, emotions), rows summing to 1, or zeros where nobody saw any of the emotions; and bool (n,), whether
        one emotion has more votes than each of the others, than "unknown", and than "no face".
    """
    shares = votes[:, [VOTE_LABELS.index(emotion) for emotion in emotions]]
    no_emotion = votes[:, len(VOTE_LABELS) :].max(axis=1)
    second, first = np.sort(shares, axis=1)[:, -2:].T
    total = shares.sum(axis=1, keepdims=True)
    return shares / np.where(total > 0, total, 1), first > np.maximum(second, no_emotion)
