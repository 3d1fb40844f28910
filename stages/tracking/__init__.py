"""Metrics, datasets, tables and provenance of every run, delivered to MLflow without stopping a stage."""

from stages.tracking.start import start_tracker
from stages.tracking.tracker import Tracker

__all__ = ["Tracker", "start_tracker"]
