"""The end of a task: its record, its announcement, its batch."""
