"""Graphs from text, without a language model."""
