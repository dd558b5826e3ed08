"""Predictions, metrics files and the HTML report of a trained model. Nothing here runs while training."""
