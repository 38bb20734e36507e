"""Recognition: `EmotionRecognizer` for use from Python, and the parts that it and the live script are made of."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recognition.recognizer import EmotionRecognizer

__all__ = ["EmotionRecognizer"]


def __getattr__(name: str) -> Any:
    """Import the recognizer when it is asked for, so that a part of this package is imported without the others."""
    if name != "EmotionRecognizer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from recognition.recognizer import EmotionRecognizer

    return EmotionRecognizer
