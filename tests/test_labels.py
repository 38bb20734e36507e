"""Tests of face_files.labels."""

from face_files.labels import EMOTION_FOLDERS, EMOTIONS, SPLIT_FOLDERS, SPLITS


def test_emotions_are_fer2013s_labels_in_order():
    assert EMOTIONS == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    assert tuple(EMOTION_FOLDERS) == EMOTIONS
    assert tuple(SPLIT_FOLDERS) == SPLITS
