"""Many runs of one file: the grid, the runs on Ray Tune, their progress."""
