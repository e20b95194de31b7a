"""Lip-sync live: prepare a face once, then push sound in and take finished frames out.

face = live.prepare(lips, "talk.mp4")  # face.save("anna"); later live.Face.load("anna")
with live.Session(lips, face) as session:
    ...  # session.push(samples), from any thread
    for frame in session.play():  # at the video's rate
        show(frame.picture)
"""

from live.face import Face, prepare
from live.session import Frame, Session

__all__ = ["Face", "Frame", "Session", "prepare"]
