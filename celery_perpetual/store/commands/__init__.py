"""Everything that is read from the store, and the few writes that need no script; one module per subject.

Each function is one call, or one pipeline, and raises :class:`~celery_perpetual.errors.StoreUnavailable` where the
store does not do it. Whatever decides and writes is a script.
"""
