"""The schedulers that may be behind ours, one file each: what they share among beats, and how a beat takes the lead."""
