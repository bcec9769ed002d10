"""A whole life of a small policy on one page: demonstrations, training, evaluation, a report.

`stages` does the work and can be interrupted anywhere, `film` records the episodes to watch, and
`page` writes what came of it as one HTML file, with the drawings of `figures`.
"""
