"""The names in data sets: emotions and splits, the numbers that stand for them, the spellings of their folders."""

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # FER2013's labels 0 to 6
WITH_CONTEMPT = (*EMOTIONS, "contempt")  # label 7 of FER+ and CK+
SPLITS = ("Training", "PublicTest", "PrivateTest")

EMOTION_FOLDERS = {  # the spellings in use
    "angry": ("angry", "anger"),
    "disgust": ("disgust", "disgusted"),
    "fear": ("fear", "fearful", "afraid", "scared"),
    "happy": ("happy", "happiness", "joy"),
    "sad": ("sad", "sadness"),
    "surprise": ("surprise", "surprised"),
    "neutral": ("neutral",),
}
SPLIT_FOLDERS = {
    "Training": ("train", "training"),
    "PublicTest": ("validation", "valid", "val", "publictest"),  # training watches this split
    "PrivateTest": ("test", "testing", "privatetest"),  # used once, at the end
}


def canonical_name(name: str, spellings: dict[str, tuple[str, ...]]) -> str | None:
    """Return the emotion or the split that a folder's name means.

    Args:
        name: In any spelling of `spellings`, capital or small.
        spellings: EMOTION_FOLDERS or SPLIT_FOLDERS.

    Returns:
        A key of `spellings`, or None.
    """
    return next((key for key, names in spellings.items() if name.lower() in names), None)
