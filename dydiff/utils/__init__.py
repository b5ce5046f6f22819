"""Tools for every other package. Nothing here knows about data, models or agents."""
