"""Networks (`cnn`), the files of their weights (`checkpoint`), and trained networks at work (`classifier`)."""
