"""The five networks (`cnn`) and the files their weights live in (`checkpoint`)."""
