"""What a worker notes of a delivery, in the request that goes to whoever runs the task."""

from __future__ import annotations

#: Where a request keeps what its receiving worker knows of its delivery.
OF_DELIVERY = NONCE, TAG, COPY, STRUCK = "perpetual_nonce", "perpetual_tag", "perpetual_copy", "perpetual_struck"

#: With which step its message is struck off the broker's books, where a script does that.
AT_START, AT_END = "start", "end"
