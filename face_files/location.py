"""Where a data set lies: the file or the folder that a path stands for."""

import contextlib
import os
import shlex
from pathlib import Path

from command_line import UserError, reading
from face_files.images import subfolders
from face_files.labels import SPLIT_FOLDERS, canonical_name
from face_files.tables import CSV_NAMES, CSV_SUFFIXES, list_parquet

FER2013_CSV = Path(__file__).resolve().parents[1] / "fer2013" / "fer2013.csv"
TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar")
ARCHIVE_SUFFIXES = (*TAR_SUFFIXES, ".zip", ".rar", ".7z")  # named where they lie in place of the data
HOW_TO_GET_FER2013 = """\
FER2013 comes from Kaggle, which asks for a login; either form will do (see fer2013/README.md):
  images  kaggle datasets download msambare/fer2013 -p fer2013 --unzip
  CSV     kaggle competitions download -p fer2013 -f icml_face_data.csv \
challenges-in-representation-learning-facial-expression-recognition-challenge
Without it, `--dataset drawn` works at once, on drawn faces."""


def find_source(dataset_path: str | Path) -> Path:
    """Find the CSV, or the folder with train/ in it, that `dataset_path` stands for.

    Args:
        dataset_path: A CSV; a folder that is the data set, holds its CSV, or has one subfolder that is or holds it.
            FER2013_CSV, where it is missing, stands for its folder.

    Returns:
        An existing file or folder.

    Raises:
        UserError: Nothing is at `dataset_path` (where FER2013 is missing, the hint says how to get it); the file
            is of another kind; or the folder holds no data set, or several.
    """
    path = Path(os.path.expanduser(dataset_path))
    with reading(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.stat()
    if path.is_file():
        suffixes = (*CSV_SUFFIXES, ".parquet")
        if not path.name.lower().endswith(suffixes):
            raise UserError(
                f"{path}: a data set must be a folder or end in {', '.join(suffixes)}; found "
                f"{path.suffix or 'no suffix'}: unpack it, and name what was inside"
            )
        return path
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: a data set must be a file or a folder; found a pipe or a device: name a file")
    is_default = os.path.realpath(path) == os.path.realpath(FER2013_CSV) and not path.exists()
    folder = path.parent if is_default else path
    if folder.is_dir():
        in_folder = _data_in(folder)
        found = [in_folder] if in_folder else [data for child in subfolders(folder) if (data := _data_in(child))]
        if len(found) == 1:
            return found[0]
        if packed := [] if found else [file for file in _files(folder) if file.name.lower().endswith(ARCHIVE_SUFFIXES)]:
            is_tar = packed[0].name.lower().endswith(TAR_SUFFIXES)
            remedy = shlex.join(["tar", "xf", str(packed[0]), "-C", str(folder)]) if is_tar else "unpack it there"
            raise UserError(f"{path}: the data must be unpacked; found {packed[0].name} in its folder: {remedy}")
        if found or folder == path:
            raise UserError(
                f"{path}: a folder must be or hold one data set, fer2013.csv or train/EMOTION/*; found "
                f"{len(found) or 'none'}: name the one to read"
            )
    if path.name in CSV_NAMES:
        raise UserError(f"{path} does not exist: get FER2013, or use `drawn`", hint=HOW_TO_GET_FER2013)
    raise UserError(f"{path} does not exist: correct the path, or use `drawn` for drawn faces")


def _data_in(folder: Path) -> Path | None:
    """Return the CSV in `folder`, or `folder` itself if it has a split's subfolder or parquet files."""
    for name in CSV_NAMES:
        if (folder / name).is_file():
            return folder / name
    splits = [child for child in subfolders(folder) if canonical_name(child.name, SPLIT_FOLDERS)]
    return folder if splits or list_parquet(folder) else None


def _files(folder: Path) -> list[Path]:
    """Return the files in `folder`, without hidden ones."""
    with reading(folder):
        return [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
