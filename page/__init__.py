"""The page of app.py: what its buttons do (``actions``), for whom (``sessions``), how it looks (``layout``)."""
