"""Summary table, statistics and figures of finished searches."""
