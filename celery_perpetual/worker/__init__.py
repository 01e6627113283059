"""The walk of a delivery through a worker, from the message that is received to the end that is announced."""
