"""Pretraining methods."""
