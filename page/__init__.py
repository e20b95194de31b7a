"""The page of app.py: what its buttons do (``actions``), visitors' sessions (``sessions``), its looks (``layout``)."""
