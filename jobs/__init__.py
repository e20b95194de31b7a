"""Lip-sync many faces and speeches in one run: pair them, name the results, and load the networks once.

    listed = jobs.settle(jobs.pair([Path("faces")], [Path("speech.wav")]), Path("results"))
    outcome = jobs.work_through(listed, LipSync())

A job that fails does not stop the others. Results already made from the same files and options are not made again.
"""

from .listing import Job, pair, settle
from .table import Row, read_table
from .working import Failure, Outcome, work_through

__all__ = ["Failure", "Job", "Outcome", "Row", "pair", "read_table", "settle", "work_through"]
