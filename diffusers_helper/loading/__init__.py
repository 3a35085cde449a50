"""From model files to modules: which parts there are, and how their weights get where they stay."""
