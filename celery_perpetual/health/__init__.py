"""Whether all is well: what is read of the whole, and the checks that judge it."""
