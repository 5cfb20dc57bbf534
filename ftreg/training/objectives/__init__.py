"""Objectives: what a training run minimizes. Each is a file of its own and follows the protocol in ``base``."""
