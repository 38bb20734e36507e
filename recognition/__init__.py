"""The parts of the live script: they detect and track faces, name emotions, and draw, record and show pictures."""
