"""The HTTP application: checks requests, routes them to a variant, and answers in OpenAI's formats."""
