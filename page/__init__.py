"""The page of app.py: what its buttons do (``actions``), for whom (``sessions``), and how it looks (``layout``)."""
