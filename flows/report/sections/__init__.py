"""The parts of the page, one a file: findings in, a Section out."""
