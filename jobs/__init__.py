"""Many faces and speeches at once: which with which, written where, and one network for all.

    listed = jobs.settle(jobs.pair([Path("faces")], [Path("speech.wav")]), Path("results"))
    outcome = jobs.work_through(listed, LipSync())

One that fails does not stop the others. What is made already, of the same files in the same way, is not made again.
"""

from .listing import Job, pair, settle
from .table import Row, read_table
from .working import Failure, Outcome, work_through

__all__ = ["Failure", "Job", "Outcome", "Row", "pair", "read_table", "settle", "work_through"]
