"""What breaks in the field, done on purpose to real processes. Each test says what is done and which figure is asked.

Each has a short form, which runs with all other tests, and a long one, with the full figures: `pytest tests/reliability --long`.
"""
