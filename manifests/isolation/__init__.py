"""Reads references in processes of their own, so that bad audio harms no neighbour.

pool.py ──► server.py ──► readers
(asks)      (imports      (one reference in hand, a deadline
             once, forks)  and a memory limit each)
"""
