"""What becomes of the dead: leases, received messages and lost messages of workers that are gone."""
