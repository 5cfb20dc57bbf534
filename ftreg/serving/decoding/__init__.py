"""Decoding: loads the models of a deployment and generates completions with continuous batching."""
