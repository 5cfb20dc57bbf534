"""Decoding: the engines of a deployment, and the batches in which they write answers."""
