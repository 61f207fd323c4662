"""From exact sums to what a scientist reads: one module a family, each with its formula, units and source."""
