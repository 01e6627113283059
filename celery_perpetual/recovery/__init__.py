"""Recovery from deaths: leases, received messages and lost messages of workers that are gone."""
