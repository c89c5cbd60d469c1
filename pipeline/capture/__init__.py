"""From documents to the rows of a work unit: recipe, plan, unit."""
