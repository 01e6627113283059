"""The perpetual task: contract, unit, discovery, cadence, items."""
