"""Networks (`cnn`), the files of their weights (`checkpoint`), and trained networks at work (`classifier`)."""


def network_names() -> list[str]:
    """Return the names in `cnn.NETWORKS`, read from the file, since importing the networks takes seconds."""
    import ast  # here: Ctrl-C is quiet early in `python -m models.checkpoint`, which imports this package first
    from pathlib import Path

    tree = ast.parse(Path(__file__).with_name("cnn.py").read_text(encoding="utf-8"))
    networks = next(node for node in tree.body if isinstance(node, ast.AnnAssign) and node.target.id == "NETWORKS")
    return [name.id for part in ast.walk(networks.value) if isinstance(part, ast.Tuple) for name in part.elts]
