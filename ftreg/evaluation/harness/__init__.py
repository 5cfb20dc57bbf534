"""EleutherAI's lm-eval harness on ftreg's engines. Its modules, but for the settings, need the extra ``bench``."""
