"""Synthesizers make trajectories of the learning policy; filters choose which of them to keep."""
