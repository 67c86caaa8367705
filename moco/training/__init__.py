"""Training and linear evaluation of one run: what an entry point or a job does."""
