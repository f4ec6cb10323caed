"""Making and measuring classifiers: rows, targets, fine-tuning, export, evaluation."""
