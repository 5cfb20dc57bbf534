"""Serving: several versions as one deployment, with A/B routing, an OpenAI-compatible API and an experiment record."""
