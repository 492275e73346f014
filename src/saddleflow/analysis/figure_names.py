"""Names of the figures; light to import, since the Snakefile does so in every process."""

FIGURES = (
    "calls_by_method",
    "performance_profile",
    "calls_pairwise",
    "convergence_traces",
    "engine_surrogate_time",
)
"""Each is written as .svg and .png."""
