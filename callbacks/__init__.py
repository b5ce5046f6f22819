"""Lightning callbacks: when to roll out, and what to show. Named by configs, imported by nothing in ``dydiff``."""
