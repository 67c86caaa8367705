"""Contrastive learning, swept with Hydra."""
