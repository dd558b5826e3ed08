"""Run folders: metadata, metrics, checkpoints, signatures, and the tables and plots made from them; no training."""
