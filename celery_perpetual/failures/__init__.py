"""Failures: their class, how long to wait before the next try, and when to stop trying."""
