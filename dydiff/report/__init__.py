"""From the logs of runs to tables, intervals and curves."""
