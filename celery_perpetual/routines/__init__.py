"""Routines: durable records of jobs that run once, at an interval or by a calendar."""
