"""All reads of the store, and the few writes that need no script; one module per subject.

Each function is one call, or one pipeline, and raises :class:`~celery_perpetual.errors.StoreUnavailable` where the
store does not answer. A write that depends on a read is a script.
"""
