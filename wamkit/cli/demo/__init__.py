"""A whole life of a small policy on one page: demonstrations, training, evaluation, a report.

`stages` does the work and can be interrupted anywhere, `page` writes what came of it as one HTML
file, `drawing` makes the images in it.
"""
