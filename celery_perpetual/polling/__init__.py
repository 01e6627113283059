"""The poll: from a due unit to a committed batch."""
