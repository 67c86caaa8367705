"""What Hydra insists on finding here: the launchers, the sweeper and the search path of sweeps/."""
