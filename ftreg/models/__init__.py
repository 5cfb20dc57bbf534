"""Model folders in Hugging Face's layout: loading them, and reading and writing them tensor by tensor.

Everything that trains, serves, evaluates or transforms a model builds on this package.
"""
