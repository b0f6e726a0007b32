"""What breaks in the field, done on purpose to real processes. Each test says what is done and which figure is asked.

Each has a short form and, by `--long`, one with the full figures. Short forms run with all other tests; those that take long
even so, marked `minutes`, where the command line names tests.
"""
