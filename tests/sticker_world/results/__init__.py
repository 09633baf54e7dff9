"""What the methods do in Sticker World, on one page: `python dev.py results` writes docs/results.md and its plots.

scores.py judges pictures, pictures.py makes them and keeps them, page.py and plots.py show them. Each experiment is a
file with `measure`, which yields its tables, and `plots`, which draws what the tables of the page say: so the page can
be measured part by part.
"""
