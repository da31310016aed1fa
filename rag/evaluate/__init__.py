"""Evaluation: data sets, measures, significance, reports."""

from rag.evaluate.build import collection_of
from rag.evaluate.datasets import Dataset, find
from rag.evaluate.report import Comparison, Report, RunResult
from rag.evaluate.runner import Runnable, evaluate

__all__ = ["Comparison", "Dataset", "Report", "RunResult", "Runnable", "collection_of", "evaluate", "find"]
