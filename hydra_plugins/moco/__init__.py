"""What Hydra insists on finding here: the launchers and the sweeper."""
