"""The experiment: who meets which variant, what came of it, and what follows."""
