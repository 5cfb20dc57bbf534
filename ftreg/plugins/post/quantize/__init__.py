"""Step ``quantize``: one file a library that quantizes, and the step, which chooses between them."""
