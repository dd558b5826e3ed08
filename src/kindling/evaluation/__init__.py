"""Evaluation after training: predictions, statistics, and the files that `test` and `predict` write."""
